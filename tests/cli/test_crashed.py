"""Runs that were killed, in Prefect's eyes."""

from __future__ import annotations

from uuid import UUID

import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running

from ampflow.cli.crashed import tell_crashed


@flow(name="A flow")
def _flow() -> None:
    pass


@task(name="A task")
def _task() -> None:
    pass


def _begin(client: SyncPrefectClient, run: str) -> tuple[UUID, UUID]:
    """Have Prefect believe that a run is under way; return the numbers of its flow and task."""
    begun = client.create_flow_run(_flow, tags=[run], state=Running())
    step = client.create_task_run(_task, begun.id, dynamic_key="0", state=Running())
    return begun.id, step.id


def _states(client: SyncPrefectClient, ids: tuple[UUID, UUID]) -> tuple[str | None, str | None]:
    flow_run, task_run = client.read_flow_run(ids[0]), client.read_task_run(ids[1])
    return flow_run.state_name, task_run.state_name


def test_what_a_killed_run_left_running_is_crashed(served: dict[str, str]) -> None:
    # Its flows and tasks; those of another run go on.
    with (
        temporary_settings({PREFECT_API_URL: served["PREFECT_API_URL"]}),
        get_client(sync_client=True) as client,
    ):
        killed, other = _begin(client, "1125-120000-aaaa"), _begin(client, "1125-120000-bbbb")
        tell_crashed(["1125-120000-aaaa", "1125-110000-cccc"])
        assert _states(client, killed) == ("Crashed", "Crashed")
        assert _states(client, other) == ("Running", "Running")


def test_a_server_that_is_gone_ends_no_run(caplog: pytest.LogCaptureFixture) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        tell_crashed(["1125-120000-aaaa"])
    assert "not told" in caplog.text
