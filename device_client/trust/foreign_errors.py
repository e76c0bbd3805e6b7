"""The one border between python-tuf's errors and our reason codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    SlowRetrievalError,
    UnsignedMetadataError,
)

from device_client.errors import FormatError, LimitError, SealiftError, TransportError, TrustError, VerificationError


class StrictError(RepositoryError):
    """A refusal of ours in python-tuf's own family, so that a bad file in the cache is fetched again like any other."""

    def __init__(self, reason: VerificationError) -> None:
        super().__init__(str(reason))
        self.reason = reason


@contextmanager
def mapped_errors(where: str) -> Iterator[None]:
    """Runs python-tuf; whatever it raises leaves as an error of ours. The order matters: subclasses before their bases.

    Raises:
        TrustError: ``metadata_rollback``, ``metadata_expired``, ``signature_threshold``, ``metadata_mismatch``,
            ``metadata_invalid``.
        LimitError: ``too_large``.
        TransportError: ``transport_slow``, ``metadata_unavailable``, ``transport``.
        FormatError: ``metadata_syntax``.
    """
    try:
        yield
    except SealiftError:
        raise
    except StrictError as e:
        raise e.reason from e
    except BadVersionNumberError as e:
        raise TrustError(
            f"metadata version is not acceptable: {e}",
            code="metadata_rollback",
            where=where,
            hint="an old or mixed state is shown; the running model stays",
        ) from e
    except ExpiredMetadataError as e:
        raise TrustError(
            f"metadata has expired: {e}",
            code="metadata_expired",
            where=where,
            hint="ask the operator of the server to renew it, and check this device's clock",
        ) from e
    except UnsignedMetadataError as e:
        raise TrustError(
            f"metadata is not signed by its role: {e}",
            code="signature_threshold",
            where=where,
            hint="the running model stays; ask the release team",
        ) from e
    except LengthOrHashMismatchError as e:
        raise TrustError(f"metadata does not match what names it: {e}", code="metadata_mismatch", where=where) from e
    except RepositoryError as e:
        raise TrustError(f"metadata is not valid: {e}"[:300], code="metadata_invalid", where=where) from e
    except DownloadLengthMismatchError as e:
        raise LimitError("metadata is longer than its cap", code="too_large", where=where) from e
    except SlowRetrievalError as e:
        raise TransportError("metadata arrives too slowly", code="transport_slow", where=where, hint="try again") from e
    except DownloadHTTPError as e:
        raise TransportError(
            "a metadata file is not there",
            code="metadata_unavailable",
            where=where,
            actual=f"status {e.status_code}",
            hint="try again later; a file brought by hand: export it again",
        ) from e
    except DownloadError as e:
        raise TransportError(
            "the server cannot be reached", code="transport", where=where, hint="check the URL and the network"
        ) from e
    except (ValueError, KeyError, TypeError) as e:
        raise FormatError(f"not TUF metadata: {e}"[:200], code="metadata_syntax", where=where) from e
