"""The store of a trial's fingerprints."""

from __future__ import annotations

from ampflow.descriptors import describe_store
from ampflow.experiment import Fingerprints
from ampflow.store import FingerprintStore
from ampflow.tuning.spec import StudySpec

__all__ = ["described_store"]


def described_store(spec: StudySpec, fingerprints: Fingerprints) -> FingerprintStore:
    """Return the store of a trial with these fingerprints, made unless it exists.

    Raises
    ------
    DataError, StorageError
        As `ampflow.descriptors.describe_store`.
    """
    if spec.store_of(fingerprints) == spec.store:
        return FingerprintStore(spec.store)
    return describe_store(spec.store, fingerprints)
