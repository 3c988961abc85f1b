"""Options of [training]."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from ampflow.experiment.backends import refuse_for_amptorch
from ampflow.experiment.section import Section, option

__all__ = ["Training"]


class Training(Section):
    """Small networks for atoms, summed to the energy."""

    network: Literal["single", "per-element"] = option(
        "single",
        '"single": one network for the atoms of every element (SingleNN); "per-element": one for '
        "those of each (Behler and Parrinello).",
    )
    num_layers: int = option(3, "Hidden layers.", ge=1, le=50)
    num_nodes: int = option(32, "Nodes in each hidden layer.", ge=1, le=4096)
    activation: Literal["tanh", "silu", "gelu", "relu"] = option("silu", "Activation function.")
    dropout_rate: float = option(
        0.0, "Share of nodes dropped in training after each hidden layer.", ge=0, lt=1
    )
    epochs: int = option(100, "Passes over the train part, at most.", ge=1)
    patience: int = option(
        0, "Stop after this many epochs without a better validation error; 0: never.", ge=0
    )
    batch_size: int = option(
        16, "Structures, or atoms (`batch_unit`), a step of the optimiser.", ge=1
    )
    batch_unit: Literal["structures", "atoms"] = option(
        "structures",
        'What `batch_size` counts. With "atoms" a batch has as many whole structures as fit, but '
        "at least one.",
    )
    loss: Literal["mae", "mse", "huber"] = option(
        "mae",
        "What is made small: the mean absolute error of the energies per structure, the mean "
        "squared one, or Huber's, which is squared below `huber_delta` and linear above.",
    )
    huber_delta: float = option(
        0.1, "Where Huber's loss becomes linear.", "eV, eV/Å for forces, eV/Å³ for stresses", gt=0
    )
    force_weight: float = option(
        0.0,
        "Adds this times the loss of the force components, a mean over each structure; 0: energies "
        "alone are trained on. Needs forces in every structure.",
        "Å",
        ge=0,
    )
    stress_weight: float = option(
        0.0,
        "Adds this times the loss of the stress components, a mean over the six of each structure; "
        "0: no stresses are trained on. Needs a stress in every structure.",
        "Å³",
        ge=0,
    )
    optimizer: Literal["adam", "adamw", "lbfgs"] = option(
        "adam",
        "Adam, AdamW (with `weight_decay`), or L-BFGS: one step an epoch from the whole train "
        "part; lr, schedule, batches and clip do not apply to it.",
    )
    weight_decay: float = option(
        0.01, "AdamW's: each step shrinks the weights by this times lr.", ge=0
    )
    lr: float = option(1e-2, "Learning rate: at the start, or the highest of one-cycle.", gt=0)
    schedule: Literal["step", "cosine", "one-cycle", "plateau"] = option(
        "step",
        "How the learning rate changes from epoch to epoch: times `gamma` every `step_size` "
        "epochs; down to 0 along a cosine; up for 30 % of the epochs and then down; or times "
        "`gamma` after `step_size` epochs without a better validation error.",
    )
    gamma: float = option(
        0.7, "What the step and plateau schedules multiply the learning rate by.", gt=0, le=1
    )
    step_size: int = option(
        15, "Epochs between two decays (step), or without improvement before one (plateau).", ge=1
    )
    clip: float = option(
        0.0,
        "Gradients longer than this are shortened to it; 0: none is. In the loss's own unit, where "
        "energies are of order one.",
        ge=0,
    )
    ema_decay: float = option(
        0.0,
        "Validate and keep a running average of the weights, in which each step's weigh one minus "
        "this (and more in the first steps); 0: the weights themselves.",
        ge=0,
        lt=1,
    )
    references: Literal["fit", "given", "none"] = option(
        "fit",
        "Energies an element that are taken off before training: fitted to the train part by least "
        "squares, those of `reference_energies`, or none.",
    )
    ridge: float = option(
        0.0,
        "Pulls fitted reference energies towards the mean energy per atom, most where compositions "
        "say least; 0: plain least squares.",
        ge=0,
    )
    precision: Literal["float32", "float64"] = option(
        "float32", "Floating-point type of the network. Energies are always summed in float64."
    )
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", '"auto": the CPU, which is faster for networks this small.'
    )
    memory: float = option(
        0.0,
        "What the fingerprints of a training may take in memory; where they need more those of the "
        "train part are read from the store in every epoch, which changes no result. 0: half of a "
        "core's share of the memory.",
        "GB",
        ge=0,
    )
    checkpoint_seconds: float = option(
        10.0, "A checkpoint is written at the first epoch's end after this long.", "seconds", ge=0
    )
    checkpoint_epochs: int = option(
        0, "A checkpoint is also written every so many epochs; 0: only by the clock.", ge=0
    )
    backend: Literal["ampflow", "amptorch"] = option(
        "ampflow",
        'Who trains: "ampflow", or "amptorch", the program of that name, for comparison: it has to '
        "be installed, and lacks some of the options.",
    )
    # Last, since a file has it as a table of its own.
    reference_energies: dict[str, float] = option(
        {}, 'Energy of each element, for references = "given".', "eV per atom"
    )

    @field_validator("reference_energies")
    @classmethod
    def _elements_exist(cls, energies: dict[str, float]) -> dict[str, float]:
        from ase.data import chemical_symbols

        if unknown := sorted(set(energies) - set(chemical_symbols[1:])):
            raise ValueError(f"no such element: {', '.join(unknown)}")
        return energies

    @model_validator(mode="after")
    def _backend_has_all(self) -> Self:
        if self.backend == "amptorch":
            refuse_for_amptorch({name: [value] for name, value in self})
        return self

    @property
    def differentiates(self) -> bool:
        """Whether training needs the derivatives of the fingerprints."""
        return self.force_weight > 0 or self.stress_weight > 0

    def decisive(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """Return the options that the result depends on, but for `exclude`, in JSON's types.

        Names of studies and trainings are made of these.
        """
        return self.model_dump(
            mode="json", exclude={"memory", "checkpoint_seconds", "checkpoint_epochs", *exclude}
        )
