"""Parts of a store, in memory where they fit, with the derivatives that forces need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ampflow.dataset import Dataset, Derivatives, Structures
from ampflow.errors import DataError, OptionError
from ampflow.experiment import Training
from ampflow.fingerprints import GMP
from ampflow.images import Image
from ampflow.memory import fair_share, free_memory
from ampflow.store import FingerprintStore
from ampflow.stored import Stored

__all__ = ["differentiate", "load_part", "load_parts"]

_SAMPLE = 4  # structures whose derivatives are measured


def load_parts(
    store: FingerprintStore, parts: Sequence[NDArray[np.int64]], options: Training
) -> list[Structures]:
    """Return parts of a store for a training: in memory, or to be streamed where not all fit.

    Where they do not, those that take no more than half of the memory between them are in it,
    the smallest first: structures for validation lie far apart in a store, and reading them
    takes almost as long as reading all.

    Raises
    ------
    OptionError
        If they do not fit, and forces or a GPU need them in memory.
    StorageError
        If the store cannot be read.
    """
    indices = np.concatenate(list(parts))
    atoms = int(store.index.atoms[indices].sum())
    # In float64; standardised in the precision of the training; and the kernels' copy of that.
    bytes_each = 8 + 2 * np.dtype(options.precision).itemsize
    per_atom = bytes_each * len(store.header["features"])
    needed = float(per_atom * atoms)
    limit = 1e9 * options.memory or fair_share()
    what = "fingerprints"
    if options.differentiates and len(indices):
        needed += _derivatives(store, indices) * atoms
        limit, what = 1e9 * options.memory or free_memory(), "derivatives of fingerprints"
    if needed <= limit:
        return [load_part(store, part, options) for part in parts]
    if options.differentiates or options.device == "cuda":
        raise OptionError(
            f"{what} need {needed / 1e9:.1f} GB, and there are {limit / 1e9:.1f}: "
            "training on forces or on a GPU needs them in memory",
            "raise training.memory if there is more, or take fewer structures, fewer features or "
            "a shorter cutoff",
        )
    sizes = [per_atom * int(store.index.atoms[part].sum()) for part in parts]
    fitting = np.cumsum(np.sort(sizes)) <= limit / 2
    largest = np.sort(sizes)[fitting].max(initial=0)
    return [
        store.load(part) if size <= largest else Stored(store, part)
        for part, size in zip(parts, sizes, strict=True)
    ]


def _derivatives(store: FingerprintStore, indices: NDArray[np.int64]) -> float:
    """Estimate what derivatives take while they are made and trained on, in bytes an atom."""
    chosen = indices[np.linspace(0, len(indices) - 1, _SAMPLE).astype(int)]
    structures = [store.image(int(index)).atoms for index in np.unique(chosen)]
    found = differentiate(GMP.from_config(store.header["descriptor"]), structures)
    return 3.0 * found.values.nbytes / sum(map(len, structures))  # float64 is twice float32


def load_part(store: FingerprintStore, indices: NDArray[np.int64], options: Training) -> Dataset:
    """Read a part of a store, with the derivatives of its fingerprints if training needs them.

    They are not computed where the labels that they are for are missing: training will say so.

    Raises
    ------
    DataError
        If stresses are trained on, and a structure's cell has no volume.
    StorageError
        If the store cannot be read.
    """
    dataset, strained = store.load(indices), options.stress_weight > 0
    missing = (options.force_weight > 0 and dataset.forces is None) or (
        strained and dataset.stresses is None
    )
    if missing or not options.differentiates:
        return dataset
    images = [store.image(int(index)) for index in indices]
    structures = [image.atoms for image in images]
    if strained:
        _check_volumes(images)
    descriptor = GMP.from_config(store.header["descriptor"])
    return replace(dataset, derivatives=differentiate(descriptor, structures, strained=strained))


def _check_volumes(images: Sequence[Image]) -> None:
    for image in images:
        if image.atoms.cell.rank < 3:
            raise DataError(
                f"{image.file}, structure {image.index}: a stress, but no volume of the cell",
                "leave it out, or set stress_weight = 0",
            )


def differentiate(
    descriptor: GMP, structures: Sequence[Atoms], strained: bool = False
) -> Derivatives:
    """Return the derivatives of the fingerprints of some structures; by strain as well."""
    features, extra = descriptor.num_features, 2 if strained else 0
    counts: list[int] = []
    moved: list[NDArray[np.integer]] = []
    values: list[NDArray[np.float32]] = []
    for atoms in structures:
        if strained:
            jacobian, strains = descriptor.jacobians(atoms)
            strains = -strains.reshape(len(atoms), features, 2, 3) / atoms.get_volume()
        else:
            jacobian = descriptor.jacobian(atoms)
        rows = jacobian.indptr[::features]  # an atom's features depend on the same atoms
        for atom, (begin, end) in enumerate(pairwise(rows.tolist())):
            count = (end - begin) // (3 * features)
            counts.append(count + extra)
            moved.append(jacobian.indices[begin : begin + 3 * count : 3] // 3)
            block = jacobian.data[begin:end].reshape(features, count, 3)
            values.append(block.transpose(1, 2, 0).astype(np.float32))
            if strained:
                moved.append(len(atoms) + np.arange(2))
                values.append(strains[atom].transpose(1, 2, 0).astype(np.float32))
    return Derivatives(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.concatenate(moved).astype(np.int64),
        np.concatenate(values),
    )
