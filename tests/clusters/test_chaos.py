"""Everything that can be killed is killed, at random, for three minutes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import pytest
from private_slurm import wait_for
from site_user import SiteUser

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SECONDS = 180.0  # of killing
PAUSES = (4.0, 12.0)  # seconds between two kills
WEIGHTS = {"worker": 5, "job cancelled": 2, "job killed": 1, "driver": 1}
TRIALS, EPOCHS = 4, 5000


class Killer:
    """Kills workers, jobs and drivers of a user's run, and says so."""

    def __init__(self, user: SiteUser, seed: int) -> None:
        self._user, self._random = user, random.Random(seed)
        self._start = time.monotonic()
        self.kills = dict.fromkeys(WEIGHTS, 0)

    @property
    def is_over(self) -> bool:
        """Whether the time of killing is over."""
        return time.monotonic() - self._start > SECONDS

    def strike(self, run: subprocess.Popen[str]) -> None:
        """Wait a moment, then kill something; nothing if there is none of what was drawn."""
        if sum(self.kills.values()) % 2:  # the others strike whatever there is, as it starts, say
            self._wait_for_progress(run)
        time.sleep(self._random.uniform(*PAUSES))
        kind, workers = self._next(), self._user.slurm.workers()
        # Without workers a driver waits for its jobs: killed again and again it gets nowhere.
        found = {"worker": workers, "driver": [run] if workers else []}.get(kind)
        if found is None:
            found = self._user.slurm.queue("RUNNING")
        if not found or run.poll() is not None:
            return
        victim = self._random.choice(found)
        match kind:
            case "worker":
                victim.kill()
            case "job cancelled":
                self._user.slurm.cancel(victim)
            case "job killed":
                self._user.slurm.kill(victim)
            case _:
                victim.send_signal(signal.SIGKILL)
                victim.wait()
        self.kills[kind] += 1
        _say(f"{time.monotonic() - self._start:5.0f} s: {kind}, {getattr(victim, 'pid', victim)}")

    def _wait_for_progress(self, run: subprocess.Popen[str]) -> None:
        """Wait until some trial came farther than it was."""
        before = self._user.epochs()
        wait_for("progress", lambda: run.poll() is not None or self._user.epochs() != before)

    def _next(self) -> str:
        """Draw what to kill: everything once, then by weight."""
        if never := [kind for kind, count in self.kills.items() if not count]:
            return self._random.choice(never)
        return self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def test_chaos(user: SiteUser) -> None:
    # Whatever is killed, the same command finishes the study: every trial is trained to its end,
    # told once, and nothing that was in a checkpoint is trained again.
    name, trials = user.profile("mine"), TRIALS
    killer = Killer(user, seed=0)
    run = user.start(*user.tuning(name, trials=trials, epochs=EPOCHS))
    saved: dict[str, list[float]] = {}
    while not killer.is_over:
        killer.strike(run)
        for trial, seconds in user.epochs().items():
            saved[trial] = max(saved.get(trial, []), seconds, key=len)
        if run.poll() is None:
            continue
        code, said = user.end(run)
        assert code in (0, -signal.SIGKILL), said
        trials += TRIALS if code == 0 else 0  # there is always something to do
        run = user.start(*user.tuning(name, trials=trials, epochs=EPOCHS))
    code, said = user.end(run)
    assert code == 0, said
    _say(f"{trials} trials, killed: {killer.kills}")
    assert all(killer.kills.values())
    user.check_study(trials=trials, epochs=EPOCHS)
    user.check_continued(saved)
    user.check_nothing_left()
