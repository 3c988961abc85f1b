"""Errors that a user can act on."""

from __future__ import annotations

__all__ = ["AmpflowError", "DataError", "OptionError", "StorageError"]


class AmpflowError(Exception):
    """Something a user can mend; the message says what, where and what to try.

    Parameters
    ----------
    what
        What was wrong, and where (file, structure index, option).
    hint
        What to try. Shown on a line of its own.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n  Try: {self.hint}" if self.hint else self.what


class OptionError(AmpflowError):
    """An option of the experiment file or the command line is wrong."""


class DataError(AmpflowError):
    """A structure, or a file of structures, cannot be used."""


class StorageError(AmpflowError):
    """A file, folder or database could not be read or written.

    Parameters
    ----------
    what, hint
        As for every `AmpflowError`.
    fleeting
        Whether it may pass by itself, so that trying again makes sense.
    """

    def __init__(self, what: str, hint: str = "", fleeting: bool = False) -> None:
        super().__init__(what, hint)
        self.fleeting = fleeting
