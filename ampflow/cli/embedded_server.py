"""Prefect's server as a process of our own: `python -m ampflow.cli.embedded_server HOST PORT`.

It ends with the process that started it, even if that is killed; with `--alone` as the last
argument it does not.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

from ampflow.children import end_with_parent

__all__ = ["main"]


def main() -> None:
    """Serve until terminated."""
    host, port = sys.argv[1], int(sys.argv[2])
    if "--alone" not in sys.argv:
        end_with_parent(signal.SIGINT)  # what a run tells it at a batch job's end is to be kept
    os.environ["PREFECT__SERVER_FINAL"] = "1"
    gc.disable()  # imports leave nothing to collect, now or at each later collection
    import uvicorn
    from prefect.server.api.server import create_app

    gc.freeze()
    gc.enable()
    uvicorn.run(create_app, factory=True, host=host, port=port, log_level="error")


if __name__ == "__main__":
    main()
