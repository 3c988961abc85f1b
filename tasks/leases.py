"""Keeping workers at a study until it is finished, whatever becomes of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.states import Crashed

from ampflow.clusters.workers import Workers
from ampflow.errors import AmpflowError, StorageError
from ampflow.tuning.study import StudySpec, study_progress
from tasks.tuning import Shift, work

if TYPE_CHECKING:
    from prefect_dask.task_runners import PrefectDaskFuture

__all__ = ["keep_working"]

_log = logging.getLogger(__name__)
_LOOK = 0.2  # seconds between two looks at the workers
_TROUBLES = 5  # for each worker, one after the other, before a run gives up

_OTHERS_GO_ON = ("job over", "stopped")  # ends of a worker that are not those of the work

Future: TypeAlias = "PrefectDaskFuture[Shift]"


def keep_working(
    spec: StudySpec, names: Sequence[str], deadline: float | None, workers: Workers
) -> None:
    """Have as many workers as there are `names` train trials until the study is finished.

    A worker whose job ends, or that is killed or cannot reach the storage, is followed by
    another under the same name.

    Raises
    ------
    AmpflowError
        If the study cannot go on, jobs cannot work, or workers are killed or fail again and
        again while no trial comes any farther.
    """
    _Crew(spec, deadline, workers, len(names)).see_through(names)


class _Crew:
    def __init__(
        self, spec: StudySpec, deadline: float | None, workers: Workers, size: int
    ) -> None:
        self._spec, self._deadline, self._workers = spec, deadline, workers
        self._most = _TROUBLES * size
        self._troubles = 0
        self._progress: tuple[int, float] | None = None
        self._killed: set[str] = set()  # addresses

    def see_through(self, names: Sequence[str]) -> None:
        working = {name: self._begin(name) for name in names}
        while working:
            self._workers.scale(len(working))
            self._workers.check()
            for name, future in list(working.items()):
                if not future.wrapped_future.done():
                    continue
                if self._is_over(name, future):
                    del working[name]
                else:
                    working[name] = self._begin(name)
            time.sleep(_LOOK)

    def _begin(self, name: str) -> Future:
        return cast("Future", work.submit(self._spec, name, self._deadline))

    def _is_over(self, name: str, future: Future) -> bool:
        """Tell whether a worker that ended needs no successor."""
        from distributed.scheduler import KilledWorker

        try:
            shift = future.result()
        except KilledWorker as error:
            _log.warning("%s was killed", name)
            _tell_prefect(future)
            address = str(error.last_worker.address)
            if address not in self._killed:  # not once more for what waited for its turn there
                self._killed.add(address)
                self._count(_killed())
            return False
        except StorageError as error:
            if not error.fleeting:
                raise
            _log.warning("%s: %s", name, error.what)
            self._count(error)
            self._retire(getattr(error, "worker", ""))
            return False
        if shift["ended"] not in _OTHERS_GO_ON:
            return True
        self._retire(shift["address"])
        return False

    def _count(self, trouble: AmpflowError) -> None:
        progress = study_progress(self._spec)
        self._troubles = 1 if progress != self._progress else self._troubles + 1
        self._progress = progress
        if self._troubles >= self._most:
            raise trouble

    def _retire(self, address: str) -> None:
        if address:
            self._workers.retire(address)


def _killed() -> AmpflowError:
    return AmpflowError(
        "every tuning worker was killed, again and again",
        "is there enough memory? Fewer workers need less: --set tuning.workers=1",
    )


def _tell_prefect(future: Future) -> None:
    """Say in the UI that a worker was killed, which could not say so itself."""
    state: Any = Crashed(message="The worker was killed; another one goes on.")
    try:
        with get_client(sync_client=True) as client:
            client.set_task_run_state(future.task_run_id, state, force=True)
    except (httpx.HTTPError, PrefectException) as error:
        # A worker killed before it began is not known there; and a page that says less is no
        # reason to end the search.
        _log.warning("Prefect was not told of a killed worker: %s", error)
