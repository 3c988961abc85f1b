"""What AMPTorch needs to train the network of a potential again: a configuration and its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from pprint import pformat
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from ampflow.errors import OptionError
from ampflow.experiment.backends import refuse_for_amptorch
from ampflow.files import atomic_path
from ampflow.images import Image
from ampflow.potential.amptorch.compat import require_amptorch, warn_of_defects
from ampflow.potential.amptorch.config import make_config
from ampflow.potential.amptorch.lmdb_files import write_lmdb
from ampflow.potential.model import Potential

__all__ = ["amptorch_descriptor", "export"]

_LMDB = "structures.lmdb"
_HEAD = '''"""AMPTorch's configuration of a network that ampflow trained; here: python config.py

The energies in {lmdb} are less these reference energies (eV per atom), which AMPTorch does not add.
{references}
"""

import torch

config = {config}

if __name__ == "__main__":
    # With the patches that AMPTorch needs on today's libraries.
    from ampflow.potential.amptorch.compat import load_amptorch

    load_amptorch().AtomsTrainer(config).train()
'''


def export(potential: Potential, images: Sequence[Image], folder: Path) -> None:
    """Write `config.py`, `structures.lmdb` and densities to `folder`, replacing what is there.

    The last tenth of the structures is the configuration's validation part. Fingerprints and
    energies are scaled as the potential's own.

    Raises
    ------
    OptionError
        If AMPTorch is not installed, or has not what the potential was trained with.
    DataError
        If an element was not in the train part.
    """
    require_amptorch()
    warn_of_defects()
    try:
        refuse_for_amptorch({name: [value] for name, value in potential.options})
    except ValueError as error:
        raise OptionError(f"the potential was trained with what AMPTorch lacks: {error}") from None
    descriptor = amptorch_descriptor(potential.descriptor, folder.resolve() / "densities")
    bare, fit = potential.dataset([image.atoms for image in images]), potential.fit
    dataset = replace(bare, energies=np.array([image.energy for image in images]))
    targets = dataset.energies - fit.references.of(dataset)
    with atomic_path(folder, folder=True) as part:
        (part / "densities").mkdir(parents=True)
        for symbol, rows in potential.descriptor["densities"].items():
            lines = "".join(f"{amplitude!r} {exponent!r}\n" for amplitude, exponent in rows)
            (part / "densities" / f"{symbol}_density.g").write_text(lines, encoding="utf-8")
        write_lmdb(
            part / _LMDB, dataset, targets, fit.scaler, fit.references.elements, descriptor,
            potential.options.precision,
        )  # fmt: skip
        (part / "config.py").write_text(_text(potential, len(dataset)), encoding="utf-8")


def _text(potential: Potential, count: int) -> str:
    seed = int(potential.provenance.get("seed", 0))
    config = make_config(potential.options, seed, [_LMDB], (count // 10, count), "./")
    references = potential.fit.references
    pairs = zip(references.elements.tolist(), references.energies.tolist(), strict=True)
    energies = {chemical_symbols[number]: energy for number, energy in pairs}
    config_text = pformat(config, sort_dicts=False)
    return _HEAD.format(lmdb=_LMDB, references=pformat(energies), config=config_text)


def amptorch_descriptor(config: dict[str, Any], densities: Path) -> tuple[str, Any, Any]:
    """Return a descriptor (`GMP.config()`) as AMPTorch describes one.

    Parameters
    ----------
    densities
        Folder where the densities will be: AMPTorch reads them whenever it opens a file.

    Raises
    ------
    OptionError
        If AMPTorch has no such descriptor.
    """
    orders = [int(order) for order in config["orders"]]
    if config["switch_width"]:
        raise OptionError("fingerprints.switch_width: AMPTorch's cutoff is hard", "set it to 0")
    if config["normalize"] == "group":
        raise OptionError('fingerprints.normalize = "group" is not exported', 'use "order"')
    sigmas = config["sigmas"]
    widths = sigmas if isinstance(sigmas, dict) else dict.fromkeys(orders, sigmas)
    setup, radius = config.get("rs_setup", "constant"), config.get("rs", 1.0)
    rs = {"scale_factor": radius} if setup == "scale" else {"rs": radius}
    parameters = {
        "MCSHs_detailed_list": [
            {"order": order, "sigmas": list(widths.get(order) or widths[str(order)])}
            for order in orders
        ],
        "cutoff": config["cutoff"],
        "solid_harmonics": config["harmonics"] == "solid",
        "square": config["square"],
        "rs_setup": {"setup": setup, **rs},
        "atom_gaussians": {
            symbol: str(densities / f"{symbol}_density.g") for symbol in config["densities"]
        },
    }
    return ("gmpordernorm", parameters, {})
