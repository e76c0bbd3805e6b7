"""Metadata over HTTP: what python-tuf leaves open is closed here (DESIGN 4).

Identity encoding only, no redirect, no proxy from the environment, a deadline over the whole answer, bounded reads.
python-tuf enforces the length cap on the bytes that this yields.
"""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPException

import urllib3
from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError
from tuf.ngclient import FetcherInterface

from device_client.trust.deadline import Deadline

_CHUNK_BYTES = 16 * 1024
_RETRIES = 2


class SealiftFetcher(FetcherInterface):
    """Fetches metadata files; one object for one refresh.

    Args:
        timeout_s: the longest wait for a connection or the next bytes.
        deadline_s: the longest time for one whole file, so that a trickle of bytes cannot hold a device for ever.
        retries: tries after the first when no answer came at all.
    """

    def __init__(self, *, timeout_s: float = 10.0, deadline_s: float = 60.0, retries: int = _RETRIES) -> None:
        self._deadline_s = deadline_s
        # Retry-After is not obeyed: urllib3 would first read the whole body of that answer, however long it is.
        retry = urllib3.Retry(
            total=retries,
            connect=retries,
            read=retries,
            redirect=False,
            status=0,
            backoff_factor=0.2,
            respect_retry_after_header=False,
        )
        self._deadline = Deadline()
        self._pool = self._deadline.watch(urllib3.PoolManager(timeout=urllib3.Timeout(timeout_s), retries=retry))

    def _fetch(self, url: str) -> Iterator[bytes]:
        with self._deadline.running(self._deadline_s):
            try:
                yield from self._read(url)
            except (urllib3.exceptions.HTTPError, HTTPException, OSError) as e:
                if self._deadline.is_over:
                    raise SlowRetrievalError(f"{url} took longer than {self._deadline_s} s") from e
                raise DownloadError(f"no answer, or a broken one, from {url}") from e
            if self._deadline.is_over:
                raise SlowRetrievalError(f"{url} took longer than {self._deadline_s} s")

    def _read(self, url: str) -> Iterator[bytes]:
        headers = {"Accept-Encoding": "identity", "Accept": "application/json", "User-Agent": "sealift-device"}
        response = self._pool.request("GET", url, headers=headers, preload_content=False, redirect=False, decode_content=False)
        try:
            if response.status != 200:
                self._finish(response)
                raise DownloadHTTPError(f"status {response.status} for {url}", response.status)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise DownloadError(f"encoded answer refused for {url}")
            while chunk := response.read1(_CHUNK_BYTES):
                yield chunk
            response.release_conn()
        finally:
            response.close()

    @staticmethod
    def _finish(response: urllib3.BaseHTTPResponse) -> None:
        """Reads the short body of an error, so that the connection serves the next request: every poll begins with a 404."""
        body = 0
        while chunk := response.read1(_CHUNK_BYTES):
            body += len(chunk)
            if body > _CHUNK_BYTES:
                return  # and is closed
        response.release_conn()
