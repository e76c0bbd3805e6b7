"""Whatever python-tuf raises leaves as one error of ours, of the right class and with its code."""

from __future__ import annotations

import pytest
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    EqualVersionNumberError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    SlowRetrievalError,
    UnsignedMetadataError,
)
from tuf.api.serialization import DeserializationError

from device_client.errors import FormatError, LimitError, SealiftError, TransportError, TrustError, VerificationError
from device_client.trust.foreign_errors import StrictError, mapped_errors

OURS = FormatError("ours", code="field_type", where="inside")
TABLE: list[tuple[Exception, type[SealiftError], str]] = [
    (BadVersionNumberError("x"), TrustError, "metadata_rollback"),
    (EqualVersionNumberError("x"), TrustError, "metadata_rollback"),
    (ExpiredMetadataError("x"), TrustError, "metadata_expired"),
    (UnsignedMetadataError("x"), TrustError, "signature_threshold"),
    (LengthOrHashMismatchError("x"), TrustError, "metadata_mismatch"),
    (RepositoryError("x"), TrustError, "metadata_invalid"),
    (DeserializationError("x"), TrustError, "metadata_invalid"),
    (DownloadLengthMismatchError("x"), LimitError, "too_large"),
    (SlowRetrievalError("x"), TransportError, "transport_slow"),
    (DownloadHTTPError("x", 503), TransportError, "metadata_unavailable"),
    (DownloadError("x"), TransportError, "transport"),
    (ValueError("x"), FormatError, "metadata_syntax"),
    (KeyError("x"), FormatError, "metadata_syntax"),
    (TypeError("x"), FormatError, "metadata_syntax"),
]


@pytest.mark.parametrize(("foreign", "kind", "code"), TABLE, ids=lambda value: type(value).__name__)
def test_an_error_of_python_tuf_becomes_one_of_ours(foreign: Exception, kind: type[SealiftError], code: str) -> None:
    with pytest.raises(SealiftError) as refusal, mapped_errors("http://here/tuf/"):
        raise foreign
    error = refusal.value
    assert (type(error), error.code, error.where) == (kind, code, "http://here/tuf/")
    assert error.__cause__ is foreign


def test_an_error_of_ours_passes_unchanged() -> None:
    with pytest.raises(FormatError) as refusal, mapped_errors("there"):
        raise OURS
    assert refusal.value is OURS


def test_a_refusal_of_ours_that_went_through_python_tuf_comes_out_as_it_was() -> None:
    carrier = StrictError(OURS)
    assert isinstance(carrier, RepositoryError)
    assert "ours" in str(carrier)
    with pytest.raises(VerificationError) as refusal, mapped_errors("there"):
        raise carrier
    assert refusal.value is OURS
    assert refusal.value.__cause__ is carrier


def test_what_is_nobodys_error_is_not_swallowed() -> None:
    for stranger in (OSError(28, "full"), RuntimeError("bug"), KeyboardInterrupt()):
        with pytest.raises(type(stranger)) as raised, mapped_errors("there"):
            raise stranger
        assert raised.value is stranger


def test_what_raises_nothing_is_left_alone() -> None:
    with mapped_errors("there") as given:
        assert given is None


def test_a_message_from_outside_is_cut() -> None:
    for foreign, longest in ((RepositoryError("y" * 5000), 300), (ValueError("y" * 5000), 200)):
        with pytest.raises(SealiftError) as refusal, mapped_errors("there"):
            raise foreign
        assert len(refusal.value.what) == longest
