"""HTTP towards the device's own server: blobs and the device API. Metadata has its own fetcher (``trust/fetcher.py``).

No redirects, no content encoding, no proxy from the environment, no cookies; every answer has a size bound, a wait
bound and a deadline as a whole, so that neither a flood nor a trickle of bytes holds a device. Tries again a bounded
number of times, and only what may be repeated.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import urllib3

from device_client.bundle.strict_json import parse_strict
from device_client.errors import FormatError, LimitError, TransportError, VerificationError
from device_client.trust.deadline import Deadline

T = TypeVar("T")
_CHUNK_BYTES = 64 * 1024
_MAX_ANSWER_BYTES = 64 * 1024
_TRANSIENT_STATUSES = frozenset({429, 500, 502, 503, 504})
_MAX_PAUSE_S = 10.0  # a server's Retry-After never holds a poll for longer; the next poll comes anyway
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
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base_url = base_url
        self._deadline_s = deadline_s
        self._min_rate_bytes_s = min_rate_bytes_s
        self._retries = retries
        self._sleep = sleep
        # A PoolManager, unlike a ProxyManager, never reads proxy variables; certificates are checked by default.
        self._deadline = Deadline()
        self._pool = self._deadline.watch(urllib3.PoolManager(timeout=urllib3.Timeout(timeout_s), retries=False, maxsize=2))

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
            with self._deadline.running(self._deadline_s), self._open(method, path, body=body, headers=sent) as response:
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
        seconds = self._deadline_s + size / self._min_rate_bytes_s
        received = 0
        with self._deadline.running(seconds), self._open("GET", path, body=None, headers={}) as response:
            if response.status != 200:
                raise _refusal(response, self._read_small(response, path), self.base_url + path)
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
                self._sleep(random.uniform(0, min(_MAX_PAUSE_S, 0.5 * 2**attempt)))  # noqa: S311  # spreads load, no secret
        raise AssertionError("unreachable")

    @contextmanager
    def _open(
        self, method: str, path: str, *, body: bytes | None, headers: Mapping[str, str]
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        url = self.base_url + path
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
            while chunk := response.read1(_CHUNK_BYTES):
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
    """An error answer of the server, with what it said; ``problem`` is untrusted."""

    def __init__(self, *, code: str, where: str, actual: str, status: int, problem: Mapping[str, object]) -> None:
        super().__init__("the server refused the request", code=code, where=where, actual=actual)
        self.status = status
        self.problem = problem


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
    return ServerRefusalError(code=code, where=url, actual=f"status {status} {text}".strip(), status=status, problem=problem)


def _problem(body: bytes) -> Mapping[str, object]:
    try:
        value = parse_strict(body, max_bytes=_MAX_ANSWER_BYTES, where="problem")
    except VerificationError:
        return {}
    return value if isinstance(value, dict) else {}
