"""What one training does at each tick of a stack: which structures, and by which rule.

A tick takes a fixed number of atoms and structures of each training, whole structures of one
batch. A batch is as many ticks as it needs; the last of them makes the step. So trainings with
batches of any size go on side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ampflow.compiled import called, entry
from ampflow.potential.engine import BETA1, BETA2, Samples

__all__ = ["MEASURED", "STRUCTURES", "TRAINED", "Number", "Ticks"]
__all__ += ["adam_numbers", "atoms_of_tick", "cut"]

STRUCTURES = 32  # in a tick, at most
_ATOMS = 512  # in a tick, unless a structure is larger
TRAINED, MEASURED = 1, 2


class Number(IntEnum):
    """Columns of `Ticks.numbers`."""

    KIND = 0  # TRAINED, MEASURED, or 0: nothing
    STEP = 1  # 1 where a step is made at the end
    JUDGED = 2  # 1 where the running average is measured
    LAYERS = 3
    ACTIVATION = 4
    LOSS = 5
    DELTA = 6
    FIRST = 7  # atoms before, in this epoch
    KEY = 8
    DROPOUT = 9
    RATE = 10  # lr / (1 - beta1^step)
    LARGER = 11  # 1 / sqrt(1 - beta2^step)
    KEPT = 12  # of the weights: 1 - lr decay
    CLIP = 13
    OLD = 14  # share of the running average that stays


@dataclass
class Ticks:
    """Ticks one after the other.

    Parameters
    ----------
    atoms
        (ticks, atoms) rows of the features; the row after the last is of zeros.
    owners
        (ticks, atoms) each atom's structure in the tick; `STRUCTURES` for none.
    targets, shares
        (ticks, STRUCTURES) targets, and what each structure weighs in its batch's loss.
    numbers
        (ticks, len(Number)).
    """

    atoms: NDArray[np.int64]
    owners: NDArray[np.int64]
    targets: NDArray[np.float64]
    shares: NDArray[np.float64]
    numbers: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.atoms)

    def then(self, others: Ticks) -> Ticks:
        """Return these ticks and `others` after them."""
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return Ticks(*(np.concatenate(pair) for pair in pairs))


def atoms_of_tick(*parts: Samples) -> int:
    """Return how many atoms a tick has room for: a multiple of 16 that holds any structure."""
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    wanted = max(int(sizes.max()), min(_ATOMS, int(STRUCTURES * sizes.mean())))
    return -(-wanted // 16) * 16


def cut(
    part: Samples,
    order: NDArray[np.int64],
    ends: NDArray[np.int64],
    room: int,
    rows: tuple[int, int],
) -> Ticks:
    """Cut batches of `order`, which end at `ends`, into ticks of at most `room` atoms.

    Steps are marked, and atoms before each tick counted; all other numbers are 0.

    Parameters
    ----------
    rows
        Of the part's first atom in the features, and of zeros.

    Raises
    ------
    ValueError
        If a structure does not fit into a tick.
    """
    stops, lasts = np.zeros(len(order), np.int64), np.zeros(len(order), np.int64)
    offsets = part.offsets.copy()  # never read-only: numba would compile for that apart
    count = int(called(_stops, offsets, order, ends, room, stops, lasts))
    if count < 0:
        raise ValueError(f"a structure has more than the {room} atoms of a tick")
    stops, lasts = stops[:count], lasts[:count]
    atoms = np.full((count, room), rows[1])
    owners = np.full((count, room), STRUCTURES)
    numbers = np.zeros((count, len(Number)))
    called(_fill, offsets, order, stops, rows[0], atoms, owners)
    numbers[:, Number.STEP] = lasts
    seen = np.cumsum((owners < STRUCTURES).sum(axis=1))
    numbers[1:, Number.FIRST] = seen[:-1]
    targets, shares = np.zeros((2, count, STRUCTURES))
    ticks = np.repeat(np.arange(count), np.diff(stops, prepend=0))
    places = np.arange(len(order)) - np.concatenate([[0], stops[:-1]])[ticks]
    targets[ticks, places] = part.targets[order]
    sizes = np.diff(ends, prepend=0)
    shares[ticks, places] = np.repeat(1 / sizes, sizes)
    return Ticks(atoms, owners, targets, shares, numbers)


def adam_numbers(
    numbers: NDArray[np.float64], steps: int, lr: float, decay: float, ema_decay: float
) -> None:
    """Fill in the numbers of Adam for ticks after so many `steps`."""
    step = steps + np.cumsum(numbers[:, Number.STEP])
    step = np.maximum(step, 1)
    numbers[:, Number.RATE] = lr / (1 - BETA1**step)
    numbers[:, Number.LARGER] = 1 / np.sqrt(1 - BETA2**step)
    numbers[:, Number.KEPT] = 1 - lr * decay
    numbers[:, Number.OLD] = np.minimum(ema_decay, step / (9 + step))


@entry
def _stops(
    offsets: NDArray[np.int64],
    order: NDArray[np.int64],
    ends: NDArray[np.int64],
    room: int,
    stops: NDArray[np.int64],
    lasts: NDArray[np.int64],
) -> int:
    """Find where each tick ends in `order`, and whether it ends a batch; return their number.

    A structure has to fit into the room of a tick: -1 where one does not.
    """
    count, place = 0, 0
    for end in ends:
        while place < end:
            atoms, first = 0, place
            while place < end and place - first < STRUCTURES:
                atoms += offsets[order[place] + 1] - offsets[order[place]]
                if atoms > room:
                    break
                place += 1
            if place == first:
                return -1
            stops[count], lasts[count] = place, place == end
            count += 1
    return count


@entry
def _fill(
    offsets: NDArray[np.int64],
    order: NDArray[np.int64],
    stops: NDArray[np.int64],
    first: int,
    atoms: NDArray[np.int64],
    owners: NDArray[np.int64],
) -> None:
    place = 0
    for tick in range(len(stops)):
        column, owner = 0, 0
        while place < stops[tick]:
            for row in range(offsets[order[place]], offsets[order[place] + 1]):
                atoms[tick, column], owners[tick, column] = first + row, owner
                column += 1
            place, owner = place + 1, owner + 1
