"""Reading and writing experiment files (TOML)."""

from __future__ import annotations

import difflib
import textwrap
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ampflow.errors import OptionError
from ampflow.experiment import Experiment, Tuning, flat_space
from ampflow.files import explain_os_error

__all__ = ["load_experiment", "make_experiment", "render_experiment"]

# How pydantic names the form of a value within a location.
_FORMS = ("range", "choices", "list", "spaced", "highest")
_PATH_LISTS = ("files", "validation_files", "test_files")


def load_experiment(
    path: Path, overrides: Iterable[str] = (), changes: Mapping[str, Any] | None = None
) -> Experiment:
    """Read an experiment file; its paths are relative to its own folder.

    Parameters
    ----------
    path
        The TOML file.
    overrides
        Options to replace, as `section.option=value` with a TOML value; paths among them are
        relative to the current folder.
    changes
        More options to replace, as a table.

    Raises
    ------
    OptionError
        If the file is not TOML, or an option is unknown or has a wrong value.
    StorageError
        If the file cannot be read.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise explain_os_error(error, path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(
            f"{path}: not valid TOML: {error}", "ampflow init shows the form"
        ) from None
    table.setdefault("out", Experiment.model_fields["out"].default)
    _make_absolute(table, path.resolve().parent)
    return make_experiment(_merge(table, changes or {}), overrides, origin=str(path))


def make_experiment(
    table: Mapping[str, Any], overrides: Iterable[str] = (), origin: str = "experiment"
) -> Experiment:
    """Make an experiment from a table of options, with `overrides` (see `load_experiment`).

    Paths in the overrides are relative to the current folder, and so are those of the table.

    Raises
    ------
    OptionError
        If an option is unknown or has a wrong value.
    """
    table = dict(table)
    for override in overrides:
        table = _override(table, _parse_override(override))
    _make_absolute(table, Path.cwd())
    table.setdefault("out", str(Path.cwd() / Experiment.model_fields["out"].default))
    try:
        return Experiment.model_validate(table)
    except ValidationError as error:
        raise _explain(error, origin) from None


def _parse_override(override: str) -> dict[str, Any]:
    name, found, value = override.partition("=")
    if not found:
        raise OptionError(f"--set {override}: no '='", "--set tuning.trials=50")
    try:
        return tomllib.loads(f"{name.strip()} = {value.strip()}")
    except tomllib.TOMLDecodeError:
        try:  # a bare word is a string, so that the shell's quotes need no quotes of their own
            return tomllib.loads(f"{name.strip()} = {tomlkit.string(value.strip()).as_string()}")
        except tomllib.TOMLDecodeError:
            raise OptionError(
                f"--set {override}: not an option", "--set section.option=value"
            ) from None


def _override(table: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `change` in; an option that it sets is not searched any more."""
    if isinstance(tuning := change.get("tuning"), Mapping) and "space" in tuning:
        default = {"tuning": {"space": Tuning.model_fields["space"].default}}
        table = _merge(default, table) if "space" not in table.get("tuning", {}) else table
    merged = _merge(table, change)
    fixed = _fixed(change)
    if fixed:
        tuning = dict(merged.get("tuning", {}))
        space = flat_space(tuning.get("space", Tuning.model_fields["space"].default))
        tuning["space"] = {
            name: item
            for name, item in space.items()
            if not any(name == other or name.startswith(f"{other}.") for other in fixed)
        }
        merged["tuning"] = tuning
    return merged


def _fixed(change: Mapping[str, Any]) -> list[str]:
    """Return the names, as the space has them, of the options that `change` gives a value."""
    found = {"": change.get("training"), "fingerprints.": change.get("fingerprints")}
    tables = {prefix: table for prefix, table in found.items() if isinstance(table, Mapping)}
    return [prefix + name for prefix, table in tables.items() for name in table]


