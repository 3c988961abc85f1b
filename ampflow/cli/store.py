"""`ampflow store`: look at fingerprint stores, check them, and write them for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ampflow.errors import OptionError

if TYPE_CHECKING:
    from ampflow.store import FingerprintStore

__all__ = ["app"]

app = typer.Typer(
    help="Fingerprint stores: what is in one, is it whole, and writing it for other programs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StoreArgument = Annotated[
    str,
    typer.Argument(
        help="The store's file, or the beginning of its name; may be left out if there is one.",
        show_default=False,
    ),
]
CacheOption = Annotated[
    Path,
    typer.Option(
        "--cache", help="Cache folder of the experiment (by default `cache` inside its `out`)."
    ),
]
_CACHE = Path("ampflow-results/cache")


@app.command()
def info(store: StoreArgument = "", cache: CacheOption = _CACHE) -> None:
    """Show what is in a store, and how large it is."""
    from ase.data import chemical_symbols

    from ampflow.store_check import describe

    found = _find(store, cache)
    sizes, header = describe(found), found.header
    descriptor = {k: v for k, v in header["descriptor"].items() if k != "densities"}
    files = [f"{file['path']} ({file['role']})" for file in header["files"]]
    rows = {
        "store": found.path,
        "digest": found.digest,
        "structures": f"{sizes.structures:,} ({sizes.rejected:,} left out)",
        "atoms": f"{sizes.atoms:,}",
        "elements": " ".join(chemical_symbols[number] for number in header["elements"]),
        "features": f"{sizes.features} an atom",
        **{f"  {name}": value for name, value in descriptor.items()},
        "size": f"{sizes.size / 1e6:,.1f} MB in {sizes.shards} shards",
        "made in": f"{header['seconds']:.1f} s, {header['reused']:,} structures copied",
        "files": f"{len(files)}: {', '.join(files[:3])}{', ...' if len(files) > 3 else ''}",
    }
    for name, value in rows.items():
        typer.echo(f"{name:<16}{value}")


@app.command()
def verify(store: StoreArgument = "", cache: CacheOption = _CACHE) -> None:
    """Check every record of a store. Ends with code 1 if one is not as it was written."""
    from ampflow.cli.display import step_bars
    from ampflow.progress import watch
    from ampflow.store_check import verify as find_damage

    found = _find(store, cache)
    with step_bars():
        damage = find_damage(found, watch("Verify"))
    for item in damage:
        typer.echo(f"{item.file}: {item.what}")
    if damage:
        typer.secho("  Try: delete these files and run again: they alone are remade.", err=True)
        raise typer.Exit(1)
    typer.echo(f"{found.path}: every record of {len(found):,} structures is as it was written.")


@app.command()
def columns(store: StoreArgument = "", cache: CacheOption = _CACHE) -> None:
    """List the features with their range, mean and standard deviation over all atoms."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from ampflow.store_check import column_table

    table = Table("feature", "min", "max", "mean", "std", box=box.SIMPLE_HEAD)
    for row in column_table(_find(store, cache)).itertuples(index=False):
        table.add_row(row[0], *(f"{value:.6g}" for value in row[1:]))
    Console().print(table)


@app.command()
def export(
    target: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
    store: StoreArgument = "",
    cache: CacheOption = _CACHE,
    format: Annotated[
        str,
        typer.Option("--format", help="extxyz, npz or parquet; by default what the suffix says."),
    ] = "",
) -> None:
    """Write structures, labels and fingerprints as extxyz, npz or parquet."""
    from ampflow.cli.display import step_bars
    from ampflow.progress import watch
    from ampflow.store_export import export as write
    from ampflow.store_export import format_of

    format_of(target, format)
    found = _find(store, cache)
    with step_bars():
        write(found, target, format, watch("Export"))
    typer.echo(f"{target}: {len(found):,} structures")


def _find(name: str, cache: Path) -> FingerprintStore:
    from ampflow.store import FingerprintStore

    if "/" in name or name.endswith(".lmdb"):
        if not name.endswith(".lmdb") or not Path(name).is_file():
            raise OptionError(
                f"{name}: {'no store' if Path(name).exists() else 'no such file'}",
                "stores are OUT/cache/stores/NAME.lmdb; --cache OUT/cache NAME finds them, too",
            )
        return FingerprintStore(Path(name))
    found = sorted((cache / "stores").glob(f"{name}*.lmdb"))
    if len(found) == 1:
        return FingerprintStore(found[0])
    what = f"{len(found)} stores" if found else "no store"
    where = f"{cache / 'stores'}: {what}" + (f" called {name}..." if name else "")
    listed = ", ".join(path.stem for path in found) or "ampflow fingerprint makes one"
    raise OptionError(where, f"name one: {listed}" if found else f"--cache OUT/cache; {listed}")
