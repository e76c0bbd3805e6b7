"""Metadata over HTTP: what python-tuf leaves open is closed here (DESIGN 4).

Identity encoding only, no redirect, no proxy from the environment, a deadline over the whole answer, bounded reads.
python-tuf enforces the length cap on the bytes that this yields.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import urllib3
from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError
from tuf.ngclient import FetcherInterface

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
        retry = urllib3.Retry(total=retries, connect=retries, read=retries, redirect=False, status=0, backoff_factor=0.2)
        self._pool = urllib3.PoolManager(timeout=urllib3.Timeout(timeout_s), retries=retry)

    def _fetch(self, url: str) -> Iterator[bytes]:
        headers = {"Accept-Encoding": "identity", "Accept": "application/json", "User-Agent": "sealift-device"}
        try:
            response = self._pool.request("GET", url, headers=headers, preload_content=False, redirect=False, decode_content=False)
        except urllib3.exceptions.HTTPError as e:
            raise DownloadError(f"no answer from {url}") from e
        if response.status != 200:
            response.close()
            raise DownloadHTTPError(f"status {response.status} for {url}", response.status)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            response.close()
            raise DownloadError(f"encoded answer refused for {url}")
        return self._chunks(response, url)

    def _chunks(self, response: urllib3.BaseHTTPResponse, url: str) -> Iterator[bytes]:
        end = time.monotonic() + self._deadline_s
        try:
            while chunk := response.read1(_CHUNK_BYTES):
                yield chunk
                if time.monotonic() > end:
                    raise SlowRetrievalError(f"{url} took longer than {self._deadline_s} s")
            response.release_conn()
        except urllib3.exceptions.HTTPError as e:
            raise DownloadError(f"broken answer from {url}") from e
        finally:
            response.close()
