"""Where a published repository is read from: a folder with what a server serves, or the server itself.

Unlike ``staging.py`` this has snapshot and timestamp, so what it shows can be verified as a device would. Bytes only, none trusted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface

from device_client.errors import IntegrityError, UsageError
from device_client.install.http import HttpClient
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.fetcher import SealiftFetcher
from device_client.trust.refs import BlobRef

T = TypeVar("T")
Write = Callable[[bytes], None]
_CHUNK_BYTES = 1 << 20
_METADATA_FOLDERS = ("tuf", "metadata")  # of a server's data folder or a mirror of it; of an offline file that was unpacked
_ROLE_FILE = re.compile(r"[A-Za-z0-9._-]{1,200}\.json\Z")


class Publication(Protocol):
    """What ``export`` needs of a published repository."""

    @property
    def name(self) -> str:
        """The folder or URL, for messages."""

    @property
    def base_url(self) -> str:
        """Where its metadata is, ending in ``/``; what ``fetcher`` is asked for begins with it."""

    @property
    def fetcher(self) -> FetcherInterface:
        """The way to its metadata."""

    def copy_blob(self, ref: BlobRef, write: Write) -> None:
        """One try at streaming a blob; who gets the bytes checks them."""

    def with_retries(self, action: Callable[[], T]) -> T:
        """Runs ``action`` again after a failure that may pass."""


class FolderPublication:
    """A server's data folder or a mirror of it: ``tuf/`` or ``metadata/`` with the timestamp, and ``blobs/sha256/``.

    Raises:
        UsageError: ``publication_missing``, no timestamp there.
    """

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self.base_url = f"{folder}/"
        self._blobs = folder / "blobs" / "sha256"
        found = [folder / each for each in _METADATA_FOLDERS if (folder / each / "timestamp.json").is_file()]
        if not found:
            raise UsageError(
                "no published repository here",
                code="publication_missing",
                where=self.name,
                expected="tuf/timestamp.json or metadata/timestamp.json",
                hint="staging folders have no timestamp: give the server's URL, or a copy of its data folder",
            )
        self.fetcher = _FolderFetcher(found[0])

    def copy_blob(self, ref: BlobRef, write: Write) -> None:
        """Streams a blob from its file.

        Raises:
            IntegrityError: ``blob_missing``.
        """
        try:
            with (self._blobs / ref.digest.hex).open("rb") as file:
                stream_up_to(file, ref.length + 1, write)
        except FileNotFoundError as e:
            raise IntegrityError("the blob is missing", code="blob_missing", where=f"{self.name}, {ref.digest}") from e

    def with_retries(self, action: Callable[[], T]) -> T:
        """Runs it once: a disk does not get better by waiting."""
        return action()


class UrlPublication:
    """A server, or any static host with a copy of what it serves."""

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")
        self.base_url = f"{self.name}/tuf/"
        self.fetcher: FetcherInterface = SealiftFetcher()
        self._http = HttpClient(self.name)

    def copy_blob(self, ref: BlobRef, write: Write) -> None:
        """Streams a blob from the server, never more than one byte beyond its signed size.

        Raises:
            TransportError: no answer, an error, or too slow.
        """
        self._http.download(f"/blobs/sha256/{ref.digest.hex}", size=ref.length, write=write)

    def with_retries(self, action: Callable[[], T]) -> T:
        """As a device would, after a lost connection or an overloaded server."""
        return self._http.with_retries(action)


def open_publication(repo: str) -> Publication:
    """A folder or a server's URL.

    Raises:
        UsageError: ``publication_missing``.
    """
    return UrlPublication(repo) if repo.startswith(("http://", "https://")) else FolderPublication(Path(repo))


def stream_up_to(stream: BinaryIO, max_bytes: int, write: Write) -> None:
    """Copies a stream, but never more than ``max_bytes``: one byte beyond a signed size is enough to be refused."""
    while max_bytes and (chunk := stream.read(min(_CHUNK_BYTES, max_bytes))):
        max_bytes -= len(chunk)
        write(chunk)


class _FolderFetcher(FetcherInterface):
    """Role files of a folder, by the last part of the URL that TUF makes; nothing else is opened."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rpartition("/")[2]
        path = self._folder / name
        if not _ROLE_FILE.match(name) or not path.is_file():
            raise DownloadHTTPError(f"no file {name}", 404)
        with path.open("rb") as file:
            return iter([file.read(DEFAULT_LIMITS.max_targets_bytes + 1)])
