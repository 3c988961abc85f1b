"""Prefect's server as a process of our own: `python -m ... PORT PATIENCE PARENT`.

It ends with the process that started it, even if that is killed. PATIENCE (seconds) is for
what may still have to report its own end meanwhile.
"""

from __future__ import annotations

import os
import sys

from ampflow.cli.children import end_with_parent

__all__ = ["main"]


def main() -> None:
    """Serve until terminated."""
    host, port, patience = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    end_with_parent(patience)
    os.environ["PREFECT__SERVER_FINAL"] = "1"
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app, factory=True, host=host, port=port, log_level="error")


if __name__ == "__main__":
    main()
