"""Reads a signed statement from a file, within the verifier's limit."""

from __future__ import annotations

from pathlib import Path

from device_client.errors import UsageError
from device_client.limits import DEFAULT_LIMITS


def read_statement(path: Path, *, hint: str = "give a file that `sealift audit attest` wrote") -> bytes:
    """The bytes of a statement's file, one more than the limit at most; whoever verifies them refuses what is too long.

    Args:
        path: of the file.
        hint: the remedy to name where it cannot be read.

    Raises:
        UsageError: ``attestation_missing``.
    """
    try:
        with path.open("rb") as file:
            return file.read(DEFAULT_LIMITS.max_attestation_bytes + 1)
    except OSError as e:
        raise UsageError(
            "cannot read the statement", code="attestation_missing", where=str(path), actual=e.strerror, hint=hint
        ) from e