def _merge(table: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(table)
    for key, value in other.items():
        old = merged.get(key)
        # A distribution is replaced whole: half of one and half of another is neither.
        if isinstance(old, Mapping) and isinstance(value, Mapping) and not _is_distribution(value):
            value = _merge(old, value)
        merged[key] = value
    return merged


def _is_distribution(value: Mapping[str, Any]) -> bool:
    return not {"low", "high", "choices"}.isdisjoint(value)


def _make_absolute(table: dict[str, Any], folder: Path) -> None:
    """Anchor the paths of `table` at `folder`, leaving what has a wrong type to validation."""

    def anchor(path: Any) -> Any:
        return str(folder / Path(path).expanduser()) if isinstance(path, str) and path else path

    for key in ("out", "cache"):
        if key in table:
            table[key] = anchor(table[key])
    if str(table.get("cluster", "")).endswith(".toml"):
        table["cluster"] = anchor(table["cluster"])
    if isinstance(data := table.get("data"), dict):
        table["data"] = data | {
            key: [anchor(path) for path in data[key]]
            for key in _PATH_LISTS
            if isinstance(data.get(key), list)
        }
    if isinstance(tuning := table.get("tuning"), dict):
        kind, found, path = str(tuning.get("storage", "")).partition("sqlite:///")
        if found and not kind and path:
            table["tuning"] = tuning | {"storage": found + str(anchor(path))}
    if isinstance(fingerprints := table.get("fingerprints"), dict) and "densities" in fingerprints:
        table["fingerprints"] = fingerprints | {"densities": anchor(fingerprints["densities"])}


def _explain(error: ValidationError, origin: str) -> OptionError:
    lines, hint = [], ""
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        name = ".".join(part for part in location if part not in _FORMS)
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "no such option"
            close = difflib.get_close_matches(location[-1], _siblings(location), 1)
            hint = f"did you mean {close[0]}?" if close else "ampflow init lists every option"
        lines.append(f"{name}: {message}" if name else message)
    return OptionError(f"{origin}: " + "; ".join(dict.fromkeys(lines)), hint)


def _siblings(location: list[str]) -> list[str]:
    model: type[BaseModel] = Experiment
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)


def render_experiment(experiment: Experiment | None = None) -> str:
    """Write an experiment as TOML, every option with its unit, default and meaning.

    Parameters
    ----------
    experiment
        What to write; None: the defaults, as a starting point for a user.
    """
    lines = ["# An ampflow experiment: run it with `ampflow run FILE`.", ""]
    shown = experiment or Experiment()
    sections = []
    for name, field in Experiment.model_fields.items():
        value = getattr(shown, name)
        if isinstance(value, BaseModel):
            sections += ["", _comment(type(value).__doc__ or "").rstrip(), f"[{name}]"]
            for option, inner in type(value).model_fields.items():
                sections += _render_option(option, inner, getattr(value, option), name)
        else:
            lines += _render_option(name, field, value)
    return "\n".join(lines + sections) + "\n"


def _render_option(name: str, field: FieldInfo, value: Any, section: str = "") -> list[str]:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    notes = [f"Unit: {extra['unit']}."] if "unit" in extra else []
    if field.default == {} or not isinstance(field.default, dict):
        default = "not set" if field.default is None else _toml(field.default)
        notes.append(f"Default: {default}.")
    comment = _comment(f"{field.description} {' '.join(notes)}")
    if isinstance(value, dict) and value and isinstance(next(iter(value.values())), BaseModel):
        rows = [f"{key} = {_toml(_plain(item))}" for key, item in value.items()]
        return ["", comment, f"[{section}.{name}]", *rows]
    line = f"# {name} =" if value is None else f"{name} = {_toml(value)}"
    return [comment, line]


def _plain(model: BaseModel) -> dict[str, Any]:
    return {
        key: int(value) if isinstance(value, float) and value.is_integer() else value
        for key, value in model.model_dump(exclude_defaults=True, exclude_none=True).items()
    }


def _toml(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = _plain(value)
    if isinstance(value, dict):
        items = ", ".join(f"{k} = {_toml(v)}" for k, v in value.items())
        return f"{{ {items} }}" if items else "{}"
    return str(tomlkit.item(value).as_string())


def _comment(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 96, initial_indent="# ", subsequent_indent="# ")
