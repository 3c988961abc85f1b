"""What a section of an experiment is, and how its options are declared."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

__all__ = ["Section", "option"]


class Section(BaseModel):
    """A section refuses options that it does not know, and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def option(default: Any, description: str, unit: str = "", **constraints: Any) -> Any:
    """Declare an option of a section.

    Parameters
    ----------
    default
        Its value where the file names none.
    description
        What it means, in a sentence or two for the user.
    unit
        Of its value, if it has one.
    constraints
        Bounds, as `pydantic.Field` takes them.
    """
    # The description of the schema, which forms show, has the unit as well.
    extra: JsonDict | None = (
        {"unit": unit, "description": f"{description} Unit: {unit}."} if unit else None
    )
    return Field(default, description=description, json_schema_extra=extra, **constraints)
