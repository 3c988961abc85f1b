"""Options of [fingerprints]."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from ampflow.experiment.section import Section, option

__all__ = ["Fingerprints", "Order", "Spaced"]


class Spaced(Section):
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
Order = Annotated[int, Field(ge=0, le=8)]
_SomeOrders = Annotated[list[Order], Field(min_length=1)]
_Orders = Annotated[
    Annotated[_SomeOrders, Tag("list")] | Annotated[Order, Tag("highest")],
    Discriminator(_of_orders),
]


class Fingerprints(Section):
    """Gaussian multipole (GMP) fingerprints; docs/fingerprints.md has the formulas."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        described = handler(schema)
        for described_option in handler.resolve_ref_schema(described)["properties"].values():
            if "oneOf" in described_option:  # forms know the other word alone
                described_option["anyOf"] = described_option.pop("oneOf")
        return described

    sigmas: _Sigmas = option(
        [0.02, 0.2, 0.4, 0.69, 1.1, 1.66, 2.66, 4.4],
        "Widths of the Gaussian probes: a list, or { number, smallest, largest } for that many in "
        "a geometric series.",
        "Å",
    )
    orders: _Orders = option(
        [0, 1, 2, 3],
        "Orders of the multipoles, 0 to 8: a list, or the highest one to have it and all below.",
    )
    order_sigmas: dict[Order, _Widths] = option(
        {},
        "Orders with widths of their own instead of `sigmas`, for instance { 3 = [0.69, 1.1] }.",
        "Å",
    )
    cutoff: float = option(5.0, "Neighbours farther than this are ignored.", "Å", gt=0)
    switch_width: float = option(
        0.0,
        "Neighbours fade over this last part of the cutoff, with two continuous derivatives, so "
        "that energies and forces are smooth; 0: a hard cutoff, as AMPTorch's, where energies jump "
        "when a wide probe's neighbour crosses it.",
        "Å",
        ge=0,
    )
    normalize: Literal["order", "group"] = option(
        "order",
        '"order": one rotation-invariant feature an order (AMPTorch\'s GMPOrderNorm); "group": '
        "one a group of harmonics (AMPTorch's GMP, as AmpOpt used it; not invariant from order 2).",
    )
    harmonics: Literal["solid", "surface"] = option(
        "solid",
        'Maxwell-Cartesian harmonics: "solid", or "surface" at radius `rs`. "group" '
        'normalisation is always "surface".',
    )
    rs: float = option(1.0, "Radius of surface harmonics, in what `rs_setup` says.", gt=0)
    rs_setup: Literal["constant", "scale"] = option(
        "constant", '"constant": `rs` is in Å; "scale": `rs` is in units of each sigma.'
    )
    square: bool = option(False, "Keep the squared norm instead of its root.")
    densities: str = option(
        "",
        "Folder of atomic densities in AMPTorch's format (`<El>_*.g`); empty: ampflow's own table.",
    )

    @model_validator(mode="after")
    def _fades_within_the_cutoff(self) -> Self:
        if self.switch_width > self.cutoff:
            raise ValueError(f"switch_width ({self.switch_width:g} Å) is above the cutoff")
        return self
