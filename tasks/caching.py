"""Content-addressed caching: a step whose artifact exists is not run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ParamSpec

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from ampflow.errors import AmpflowError, StorageError
from ampflow.progress import watch

__all__ = ["STEP", "run_cached"]

P = ParamSpec("P")


def _may_pass(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Retry what may pass by itself (file systems, databases), not what the user has to mend."""
    error = state.data if isinstance(state.data, BaseException) else state.result(False)
    if isinstance(error, AmpflowError):
        return isinstance(error, StorageError) and error.fleeting
    return isinstance(error, OSError)


STEP: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _may_pass,
    "result_serializer": "json",  # the default is pickle
}
"""What all steps that touch files or databases have in common."""


def run_cached(
    step: Task[P, None],
    name: str,
    artifact: Path,
    folder: Path,
    whole: bool,
    *args: P.args,
    **kwargs: P.kwargs,
) -> Path:
    """Run `step`, which makes `artifact`, unless that was made before and is still whole.

    Parameters
    ----------
    name
        Named after everything that decides the artifact's content.
    artifact
        What the step makes; returned. (What Prefect remembers might be where it was once.)
    folder
        Where it is remembered that the step was run.
    whole
        Whether the artifact exists. If it is missing or damaged the step runs again.
    """
    state: State[None] = step.with_options(
        task_run_name=step.name,
        cache_key_fn=lambda context, parameters: f"{step.fn.__name__}-{name}",
        refresh_cache=not whole,
        persist_result=True,
        result_storage=folder,
    )(*args, return_state=True, **kwargs)
    if not state.is_completed():
        state.result()  # raises
    if state.name == "Cached":
        watch(step.name)(1, 1, "cached")
    return artifact
