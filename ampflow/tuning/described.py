"""The stores of trials' fingerprints: each is made once, whoever needs it first."""

from __future__ import annotations

from collections.abc import Callable

from ampflow.descriptors import describe_store, is_described
from ampflow.experiment import Fingerprints
from ampflow.store import FingerprintStore
from ampflow.tuning.leases import Lease, Leases, keep_alive
from ampflow.tuning.spec import StudySpec

__all__ = ["described_store", "make_described"]


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


def make_described(
    spec: StudySpec,
    fingerprints: Fingerprints,
    stores: Leases,
    own: Lease,
    between: Callable[[], None],
) -> bool:
    """Make the store of a trial's fingerprints unless it exists; False if somebody else does.

    Parameters
    ----------
    stores
        Leases on stores that are being made.
    own
        The lease on the trial, which is kept alive meanwhile.
    between
        Called before each shard; what it raises passes through.

    Raises
    ------
    DataError, StorageError
        As `ampflow.descriptors.describe_store`.
    """
    path = spec.store_of(fingerprints)
    if is_described(path):
        return True
    lease = stores.claim(path.stem)
    if lease is None:
        return False
    try:
        with keep_alive(own, lease):
            describe_store(spec.store, fingerprints, between)
    except BaseException:
        lease.release()
        raise
    lease.finish()
    return True
