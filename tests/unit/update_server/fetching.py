"""A TUF fetcher that asks the application in this process."""

from __future__ import annotations

from collections.abc import Iterator

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface

from tests.unit.update_server.world import Client


class AppFetcher(FetcherInterface):
    """``http://server/...`` is answered by ``client``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def _fetch(self, url: str) -> Iterator[bytes]:
        answer = self._client("GET", url.removeprefix("http://server"))
        if answer.status_code != 200:
            raise DownloadHTTPError("refused", answer.status_code)
        return iter([answer.content])
