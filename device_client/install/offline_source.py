"""An offline file in the place of the server: its metadata, its blobs, and what it says is next. No network anywhere.

Used by ``import_offline.py``, which hands these to ``poll``. Nothing here trusts the file: ``poll`` verifies all that comes
out of it, and the store hashes each blob again while it reads it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import BinaryIO, NoReturn

import urllib3
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface

from device_client.bundle.digest import Digest
from device_client.bundle.offline import OfflineFile
from device_client.errors import FormatError, StateError
from device_client.install.cycle import Cycle
from device_client.install.http import Answer, HttpClient
from device_client.install.newest import read_channel

_CHUNK_BYTES = 64 * 1024


class FileFetcher(FetcherInterface):
    """Role files by the names that TUF asks for; what the file does not hold is "not found", as on a server."""

    def __init__(self, offline: OfflineFile) -> None:
        self._files = {str(name): data for name, data in offline.metadata.items()}

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rpartition("/")[2]
        if name not in self._files:
            raise DownloadHTTPError(f"the file holds no {name}", 404)
        return iter([self._files[name]])


class FileBlobs(HttpClient):
    """Blobs of an offline file, for whoever would download them. Whatever else a client can do is refused: no request leaves.

    Args:
        offline: the file, kept open by the caller.
        where: its name, for errors.
    """

    def __init__(self, offline: OfflineFile, *, where: str) -> None:
        super().__init__(where, retries=0)
        self._offline = offline
        self._turn = threading.Lock()  # all streams share the file's one position, and downloads may run side by side

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Never answers: there is no server.

        Raises:
            StateError: ``no_server``.
        """
        _refuse(path)

    def download(self, path: str, *, size: int, write: Callable[[bytes], None]) -> int:
        """A blob from the file, anew; the store, which gets the bytes, finds out whether they are still the right ones.

        Raises:
            IntegrityError: the file does not hold it (``blob_missing``).
            StateError: the disk refused (``read_failed``).
        """
        received = 0
        with self._offline.open_blob(Digest(path.rpartition("/")[2])) as stream:
            while received <= size and (chunk := self._next(stream, size + 1 - received)):
                received += len(chunk)
                write(chunk)
        return received

    def _next(self, stream: BinaryIO, max_bytes: int) -> bytes:
        with self._turn:
            return stream.read(min(_CHUNK_BYTES, max_bytes))

    @contextmanager
    def _open(
        self, method: str, path: str, *, body: bytes | None, headers: Mapping[str, str]
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """In place of the one method that opens connections, so that a way nobody thought of ends here, too."""
        yield _refuse(path)


@dataclass(frozen=True)
class FileSource:
    """A file as ``cycle.Source``: the candidate is the channel's newest release, which both roles must then name (DESIGN 4).

    Attributes:
        grace: how long past its expiry a snapshot or timestamp still counts.
    """

    grace: timedelta
    is_online: bool = False

    def next_version(self, cycle: Cycle) -> str:
        """The channel's ``latest``; unlike in a poll, a channel that cannot be read leaves nothing to go on.

        Raises:
            FormatError: ``offline_channel``, the release role lists no channel document; or the document is not one.
            TrustError, LimitError, IntegrityError: what reading it raises.
        """
        trusted = cycle.found.trusted
        channel = None if trusted is None else read_channel(cycle, trusted)
        if channel is None:
            raise FormatError(
                "the release role lists no channel document, so nothing says which release is the newest",
                code="offline_channel",
                where=cycle.model.channel_target,
                hint="sign the release again with `sealift sign`, which writes the channel, publish and export again",
            )
        cycle.ledger.version = cycle.found.offered = channel.latest
        return channel.latest


def _refuse(path: str) -> NoReturn:
    raise StateError("an import by hand asks no server", code="no_server", where=path, hint="report this: it is a fault")
