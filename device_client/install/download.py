"""Gets the blobs that are missing, each to exactly its signed size, hashed while it is written.

What is there already and intact is not asked for again: layers shared between versions cost nothing. A blob that does
not match its digest leaves nothing on disk and no mark against the digest: somebody on the network must not be able
to ban a good model.
"""

from __future__ import annotations

from collections.abc import Iterable

from device_client.install.http import HttpClient
from device_client.install.store import BlobStore
from device_client.trust.refs import BlobRef


def download_missing(wanted: Iterable[BlobRef], *, store: BlobStore, http: HttpClient) -> int:
    """Makes every wanted blob present in the store.

    Returns:
        The number of bytes received.

    Raises:
        IntegrityError: other bytes, or more or fewer, than were signed; never tried again within this poll.
        TransportError: the server does not give the blob, after bounded tries.
        StateError: the disk refuses.
    """
    return sum(_download(blob, store=store, http=http) for blob in _distinct(wanted) if not store.is_intact(blob.digest))


def _download(blob: BlobRef, *, store: BlobStore, http: HttpClient) -> int:
    def once() -> int:
        with store.writer(blob.digest, blob.length) as out:
            return http.download(f"/blobs/sha256/{blob.digest.hex}", size=blob.length, write=out.write)

    return http.with_retries(once)


def _distinct(blobs: Iterable[BlobRef]) -> Iterable[BlobRef]:
    return dict.fromkeys(blobs)
