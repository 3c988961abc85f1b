"""The experiment file: every option, with its type, unit, default and meaning.

This is the only place where options and defaults live. `ampflow init`, the validation of a
file, `--set`, the form in Prefect's UI and the documentation are all made from these models.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

__all__ = [
    "Choices",
    "Data",
    "Distribution",
    "Experiment",
    "Fingerprints",
    "Range",
    "Spaced",
    "Split",
    "Training",
    "Tuning",
    "flat_space",
    "option_type",
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _option(default: Any, description: str, unit: str = "", **constraints: Any) -> Any:
    # The description of the schema, which forms show, has the unit as well.
    extra: JsonDict | None = (
        {"unit": unit, "description": f"{description} Unit: {unit}."} if unit else None
    )
    return Field(default, description=description, json_schema_extra=extra, **constraints)


class Data(_Section):
    """Which structures."""

    files: list[str] = _option(
        [],
        "Files of structures with energies: anything ASE reads (.traj, .extxyz, .xyz, .db, "
        "OUTCAR, vasprun.xml), and globs. With [split] they are divided into train, "
        "validation and test.",
    )
    validation_files: list[str] = _option(
        [], "Files that are the validation part as they are, instead of a share of `files`."
    )
    test_files: list[str] = _option(
        [], "Files that are the test part as they are, instead of a share of `files`."
    )
    on_bad: Literal["error", "skip"] = _option(
        "error",
        "What to do with a structure that cannot be used (no energy, NaN, atoms on top of each "
        'other, ...): "error" stops, "skip" leaves it out and lists it in the report.',
    )
    min_distance: float = _option(
        0.4, "Two atoms nearer than this lie on top of each other.", "Å", ge=0.0
    )


class Spaced(_Section):
    """Some widths from the smallest to the largest, each wider than the last by the same factor."""

    number: int = Field(ge=1, le=64)
    smallest: float = Field(gt=0)
    largest: float = Field(gt=0)

    def widths(self) -> list[float]:
        """Return the widths in Å, to six digits: the same on every machine."""
        step = (self.largest / self.smallest) ** (1 / max(self.number - 1, 1))
        return [float(f"{self.smallest * step**k:.6g}") for k in range(self.number)]

    @classmethod
    def like(cls, widths: list[float]) -> Self:
        """Return as many widths with the same ends as a list."""
        return cls(number=len(widths), smallest=min(widths), largest=max(widths))

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.number > 1 and not self.smallest < self.largest:
            raise ValueError("smallest must be below largest")
        return self


# They tell the forms of an option apart, so that a mistake is explained for one of them.
def _of_sigmas(value: Any) -> str:
    return "spaced" if isinstance(value, dict | Spaced) else "list"


def _of_orders(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "highest"


_Widths = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
_Sigmas = Annotated[
    Annotated[_Widths, Tag("list")] | Annotated[Spaced, Tag("spaced")], Discriminator(_of_sigmas)
]
_Order = Annotated[int, Field(ge=0, le=8)]
_SomeOrders = Annotated[list[_Order], Field(min_length=1)]
_Orders = Annotated[
    Annotated[_SomeOrders, Tag("list")] | Annotated[_Order, Tag("highest")],
    Discriminator(_of_orders),
]


class Fingerprints(_Section):
    """Gaussian multipole (GMP) fingerprints; docs/fingerprints.md has the formulas."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        described = handler(schema)
        for option in handler.resolve_ref_schema(described)["properties"].values():
            if "oneOf" in option:  # forms know the other word alone
                option["anyOf"] = option.pop("oneOf")
        return described

    sigmas: _Sigmas = _option(
        [0.02, 0.2, 0.4, 0.69, 1.1, 1.66, 2.66, 4.4],
        "Widths of the Gaussian probes: a list, or { number, smallest, largest } for that many in "
        "a geometric series.",
        "Å",
    )
    orders: _Orders = _option(
        [0, 1, 2, 3],
        "Orders of the multipoles, 0 to 8: a list, or the highest one to have it and all below.",
    )
    order_sigmas: dict[_Order, _Widths] = _option(
        {},
        "Orders with widths of their own instead of `sigmas`, for instance { 3 = [0.69, 1.1] }.",
        "Å",
    )
    cutoff: float = _option(5.0, "Neighbours farther than this are ignored.", "Å", gt=0)
    switch_width: float = _option(
        0.0,
        "Neighbours fade over this last part of the cutoff, with two continuous derivatives, so "
        "that energies and forces are smooth; 0: a hard cutoff, as AMPTorch's, where energies jump "
        "when a wide probe's neighbour crosses it.",
        "Å",
        ge=0,
    )
    normalize: Literal["order", "group"] = _option(
        "order",
        '"order": one rotation-invariant feature an order (AMPTorch\'s GMPOrderNorm); "group": '
        "one a group of harmonics (AMPTorch's GMP, as AmpOpt used it; not invariant from order 2).",
    )
    harmonics: Literal["solid", "surface"] = _option(
        "solid",
        'Maxwell-Cartesian harmonics: "solid", or "surface" at radius `rs`. "group" '
        'normalisation is always "surface".',
    )
    rs: float = _option(1.0, "Radius of surface harmonics, in what `rs_setup` says.", gt=0)
    rs_setup: Literal["constant", "scale"] = _option(
        "constant", '"constant": `rs` is in Å; "scale": `rs` is in units of each sigma.'
    )
    square: bool = _option(False, "Keep the squared norm instead of its root.")
    densities: str = _option(
        "",
        "Folder of atomic densities in AMPTorch's format (`<El>_*.g`); empty: ampflow's own table.",
    )

    @model_validator(mode="after")
    def _fades_within_the_cutoff(self) -> Self:
        if self.switch_width > self.cutoff:
            raise ValueError(f"switch_width ({self.switch_width:g} Å) is above the cutoff")
        return self


