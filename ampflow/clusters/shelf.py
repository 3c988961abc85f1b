"""Where profiles are: those that come with ampflow, and the user's own."""

from __future__ import annotations

import os
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import tomlkit
from pydantic import ValidationError

from ampflow.clusters.profile import Profile
from ampflow.errors import OptionError
from ampflow.files import explain_os_error

__all__ = ["Shelved", "find_profile", "list_profiles", "own_folder", "render_profile"]


@dataclass(frozen=True)
class Shelved:
    """A profile's file, which need not be valid."""

    name: str
    path: Path
    is_own: bool

    def read(self) -> Profile:
        """Read the profile.

        Raises
        ------
        OptionError
            If it is not valid.
        """
        return _read(self.path)


def own_folder() -> Path:
    """Return the folder of the user's own profiles."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "ampflow" / "clusters"


def list_profiles() -> list[Shelved]:
    """Return all profiles by name; one of the user's hides a shipped one of the same name."""
    shipped = Path(str(files("ampflow.clusters") / "profiles"))
    found = {path.stem: Shelved(path.stem, path, False) for path in shipped.glob("*.toml")}
    found |= {path.stem: Shelved(path.stem, path, True) for path in own_folder().glob("*.toml")}
    return [found[name] for name in sorted(found)]


def find_profile(name: str) -> Profile:
    """Return the profile of this name, or in the file of this path (ending in .toml).

    Raises
    ------
    OptionError
        If there is none, or it is not valid.
    """
    if name.endswith(".toml"):
        return _read(Path(name))
    shelf = {item.name: item for item in list_profiles()}
    if name not in shelf:
        raise OptionError(
            f"cluster {name}: no such profile",
            f"one of {', '.join(shelf)}; or write {own_folder() / name}.toml",
        )
    return shelf[name].read()


def render_profile(profile: Profile) -> str:
    """Write a profile as TOML: every option with what it means."""
    document = tomlkit.document()
    for name, field in Profile.model_fields.items():
        for line in textwrap.wrap(field.description or "", 90):
            document.add(tomlkit.comment(line))
        document.add(name, getattr(profile, name))
    return tomlkit.dumps(document)


def _read(path: Path) -> Profile:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return Profile.model_validate(table)
    except OSError as error:
        raise explain_os_error(error, path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: not valid TOML: {error}", "see docs/clusters.md") from None
    except ValidationError as error:
        raise _explain(path, table, error) from None


def _explain(path: Path, table: Mapping[str, object], error: ValidationError) -> OptionError:
    first = error.errors()[0]
    option = ".".join(str(part) for part in first["loc"] if not str(part).startswith("constr"))
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        what = f"no such option; there are {', '.join(Profile.model_fields)}"
    elif option.startswith("walltime"):
        option, what = "walltime", f"{table['walltime']!r} is not HH:MM:SS"
    elif option == "memory":
        what = f'{table["memory"]!r} is not a size with its unit, such as "4 GB"'
    return OptionError(f"{path}: {option}: {what}" if option else f"{path}: {what}", "mend it")
