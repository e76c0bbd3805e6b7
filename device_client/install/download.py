"""Gets the blobs that are missing, each in one pass: read, hashed, decoded, hashed, encrypted, written.

What is there already and intact is not asked for again: layers shared between versions cost nothing. What arrives
incompletely is kept, and taken up with a range the next time; if the server's answer is not exactly the rest of the same blob,
it is thrown away and fetched whole. A blob that does not match its digest leaves nothing on disk and no mark against the
digest: somebody on the network must not be able to ban a good model.

    download_missing(wanted_of_variant(manifest, variant), store=store, http=http, transfer=Transfer(config))
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from device_client.bundle import media_types
from device_client.bundle.contract import Variant
from device_client.bundle.descriptor import Descriptor
from device_client.bundle.manifest import Manifest
from device_client.errors import FormatError, IntegrityError, VerificationError
from device_client.install.download_config import DEFAULT_DOWNLOAD
from device_client.install.http import RangeRefusedError
from device_client.install.layer_decoder import CheckedLayer, open_decoder
from device_client.install.partial import BlobWriter
from device_client.install.space import check_space
from device_client.install.store import BlobStore
from device_client.install.transfer import Transfer
from device_client.trust.refs import BlobRef

T = TypeVar("T")
_WORTH_THREADS_BYTES = 1 << 20  # fewer arrive sooner over the one connection that is open already


@dataclass(frozen=True)
class Wanted:
    """A blob to fetch.

    Attributes:
        layer: what the server has.
        content: what the store keeps; the same, unless ``encoding`` says otherwise.
        encoding: how ``layer`` holds ``content``.
    """

    layer: BlobRef
    content: BlobRef
    encoding: str | None = None

    @classmethod
    def plain(cls, blob: BlobRef | Descriptor) -> Wanted:
        """A blob that is stored as it is served."""
        ref = BlobRef(blob.digest, blob.size) if isinstance(blob, Descriptor) else blob
        return cls(ref, ref)


class BlobWay(Protocol):
    """The least that blobs can come from."""

    def download(self, path: str, *, size: int, write: Callable[[bytes], None]) -> int:
        """Gives a whole blob to ``write``, and at most one byte more than ``size``; returns how much."""
        ...

    def with_retries(self, action: Callable[[], T]) -> T:
        """Runs ``action``, again after a failure that may pass."""
        ...


@runtime_checkable
class ResumableWay(BlobWay, Protocol):
    """One that also gives the rest of a blob, and can be used by several threads through copies of itself."""

    def resume(self, path: str, *, size: int, offset: int, etag: str, write: Callable[[bytes], None]) -> int:
        """Gives what comes after ``offset``, or raises ``RangeRefusedError`` before the first byte."""
        ...

    def clone(self) -> ResumableWay:
        """Another one with connections of its own."""
        ...

    def close(self) -> None:
        """Closes its connections."""
        ...


def wanted_of_variant(manifest: Manifest, variant: Variant) -> tuple[Wanted, ...]:
    """What a device needs of a bundle, besides manifest and contract: config, golden probes, and the model of ``variant``."""
    return (Wanted.plain(manifest.config), Wanted.plain(manifest.golden), wanted_model(manifest, variant))


def wanted_model(manifest: Manifest, variant: Variant) -> Wanted:
    """The model of ``variant``: the layer that the server has, and the bytes that the runtime gets.

    Raises:
        FormatError: contract and manifest say different things about a layer that is not encoded (``model_mismatch``).
    """
    layer = manifest.layer(variant.layer)
    encoding = layer.annotation(media_types.ANNOTATION_ENCODING)
    sent, content = BlobRef(layer.digest, layer.size), BlobRef(variant.model.digest, variant.model.size)
    if encoding is None and sent != content:  # verify_bundle would say so too, after the download
        raise FormatError(
            f"the model of variant {variant.id} is not its unencoded layer",
            code="model_mismatch",
            where="contract",
            expected=f"{sent.digest}, {sent.length} bytes",
            actual=f"{content.digest}, {content.length} bytes",
        )
    return Wanted(sent, content, encoding)


def download_missing(
    wanted: Iterable[Wanted | BlobRef], *, store: BlobStore, http: BlobWay, transfer: Transfer | None = None
) -> int:
    """Makes every wanted blob present in the store.

    Args:
        wanted: what shall be there.
        store: where.
        http: where it comes from.
        transfer: the limits of this poll; None for the defaults.

    Returns:
        The number of bytes received.

    Raises:
        IntegrityError: other bytes, or more or fewer, than were signed.
        FormatError, LimitError: an encoding that is not what it should be.
        TransportError: the server does not give the blob, after bounded tries.
        StateError: the disk refuses or has no room (``disk_full``), the connection is ``metered``, or the ``byte_budget`` is spent.
    """
    limits = transfer or Transfer(DEFAULT_DOWNLOAD)
    blobs = {each.content: each for each in (Wanted.plain(item) if isinstance(item, BlobRef) else item for item in wanted)}
    missing = [each for each in blobs.values() if not store.is_intact(each.content.digest)]
    if not missing:
        return 0
    limits.begin()
    check_space(store, [each.content for each in missing], reserve_bytes=limits.config.reserve_bytes)
    threads = min(limits.config.parallel, len(missing))
    if threads > 1 and isinstance(http, ResumableWay) and sum(each.layer.length for each in missing) >= _WORTH_THREADS_BYTES:
        return _Parallel(missing, store=store, transfer=limits).run(http, threads)
    return sum(_download(each, store=store, http=http, took=limits.take) for each in missing)


def _download(wanted: Wanted, *, store: BlobStore, http: BlobWay, took: Callable[[int], None]) -> int:
    if wanted.encoding is not None:
        return http.with_retries(lambda: _download_encoded(wanted, store=store, http=http, took=took))
    if not isinstance(http, ResumableWay):
        return http.with_retries(lambda: _download_whole(wanted, store=store, http=http, took=took))
    tries = _Resuming(wanted, store=store, http=http, took=took)
    try:
        return http.with_retries(tries.once)
    except IntegrityError:
        if not tries.has_resumed:
            raise
    # What an earlier try had left, or the seam, was wrong; it is gone now. Once more, whole, so that one spoiled
    # beginning does not cost a poll.
    return http.with_retries(tries.once)


def _download_whole(wanted: Wanted, *, store: BlobStore, http: BlobWay, took: Callable[[int], None]) -> int:
    with store.writer(wanted.content.digest, wanted.content.length) as out:
        return http.download(_path(wanted), size=wanted.layer.length, write=_both(took, out.write))


def _download_encoded(wanted: Wanted, *, store: BlobStore, http: BlobWay, took: Callable[[int], None]) -> int:
    """Always from its beginning: a decoder's state is not kept."""
    with store.writer(wanted.content.digest, wanted.content.length) as out:
        decoder = open_decoder(wanted.encoding or "", out.write, size=wanted.content.length, where=str(wanted.layer.digest))
        layer = CheckedLayer(decoder, wanted.layer.digest, where="download")
        received = http.download(_path(wanted), size=wanted.layer.length, write=_both(took, layer.write))
        layer.finish()
    return received


