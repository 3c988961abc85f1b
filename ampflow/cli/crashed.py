"""Runs that were killed, as Prefect shows them: a driver cannot tell of its own SIGKILL."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

__all__ = ["tell_crashed"]

_log = logging.getLogger(__name__)
_MESSAGE = "Its driver was killed. The same command goes on from there."


def tell_crashed(names: Sequence[str]) -> None:
    """Have Prefect show as crashed what it believes to be running of the runs of these names."""
    if not names:
        return
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
    from prefect.exceptions import PrefectException
    from prefect.states import Crashed

    under_way = {"type": {"any_": ["PENDING", "RUNNING"]}}
    tagged = {"tags": {"any_": list(names)}}
    state: Any = Crashed(message=_MESSAGE)
    try:
        with get_client(sync_client=True) as client:
            wanted = FlowRunFilter.model_validate(tagged | {"state": under_way})
            flows = client.read_flow_runs(flow_run_filter=wanted)
            tasks = client.read_task_runs(
                flow_run_filter=FlowRunFilter.model_validate(tagged),
                task_run_filter=TaskRunFilter.model_validate({"state": under_way}),
            )
            for task in tasks:
                client.set_task_run_state(task.id, state, force=True)
            for flow in flows:
                client.set_flow_run_state(flow.id, state, force=True)
    except (httpx.HTTPError, PrefectException) as error:
        # A page that says less is no reason not to run.
        _log.warning("Prefect was not told of killed runs: %s", error)
