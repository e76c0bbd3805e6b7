"""HTTP towards the device's own server: blobs and the device API. Metadata has its own fetcher (``trust/fetcher.py``).

No content encoding, no proxy from the environment, no cookies, and no redirects, but for one of a blob to an https origin that the
owner named: a blob is its digest, wherever it comes from, and nothing secret is sent for it. Every answer has a size bound,
a wait bound and a deadline as a whole, so that neither a flood nor a trickle of bytes holds a device. Tries again a bounded
number of times, and only what may be repeated.
"""

from __future__ import annotations

import copy
import random
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import urllib3

from device_client.bundle.strict_json import parse_strict
from device_client.errors import FormatError, LimitError, TransportError, VerificationError
from device_client.install.download_config import origin_of
from device_client.trust.deadline import Deadline

T = TypeVar("T")
_CHUNK_BYTES = 256 * 1024  # of a blob; fewer calls than 64 KiB cost less than the larger buffer
_MAX_ANSWER_BYTES = 64 * 1024
_TRANSIENT_STATUSES = frozenset({429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_PAUSE_S = 10.0  # a server's Retry-After never holds a poll for longer; the next poll comes anyway
_MAX_HONOURED_S = 5.0  # the rest of the pause is random: a fleet that was told one number must not come back in step
_SECONDS = re.compile(r"[0-9]{1,9}\Z")  # a date, the other form, would need this device's clock to be right
_CODE = re.compile(r"[a-z0-9_]{1,64}\Z")


@dataclass(frozen=True)
class Answer:
    """A small answer, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self, where: str) -> object:
        """The body as strict JSON.

        Raises:
            FormatError, LimitError: it is not.
        """
        return parse_strict(self.body, max_bytes=_MAX_ANSWER_BYTES, where=where)


class HttpClient:
    """Requests below one base URL.

    Args:
        base_url: scheme, authority and optional path, no trailing slash.
        timeout_s: longest wait for a connection or for the next bytes.
        deadline_s: longest time for one small answer.
        min_rate_bytes_s: slowest acceptable download; a blob's deadline is ``deadline_s`` plus its size over this.
        retries: tries after the first.
        redirect_origins: where a blob may be redirected to, each as ``origin_of`` writes it.
        sleep: waits between tries; injectable for tests.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = 10.0,
        deadline_s: float = 60.0,
        min_rate_bytes_s: int = 4096,
        retries: int = 2,
        redirect_origins: Collection[str] = (),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base_url = base_url
        self._deadline_s = deadline_s
        self._min_rate_bytes_s = min_rate_bytes_s
        self._retries = retries
        self._redirect_origins = frozenset(redirect_origins)
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._connect()

    def _connect(self) -> None:
        # A PoolManager, unlike a ProxyManager, never reads proxy variables; certificates are checked by default.
        self._deadline = Deadline()
        pools = urllib3.PoolManager(timeout=urllib3.Timeout(self._timeout_s), retries=False, maxsize=2)
        self._pool = self._deadline.watch(pools)

    def clone(self) -> HttpClient:
        """The same client with connections and a deadline of its own, for another thread."""
        twin = copy.copy(self)
        twin._connect()
        return twin

    def close(self) -> None:
        """Closes the connections that wait for the next request."""
        self._pool.clear()

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One call of the API; every call there is idempotent, so a lost answer is asked for again.

        Raises:
            TransportError: no answer, or an error answer, with the server's ``code`` where it gives one.
            LimitError: the answer is too long.
        """
        sent = dict(headers or {})
        if body is not None:
            sent["Content-Type"] = "application/json"
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"

        def once() -> Answer:
            with (
                self._deadline.running(self._deadline_s),
                self._open(method, self.base_url + path, body=body, headers=sent) as response,
            ):
                data = self._read_small(response, path)
                if response.status >= 300 and response.status != 304:
                    raise _refusal(response, data, self.base_url + path)
                return Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, data)

        return self.with_retries(once)

    def download(self, path: str, *, size: int, write: Callable[[bytes], None]) -> int:
        """Streams a blob of a signed size into ``write``; one try, since what was written cannot be taken back.

        Returns:
            The number of bytes handed to ``write``: never more than ``size`` + 1, which the writer refuses.

        Raises:
            TransportError: no answer, an error answer, a broken connection, or too slow.
        """
        with self._deadline.running(self._download_s(size)), self._open_blob(path, {}) as response:
            if response.status != 200:
                raise _refusal(response, self._read_small(response, path), self.base_url + path)
            return self._copy(response, path, size=size, write=write)

    def resume(self, path: str, *, size: int, offset: int, etag: str, write: Callable[[bytes], None]) -> int:
        """Streams what comes after ``offset`` of a blob into ``write``; one try.

        Args:
            path: of the blob.
            size: of the whole blob, in bytes.
            offset: bytes that are there already; above 0 and below ``size``.
            etag: of the blob that they are from, with its quotes.
            write: takes the rest.

        Returns:
            The number of bytes handed to ``write``: never more than one beyond the end, which the writer refuses.

        Raises:
            RangeRefusedError: before the first byte: the answer is not exactly the rest of that blob.
            TransportError: as ``download``.
        """
        headers = {"Range": f"bytes={offset}-", "If-Range": etag}
        with self._deadline.running(self._download_s(size - offset)), self._open_blob(path, headers) as response:
            if response.status not in {200, 206, 416}:
                raise _refusal(response, self._read_small(response, path), self.base_url + path)
            told = (response.status, response.headers.get("Content-Range"), response.headers.get("ETag"))
            if told != (206, f"bytes {offset}-{size - 1}/{size}", etag):
                raise RangeRefusedError(
                    "the server does not go on with the same blob",
                    code="range_refused",
                    where=self.base_url + path,
                    expected=f"206, bytes {offset}-{size - 1}/{size}, {etag[:12]}",
                    actual=" ".join(ascii(part)[:80] for part in told),
                )
            return self._copy(response, path, size=size - offset, write=write)

    def _download_s(self, size: int) -> float:
        return self._deadline_s + size / self._min_rate_bytes_s

    def _copy(self, response: urllib3.BaseHTTPResponse, path: str, *, size: int, write: Callable[[bytes], None]) -> int:
        received = 0
        for chunk in self._chunks(response, path):
            piece = chunk[: size + 1 - received]
            received += len(piece)
            write(piece)
            if received > size:
                break
        return received

    def with_retries(self, action: Callable[[], T]) -> T:
        """Runs ``action`` again after a transport error that may pass, with growing, random pauses."""
        for attempt in range(self._retries + 1):
            try:
                return action()
            except TransportError as error:
                if attempt == self._retries or not _is_transient(error):
                    raise
                # Full jitter: after a server's restart a fleet must not come back in step.
                asked = min(_MAX_HONOURED_S, getattr(error, "retry_after_s", None) or 0.0)
                jitter = min(_MAX_PAUSE_S - asked, max(asked, 0.5 * 2**attempt))
                self._sleep(asked + random.uniform(0, jitter))  # noqa: S311  # spreads load, no secret
        raise AssertionError("unreachable")

    @contextmanager
    def _open_blob(self, path: str, headers: Mapping[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer to a GET of a blob, after at most one redirect to an origin that the owner named."""
        with self._open("GET", self.base_url + path, body=None, headers=headers) as response:
            target = self._pinned_target(response)
            if target is None:
                yield response
                return
        with self._open("GET", target, body=None, headers=headers) as response:
            yield response

    def _pinned_target(self, response: urllib3.BaseHTTPResponse) -> str | None:
        target = response.headers.get("Location", "") if response.status in _REDIRECTS else ""
        return target if origin_of(target) in self._redirect_origins else None

    @contextmanager
    def _open(self, method: str, url: str, *, body: bytes | None, headers: Mapping[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        sent = {"Accept-Encoding": "identity", "User-Agent": "sealift-device", **headers}
        try:
            response = self._pool.request(
                method, url, body=body, headers=sent, preload_content=False, redirect=False, decode_content=False
            )
        except urllib3.exceptions.HTTPError as e:
            raise self._lost("the server cannot be reached", url) from e
        try:
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise FormatError(
                    "encoded answer refused", code="encoding_refused", where=url, actual=response.headers["Content-Encoding"][:40]
                )
            yield response
        finally:
            # Closed, not returned to the pool, unless it was read to its end: leftovers would be read as the next answer.
            response.close() if not response.closed else response.release_conn()

    def _chunks(self, response: urllib3.BaseHTTPResponse, path: str) -> Iterator[bytes]:
        url = self.base_url + path
        try:
            received = 0
            # Up to the next multiple: the store encrypts whole chunks of this size without copying them first.
            while chunk := response.read1(_CHUNK_BYTES - received % _CHUNK_BYTES):
                received += len(chunk)
                yield chunk
        except urllib3.exceptions.HTTPError as e:
            raise self._lost("the connection broke", url) from e
        if self._deadline.is_over:  # a cut connection can look like the end of an answer without a length
            raise self._lost("the connection was cut", url)

    def _read_small(self, response: urllib3.BaseHTTPResponse, path: str) -> bytes:
        data = bytearray()
        for chunk in self._chunks(response, path):
            data += chunk
            if len(data) > _MAX_ANSWER_BYTES:
                raise LimitError("answer too long", code="too_large", where=self.base_url + path, expected=_MAX_ANSWER_BYTES)
        return bytes(data)

    def _lost(self, what: str, url: str) -> TransportError:
        """Why a request ended without an answer: the deadline, or the network."""
        if self._deadline.is_over:
            return TransportError("the answer arrives too slowly", code="transport_slow", where=url, hint="poll again later")
        return LostConnectionError(what, code="transport", where=url, hint="check the URL and the network, then poll again")


class ServerRefusalError(TransportError):
    """An error answer of the server, with what it said; ``problem`` and ``retry_after_s`` are untrusted."""

    def __init__(
        self,
        *,
        code: str,
        where: str,
        actual: str,
        status: int,
        problem: Mapping[str, object],
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__("the server refused the request", code=code, where=where, actual=actual)
        self.status = status
        self.problem = problem
        self.retry_after_s = retry_after_s


class RangeRefusedError(TransportError):
    """The answer to a range is not the rest of the blob that was begun; nothing of it was used."""


class LostConnectionError(TransportError):
    """No answer, or one that broke off: worth another try."""


def _is_transient(error: TransportError) -> bool:
    return isinstance(error, LostConnectionError) or (isinstance(error, ServerRefusalError) and error.status in _TRANSIENT_STATUSES)


def _refusal(response: urllib3.BaseHTTPResponse, body: bytes, url: str) -> ServerRefusalError:
    """The error of an answer that is not a success. The server's words are only repeated, never acted upon."""
    status = response.status
    problem: Mapping[str, object] = {}
    if response.headers.get("Content-Type", "").startswith("application/problem+json"):
        problem = _problem(body)
    code, detail = problem.get("code"), problem.get("detail")
    if 300 <= status < 400:
        code, detail = "redirect_refused", None
    elif not isinstance(code, str) or not _CODE.match(code):
        code = "http_status"
    text = "".join(char for char in detail if char.isprintable())[:300] if isinstance(detail, str) else ""
    asked = response.headers.get("Retry-After", "")
    return ServerRefusalError(
        code=code,
        where=url,
        actual=f"status {status} {text}".strip(),
        status=status,
        problem=problem,
        retry_after_s=float(asked) if _SECONDS.match(asked) else None,
    )


def _problem(body: bytes) -> Mapping[str, object]:
    try:
        value = parse_strict(body, max_bytes=_MAX_ANSWER_BYTES, where="problem")
    except VerificationError:
        return {}
    return value if isinstance(value, dict) else {}
