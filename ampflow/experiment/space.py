"""What may be searched: distributions, and the options that they are of."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from ampflow.experiment.fingerprints import Fingerprints, Order, Spaced
from ampflow.experiment.section import Section
from ampflow.experiment.training import Training

__all__ = ["Choices", "Distribution", "Range", "checked", "flat_space", "option_type"]


class Range(Section):
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


class Choices(Section):
    """Search a list of values."""

    choices: list[bool | int | float | str] = Field(min_length=1)


def _kind(value: Any) -> str:
    has_choices = "choices" in value if isinstance(value, dict) else isinstance(value, Choices)
    return "choices" if has_choices else "range"


Distribution = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_kind)
]


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
    "fingerprints.orders": Order,
}


def option_type(name: str) -> Any:
    """Return the type of an option that may be searched: int, float, bool, or one of words."""
    kind = _SEARCHABLE[name]
    return getattr(kind, "__origin__", kind) if hasattr(kind, "__metadata__") else kind


def checked(name: str, distribution: Distribution) -> Distribution:
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