class _Resuming:
    """Tries to get one blob, each going on where the one before ended."""

    def __init__(self, wanted: Wanted, *, store: BlobStore, http: ResumableWay, took: Callable[[int], None]) -> None:
        self._wanted = wanted
        self._store = store
        self._http = http
        self._took = took
        self.has_resumed = False

    def once(self) -> int:
        digest, size = self._wanted.content.digest, self._wanted.content.length
        with self._store.writer(digest, size, resume=True) as out:
            return self._rest(out) if out.written else self._whole(out)

    def _rest(self, out: BlobWriter) -> int:
        self.has_resumed = True
        size = self._wanted.content.length
        if out.written == size:
            return 0
        etag = f'"{self._wanted.layer.digest.hex}"'
        write = _both(self._took, out.write)
        try:
            return self._http.resume(_path(self._wanted), size=size, offset=out.written, etag=etag, write=write)
        except RangeRefusedError:
            out.restart()
            return self._whole(out)

    def _whole(self, out: BlobWriter) -> int:
        self.has_resumed = False
        return self._http.download(_path(self._wanted), size=self._wanted.layer.length, write=_both(self._took, out.write))


class _StoppedError(Exception):
    """Another blob of the same call failed; what there is of this one is kept."""


class _Parallel:
    """Several blobs at once, each thread with its own connection; the first failure stops the others."""

    def __init__(self, missing: Iterable[Wanted], *, store: BlobStore, transfer: Transfer) -> None:
        self._todo = deque(missing)
        self._store = store
        self._transfer = transfer
        self._stopped = threading.Event()
        self._received: list[int] = []
        self._errors: list[BaseException] = []

    def run(self, http: ResumableWay, threads: int) -> int:
        running = [threading.Thread(target=self._work, args=(http.clone(),), daemon=True) for _ in range(threads)]
        for thread in running:
            thread.start()
        try:
            for thread in running:
                thread.join()
        finally:  # also when a signal ended the wait
            self._stopped.set()
            for thread in running:
                thread.join()
        errors = [error for error in self._errors if not isinstance(error, _StoppedError)]
        if errors:
            raise next((error for error in errors if isinstance(error, VerificationError)), errors[0])
        return sum(self._received)

    def _work(self, http: ResumableWay) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    wanted = self._todo.popleft()
                except IndexError:
                    return
                self._received.append(_download(wanted, store=self._store, http=http, took=self._take))
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
            self._errors.append(error)
            self._stopped.set()
        finally:
            http.close()

    def _take(self, count: int) -> None:
        if self._stopped.is_set():
            raise _StoppedError
        self._transfer.take(count)


def _both(took: Callable[[int], None], write: Callable[[bytes], None]) -> Callable[[bytes], None]:
    def take(chunk: bytes) -> None:
        took(len(chunk))
        write(chunk)

    return take


def _path(wanted: Wanted) -> str:
    return f"/blobs/sha256/{wanted.layer.digest.hex}"
