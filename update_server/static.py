"""Metadata and blobs as plain ASGI, in front of the API: the paths that every device asks for at every poll.

Metadata comes from memory, keyed by what `stat` says of the file, so a file changed on disk is served at once.
Blobs are streamed in bounded chunks with single ranges, so that a download resumes. Measured before this was
written: framework routing costs three times, the framework's file response 26 times the CPU of this path.

What is served is not trusted by anyone, so nothing is verified here; a device checks every byte.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import stat
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from starlette.types import Receive, Scope, Send

from device_client.limits import DEFAULT_LIMITS
from update_server.http_range import ByteRange, UnsatisfiableRangeError, matches, parse_range
from update_server.problem import ApiError, method_not_allowed, not_found, problem_response

CHUNK_BYTES = 128 * 1024
MAX_CACHED_FILES = 256
MAX_CACHED_BYTES = 64 * 1024 * 1024
_METADATA = re.compile(r"/tuf/((?:[1-9][0-9]{0,9}\.)?[a-z0-9][a-z0-9._-]{0,99}\.json)\Z")
_BLOB = re.compile(r"/blobs/sha256/([0-9a-f]{64})\Z")
_NAME = "[a-z0-9][a-z0-9._-]{0,63}"
_TARGET = re.compile(rf"/targets/(?:release|audit)/{_NAME}/{_NAME}/([0-9a-f]{{64}})\.{_NAME}\.json\Z")
_PREFIXES = ("/tuf/", "/blobs/", "/targets/")
_IMMUTABLE = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class _CachedFile:
    key: tuple[int, ...]
    data: bytes
    etag: str


class StaticFiles:
    """The ASGI application of ``/tuf/``, ``/blobs/`` and ``/targets/``.

    Args:
        metadata: web root of the metadata files.
        blobs: folder that holds ``sha256/<hex>``.
    """

    def __init__(self, *, metadata: Path, blobs: Path) -> None:
        self._metadata = metadata
        self._blobs = blobs / "sha256"
        self._cache: OrderedDict[str, _CachedFile] = OrderedDict()
        self._cached_bytes = 0

    @staticmethod
    def handles(path: str) -> bool:
        """Whether a request path belongs here."""
        return path.startswith(_PREFIXES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request (ASGI)."""
        try:
            if scope["method"] not in {"GET", "HEAD"}:
                raise method_not_allowed("GET, HEAD")
            # the undecoded path: no legal name needs a percent escape, so one is refused by not matching
            path = scope["raw_path"].decode("ascii", "replace")
            if match := _METADATA.match(path):
                await self._send_metadata(match[1], scope, send)
            elif match := _BLOB.match(path) or _TARGET.match(path):
                await self._send_blob(match[1], scope, send)
            else:
                raise not_found()
        except ApiError as error:
            await problem_response(error)(scope, receive, send)

    async def _send_metadata(self, name: str, scope: Scope, send: Send) -> None:
        file = self._load(name)
        caching = "no-cache" if name == "timestamp.json" else "public, max-age=3600"
        headers = {"etag": file.etag, "cache-control": caching, "content-type": "application/json"}
        if matches(_header(scope, b"if-none-match"), file.etag):
            await _send(send, 304, headers, b"")
            return
        headers["content-length"] = str(len(file.data))
        await _send(send, 200, headers, b"" if scope["method"] == "HEAD" else file.data)

    def _load(self, name: str) -> _CachedFile:
        """The file, from memory if it is the very file that was read before (inode, size, times of change)."""
        path = self._metadata / name
        try:
            found = path.lstat()
        except FileNotFoundError as e:
            self._forget(name)
            raise not_found() from e
        cached = self._cache.get(name)
        if cached is not None and cached.key == _key(found):
            self._cache.move_to_end(name)
            return cached
        with _open_regular(path) as file:
            key = _key(os.fstat(file.fileno()))
            data = file.read(DEFAULT_LIMITS.max_targets_bytes + 1)
        if len(data) > DEFAULT_LIMITS.max_targets_bytes:
            raise not_found()
        return self._remember(name, _CachedFile(key, data, f'"{hashlib.sha256(data).hexdigest()}"'))

    def _remember(self, name: str, file: _CachedFile) -> _CachedFile:
        self._forget(name)
        self._cache[name] = file
        self._cached_bytes += len(file.data)
        while len(self._cache) > MAX_CACHED_FILES or self._cached_bytes > MAX_CACHED_BYTES:
            self._forget(next(iter(self._cache)))
        return file

    def _forget(self, name: str) -> None:
        old = self._cache.pop(name, None)
        self._cached_bytes -= 0 if old is None else len(old.data)

    async def _send_blob(self, name: str, scope: Scope, send: Send) -> None:
        etag = f'"{name}"'
        with _open_regular(self._blobs / name) as file:
            size = os.fstat(file.fileno()).st_size
            headers = {"etag": etag, "cache-control": _IMMUTABLE, "accept-ranges": "bytes"}
            if matches(_header(scope, b"if-none-match"), etag):
                await _send(send, 304, headers, b"")
                return
            wanted = _wanted_range(scope, etag, size)
            headers["content-type"] = "application/octet-stream"
            if wanted is None:
                status, part = 200, ByteRange(0, size - 1, size)
            else:
                status, part = 206, wanted
                headers["content-range"] = part.content_range
            headers["content-length"] = str(part.length)
            if scope["method"] == "HEAD" or part.length == 0:
                await _send(send, status, headers, b"")
                return
            await _start(send, status, headers)
            await _stream(send, file, part)


def _wanted_range(scope: Scope, etag: str, size: int) -> ByteRange | None:
    header = _header(scope, b"range")
    condition = _header(scope, b"if-range")
    if not header or (condition and condition.strip() != etag):
        return None
    try:
        return parse_range(header, size=size)
    except UnsatisfiableRangeError as e:
        raise ApiError(
            "no byte of the range exists",
            status=416,
            code="range_unsatisfiable",
            expected=f"within {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        ) from e


async def _stream(send: Send, file: BinaryIO, part: ByteRange) -> None:
    """Sends a part in chunks; at most one is in memory, since ``send`` waits for a slow reader.

    A large part is read in a thread, so that a cold disk does not hold up the other requests.
    """
    file.seek(part.first)
    left = part.length
    while left:
        size = min(CHUNK_BYTES, left)
        chunk = file.read(size) if part.length <= CHUNK_BYTES else await asyncio.to_thread(file.read, size)
        if len(chunk) < size:
            raise OSError("the blob was cut while it was being sent")
        left -= len(chunk)
        await send({"type": "http.response.body", "body": chunk, "more_body": left > 0})


async def _send(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    await _start(send, status, headers)
    await send({"type": "http.response.body", "body": body})


async def _start(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


def _header(scope: Scope, name: bytes) -> str:
    """The header's value; several lines are joined, as HTTP says; empty if absent."""
    return ", ".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def _open_regular(path: Path) -> BinaryIO:
    """Opens a regular file and nothing else; a link out of the folder is a file that is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as e:
        raise not_found() from e
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise not_found()
    return os.fdopen(descriptor, "rb")


def _key(found: os.stat_result) -> tuple[int, ...]:
    # the time of status change too: whoever edits a file in place can set its modification time back
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
