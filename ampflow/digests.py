"""Names made from content: the same input always has the same name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["digest", "file_digest"]

_LENGTH = 20  # hex digits, 80 bits: collisions are out of reach for any number of artifacts


def digest(*parts: Any) -> str:
    """Return the name of `parts`: 20 hexadecimal digits of a SHA-256.

    Parameters
    ----------
    parts
        Numpy arrays (by dtype, shape and bytes), bytes, or anything JSON can hold
        (mappings regardless of their order).
    """
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            head, body = f"{part.dtype.str}{part.shape}".encode(), part.tobytes()
        elif isinstance(part, bytes):
            head, body = b"bytes", part
        else:
            head, body = b"json", json.dumps(part, sort_keys=True, allow_nan=True).encode()
        sha.update(b"%d:%d:" % (len(head), len(body)))
        sha.update(head)
        sha.update(body)
    return sha.hexdigest()[:_LENGTH]


def file_digest(path: Path) -> str:
    """Return the name of a file's content (20 hexadecimal digits of its SHA-256)."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:_LENGTH]