class Split(_Section):
    """Three disjoint parts: train fits, validation scores trials, test is used once at the end."""

    strategy: Literal["random", "stratified"] = _option(
        "random", '"random", or "stratified": every composition is divided in the same proportions.'
    )
    train: float = _option(0.8, "Share of the structures to fit on.", gt=0, le=1)
    validation: float = _option(0.1, "Share to prune and score trials on.", ge=0, lt=1)
    test: float = _option(0.1, "Share to judge the winner on, once.", ge=0, lt=1)

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + validation + test must be 1, not {total:g}")
        return self


class Training(_Section):
    """One network (SingleNN): the same small network for every atom, summed to the energy."""

    num_layers: int = _option(3, "Hidden layers.", ge=1, le=50)
    num_nodes: int = _option(32, "Nodes in each hidden layer.", ge=1, le=4096)
    activation: Literal["tanh", "silu", "gelu", "relu"] = _option("silu", "Activation function.")
    dropout_rate: float = _option(
        0.0, "Share of nodes dropped in training after each hidden layer.", ge=0, lt=1
    )
    epochs: int = _option(100, "Passes over the train part, at most.", ge=1)
    patience: int = _option(
        0, "Stop after this many epochs without a better validation error; 0: never.", ge=0
    )
    batch_size: int = _option(
        16, "Structures, or atoms (`batch_unit`), a step of the optimiser.", ge=1
    )
    batch_unit: Literal["structures", "atoms"] = _option(
        "structures",
        'What `batch_size` counts. With "atoms" a batch has as many whole structures as fit, but '
        "at least one.",
    )
    loss: Literal["mae", "mse", "huber"] = _option(
        "mae",
        "What is made small: the mean absolute error of the energies per structure, the mean "
        "squared one, or Huber's, which is squared below `huber_delta` and linear above.",
    )
    huber_delta: float = _option(
        0.1, "Where Huber's loss becomes linear.", "eV, and eV/Å for forces", gt=0
    )
    force_weight: float = _option(
        0.0,
        "Adds this times the loss of the force components, a mean over each structure; 0: energies "
        "alone are trained on. Needs forces in every structure.",
        "Å",
        ge=0,
    )
    optimizer: Literal["adam", "adamw", "lbfgs"] = _option(
        "adam",
        "Adam, AdamW (with `weight_decay`), or L-BFGS: one step an epoch from the whole train "
        "part; lr, schedule, batches and clip do not apply to it.",
    )
    weight_decay: float = _option(
        0.01, "AdamW's: each step shrinks the weights by this times lr.", ge=0
    )
    lr: float = _option(1e-2, "Learning rate: at the start, or the highest of one-cycle.", gt=0)
    schedule: Literal["step", "cosine", "one-cycle", "plateau"] = _option(
        "step",
        "How the learning rate changes from epoch to epoch: times `gamma` every `step_size` "
        "epochs; down to 0 along a cosine; up for 30 % of the epochs and then down; or times "
        "`gamma` after `step_size` epochs without a better validation error.",
    )
    gamma: float = _option(
        0.7, "What the step and plateau schedules multiply the learning rate by.", gt=0, le=1
    )
    step_size: int = _option(
        15, "Epochs between two decays (step), or without improvement before one (plateau).", ge=1
    )
    clip: float = _option(
        0.0,
        "Gradients longer than this are shortened to it; 0: none is. In the loss's own unit, where "
        "energies are of order one.",
        ge=0,
    )
    ema_decay: float = _option(
        0.0,
        "Validate and keep a running average of the weights, in which each step's weigh one minus "
        "this (and more in the first steps); 0: the weights themselves.",
        ge=0,
        lt=1,
    )
    references: Literal["fit", "given", "none"] = _option(
        "fit",
        "Energies an element that are taken off before training: fitted to the train part by least "
        "squares, those of `reference_energies`, or none.",
    )
    ridge: float = _option(
        0.0,
        "Pulls fitted reference energies towards the mean energy per atom, most where compositions "
        "say least; 0: plain least squares.",
        ge=0,
    )
    precision: Literal["float32", "float64"] = _option(
        "float32", "Floating-point type of the network. Energies are always summed in float64."
    )
    device: Literal["auto", "cpu", "cuda"] = _option(
        "auto", '"auto": the CPU, which is faster for networks this small.'
    )
    checkpoint_seconds: float = _option(
        10.0, "A checkpoint is written at the first epoch's end after this long.", "seconds", ge=0
    )
    checkpoint_epochs: int = _option(
        0, "A checkpoint is also written every so many epochs; 0: only by the clock.", ge=0
    )
    # Last, since a file has it as a table of its own.
    reference_energies: dict[str, float] = _option(
        {}, 'Energy of each element, for references = "given".', "eV per atom"
    )

    @field_validator("reference_energies")
    @classmethod
    def _elements_exist(cls, energies: dict[str, float]) -> dict[str, float]:
        from ase.data import chemical_symbols

        if unknown := sorted(set(energies) - set(chemical_symbols[1:])):
            raise ValueError(f"no such element: {', '.join(unknown)}")
        return energies

    def decisive(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """Return the options that the result depends on, but for `exclude`, in JSON's types.

        Names of studies and trainings are made of these.
        """
        return self.model_dump(
            mode="json", exclude={"checkpoint_seconds", "checkpoint_epochs", *exclude}
        )


class Range(_Section):
    """Search between two bounds; whole numbers where the option is one."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.high:
            raise ValueError(f"low ({self.low:g}) must not be above high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError("log = true needs low > 0")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other")
        if self.step is not None and self.step <= 0:
            raise ValueError("step must be above 0")
        return self


class Choices(_Section):
    """Search a list of values."""

    choices: list[bool | int | float | str] = Field(min_length=1)


def _kind(value: Any) -> str:
    has_choices = "choices" in value if isinstance(value, dict) else isinstance(value, Choices)
    return "choices" if has_choices else "range"


Distribution = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_kind)
]

_SEARCHED = {
    "num_layers": Range(low=2, high=5),
    "num_nodes": Range(low=16, high=64, log=True),
    "dropout_rate": Choices(choices=[0.0, 0.05]),
    "lr": Range(low=1e-3, high=5e-2, log=True),
    "gamma": Range(low=0.5, high=1.0),
    "step_size": Range(low=10, high=50, log=True),
    "batch_size": Choices(choices=[8, 16, 32, 64]),
}


class Tuning(_Section):
    """The search for the best hyperparameters (Optuna)."""

    trials: int = _option(
        20, "Trials in the study, all runs together. Raise it and run again to add some.", ge=1
    )
    hours: float | None = _option(
        None,
        "End one run after this long; trials that are not finished by then keep their "
        "checkpoints, and the next run continues them. Omit it for no limit.",
        "hours",
        gt=0,
    )
    gpu_hours: float | None = _option(
        None,
        "End the study after its trainings have had a GPU this long, all runs and workers "
        "together; trainings on the CPU count nothing. Omit it for no limit.",
        "hours",
        gt=0,
    )
    sampler: Literal["tpe", "random", "cmaes", "gp", "qmc", "grid"] = _option(
        "tpe", "How the next hyperparameters are chosen."
    )
    pruner: Literal["none", "median", "halving", "hyperband"] = _option(
        "median",
        "How trials that fall behind on validation are stopped early: median rule, successive "
        "halving, Hyperband, or none.",
    )
    workers: int = _option(
        0,
        "Workers, each training one trial at a time; 0: one a core of this machine, or as many "
        "as the cluster's smallest number of jobs has.",
        ge=0,
    )
    storage: str = _option(
        "",
        "Where the study is kept: empty for a journal file in the cache folder, or the URL of a "
        "database (sqlite:///..., postgresql://user@host/name). A password belongs "
        "into the environment variable AMPFLOW_STORAGE_PASSWORD or a file, not here.",
    )
    space: dict[str, Distribution] = _option(
        _SEARCHED,
        "Options of [training] to search, the others stay as they are there. Each is a range, "
        "{ low, high, log, step }, or { choices }. What it names wins over the value there. "
        "Options of [fingerprints] are searched as fingerprints.cutoff, .switch_width, .normalize, "
        ".harmonics, .square, .rs, .rs_setup, .orders (the highest), .sigmas.number, "
        ".sigmas.smallest and .sigmas.largest.",
    )

    @field_validator("storage")
    @classmethod
    def _no_password(cls, url: str) -> str:
        # Options are shown by the report, by Prefect and by process lists.
        if re.search(r"://[^/@]*:[^/@]+@", url):
            raise ValueError(
                "it holds a password: put that into the environment variable "
                "AMPFLOW_STORAGE_PASSWORD, or into ~/.config/ampflow/storage-password (mode 600)"
            )
        return url

    @field_validator("space", mode="before")
    @classmethod
    def _space_isflat_space(cls, space: Any) -> Any:
        # `fingerprints.cutoff = ...` in a file is a table within a table.
        return flat_space(space) if isinstance(space, Mapping) else space

    @field_validator("space")
    @classmethod
    def _space_is_of_options(cls, space: dict[str, Distribution]) -> dict[str, Distribution]:
        return {name: _checked(name, distribution) for name, distribution in space.items()}

    @property
    def searches_fingerprints(self) -> bool:
        """Whether trials differ in their fingerprints."""
        return any(name.startswith("fingerprints.") for name in self.space)


_TABLES = ("fingerprints", "fingerprints.sigmas")


def flat_space(space: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a table of distributions with the tables in it joined: `fingerprints.cutoff`."""
    flat: dict[str, Any] = {}
    for key, item in space.items():
        name = prefix + key
        inner = name in _TABLES and isinstance(item, Mapping)
        flat |= flat_space(item, f"{name}.") if inner else {name: item}
    return flat


def _kinds(model: type[BaseModel], names: Collection[str], prefix: str = "") -> dict[str, Any]:
    """Return types of options, with their bounds."""
    fields = {name: model.model_fields[name] for name in names}
    return {
        prefix + name: Annotated[field.annotation, *field.metadata] if field.metadata
        else field.annotation
        for name, field in fields.items()
    }  # fmt: skip


_OF_FINGERPRINTS = ["cutoff", "switch_width", "normalize", "harmonics", "square", "rs", "rs_setup"]
_SEARCHABLE: dict[str, Any] = {
    **_kinds(Training, Training.model_fields),
    **_kinds(Fingerprints, _OF_FINGERPRINTS, "fingerprints."),
    **_kinds(Spaced, Spaced.model_fields, "fingerprints.sigmas."),
    "fingerprints.orders": _Order,
}


def option_type(name: str) -> Any:
    """Return the type of an option that may be searched: int, float, bool, or one of words."""
    kind = _SEARCHABLE[name]
    return getattr(kind, "__origin__", kind) if hasattr(kind, "__metadata__") else kind


def _checked(name: str, distribution: Distribution) -> Distribution:
    """Refuse a searched option that does not exist, or a value that it cannot have.

    Returns the distribution with choices of the option's type: a form that knows only one kind
    of number writes 0 for 0.0, which must not name another study.
    """
    if name not in _SEARCHABLE:
        known = ", ".join(known for known in _SEARCHABLE if known.startswith("fingerprints."))
        if name.startswith("fingerprints"):
            raise ValueError(f"space.{name}: it cannot be searched, but {known} can be")
        raise ValueError(f"space.{name}: no such option of [training]")
    if isinstance(distribution, Range):
        if option_type(name) not in (int, float):
            raise ValueError(f"space.{name}: not a number, so give {{ choices = [...] }}")
        _values(name, [distribution.low, distribution.high])
        return distribution
    return Choices(choices=_values(name, distribution.choices))


def _values(name: str, values: list[Any]) -> list[Any]:
    """Return values of an option as the option has them."""
    adapter, checked = TypeAdapter(_SEARCHABLE[name]), []
    for value in values:
        try:
            checked.append(adapter.validate_python(value))
        except ValidationError as error:
            raise ValueError(f"space.{name} = {value}: {error.errors()[0]['msg']}") from None
    return checked


class Experiment(_Section):
    """A whole experiment: data, fingerprints, split, training, tuning."""

    seed: int = _option(0, "Seed of the split, the sampler and every training.", ge=0)
    out: str = _option("ampflow-results", "Folder for the report, the model and the tables.")
    cache: str = _option(
        "", "Folder for fingerprints, studies and checkpoints; empty: `cache` inside `out`."
    )
    cluster: str = _option(
        "",
        "Whose jobs do the work: a profile of `ampflow clusters`, or a file of one (.toml). "
        "Empty: this machine does it.",
    )
    data: Data = Data()
    fingerprints: Fingerprints = Fingerprints()
    split: Split = Split()
    training: Training = Training()
    tuning: Tuning = Tuning()

    @model_validator(mode="after")
    def _fingerprints_fit(self) -> Self:
        """Refuse a space in which some trials would have impossible fingerprints."""
        space, given = self.tuning.space, self.fingerprints
        sigmas = given.sigmas if isinstance(given.sigmas, Spaced) else Spaced.like(given.sigmas)
        number = _ends("fingerprints.sigmas.number", space, sigmas.number)[1]
        smallest = _ends("fingerprints.sigmas.smallest", space, sigmas.smallest)[1]
        largest = _ends("fingerprints.sigmas.largest", space, sigmas.largest)[0]
        searched = any(name.startswith("fingerprints.sigmas.") for name in space)
        if searched and number > 1 and not smallest < largest:
            raise ValueError(
                f"tuning.space: fingerprints.sigmas.smallest is up to {smallest:g} Å, but "
                f"fingerprints.sigmas.largest may be {largest:g} Å"
            )
        width = _ends("fingerprints.switch_width", space, given.switch_width)[1]
        cutoff = _ends("fingerprints.cutoff", space, given.cutoff)[0]
        if width > cutoff:
            raise ValueError(
                f"tuning.space: fingerprints.switch_width is up to {width:g} Å, but "
                f"fingerprints.cutoff may be {cutoff:g} Å"
            )
        return self


def _ends(name: str, space: Mapping[str, Distribution], value: float) -> tuple[float, float]:
    """Return the least and the greatest value of an option in any trial."""
    item = space.get(name)
    if item is None:
        return value, value
    values = [item.low, item.high] if isinstance(item, Range) else [float(x) for x in item.choices]
    return min(values), max(values)
