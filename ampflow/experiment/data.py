"""Options of [data] and [split]."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from ampflow.experiment.section import Section, option

__all__ = ["Data", "Split"]


class Data(Section):
    """Which structures."""

    files: list[str] = option(
        [],
        "Files of structures with energies: anything ASE reads (.traj, .extxyz, .xyz, .db, "
        "OUTCAR, vasprun.xml), and globs. With [split] they are divided into train, "
        "validation and test.",
    )
    validation_files: list[str] = option(
        [], "Files that are the validation part as they are, instead of a share of `files`."
    )
    test_files: list[str] = option(
        [], "Files that are the test part as they are, instead of a share of `files`."
    )
    on_bad: Literal["error", "skip"] = option(
        "error",
        "What to do with a structure that cannot be used (no energy, NaN, atoms on top of each "
        'other, ...): "error" stops, "skip" leaves it out and lists it in the report.',
    )
    min_distance: float = option(
        0.4, "Two atoms nearer than this lie on top of each other.", "Å", ge=0.0
    )


class Split(Section):
    """Three disjoint parts: train fits, validation scores trials, test is used once at the end."""

    strategy: Literal["random", "stratified"] = option(
        "random", '"random", or "stratified": every composition is divided in the same proportions.'
    )
    train: float = option(0.8, "Share of the structures to fit on.", gt=0, le=1)
    validation: float = option(0.1, "Share to prune and score trials on.", ge=0, lt=1)
    test: float = option(0.1, "Share to judge the winner on, once.", ge=0, lt=1)

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + validation + test must be 1, not {total:g}")
        return self
