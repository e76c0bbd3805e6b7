"""The client of the public TUF conformance suite keeps that suite's protocol, and refuses what a TUF client must refuse.

It runs as the suite runs it: a process for each step, a real HTTP server on loopback, and no word but the exit status,
the files in its two folders, and the requests that arrive.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import TargetFile

from device_client.bundle.digest import Digest
from tests.simulator import RELEASE, RepositorySimulator

CLIENT = Path(__file__).with_name("client")
ARTIFACT = "release/digits/ocr/1.0.0.json"


class Served:
    """A repository behind HTTP, and one client with its two folders."""

    def __init__(self, folder: Path) -> None:
        self.sim = RepositorySimulator(now=datetime.now(UTC).replace(microsecond=0))
        self.metadata, self.artifacts, self._root = folder / "metadata", folder / "artifacts", folder / "first-root"
        self.metadata.mkdir()
        self.artifacts.mkdir()
        self._root.write_bytes(self.sim.bootstrap)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.sim))
        self._url = f"http://127.0.0.1:{self.server.server_port}"

    def list_artifact(self, data: bytes, *, path: str = ARTIFACT, served: bytes | None = None) -> str:
        """Lists ``data`` under the release role, and serves it or ``served``; returns its file name on the server."""
        sha256 = Digest.of(data).hex
        self.sim.delegated_role(RELEASE).targets[path] = TargetFile(len(data), {"sha256": sha256}, path)
        self.sim.publish(RELEASE)
        name = f"{sha256}.{path.rpartition('/')[2]}"
        self.sim.served[name] = data if served is None else served
        return name

    def init(self) -> int:
        return self._run("init", str(self._root))

    def refresh(self) -> int:
        return self._run("--metadata-url", f"{self._url}/metadata/", "refresh")

    def download(self, *names: str) -> int:
        wanted = [word for name in names or (ARTIFACT,) for word in ("--target-name", name)]
        folders = ("--target-dir", str(self.artifacts), "--target-base-url", f"{self._url}/targets/")
        return self._run("--metadata-url", f"{self._url}/metadata/", *wanted, *folders, "download")

    def new_requests(self) -> list[str]:
        """What was asked for since the last call."""
        asked = [*self.sim.requests]
        self.sim.requests.clear()
        return asked

    def stored(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self.artifacts.rglob("*")) if path.is_file()]

    def kept(self) -> dict[str, bytes]:
        """The role files that the client calls verified, by name."""
        return {path.name: path.read_bytes() for path in self.metadata.glob("*.json")}

    def _run(self, *words: str) -> int:
        command = [sys.executable, str(CLIENT), "--metadata-dir", str(self.metadata), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode


def _handler(sim: RepositorySimulator) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                data = b"".join(sim._fetch(self.path))
            except DownloadHTTPError as e:
                self.send_error(e.status_code)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
            pass

    return Handler


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    with made.server as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        server.shutdown()
        thread.join(10)


def test_the_first_root_is_stored_without_a_request(served: Served) -> None:
    assert served.init() == 0
    assert served.kept() == {"root.json": served.sim.bootstrap}
    assert served.new_requests() == []


def test_a_refresh_without_a_first_root_fails_before_any_request(served: Served) -> None:
    assert served.refresh() == 1
    assert served.new_requests() == []


def test_a_refresh_asks_for_each_top_level_role_once_and_keeps_the_bytes_as_served(served: Served) -> None:
    served.init()
    assert served.refresh() == 0
    assert served.new_requests() == ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
    assert served.kept() == {f"{role}.json": served.sim.role_bytes(role) for role in ("root", "timestamp", "snapshot", "targets")}


def test_an_older_timestamp_is_refused_and_the_newer_one_kept(served: Served) -> None:
    served.init()
    old = served.sim.role_bytes("timestamp")
    served.sim.publish("targets")
    assert served.refresh() == 0
    kept = served.kept()
    served.sim.served["timestamp.json"] = old
    assert served.refresh() == 1
    assert served.kept() == kept


def test_an_expired_timestamp_is_refused_and_not_followed(served: Served) -> None:
    served.init()
    served.sim.timestamp.expires = served.sim.now - timedelta(hours=1)
    assert served.refresh() == 1
    assert served.new_requests() == ["2.root.json", "timestamp.json"]


def test_a_role_signed_by_the_keys_of_another_is_refused_and_not_kept(served: Served) -> None:
    served.init()
    served.sim.signers["snapshot"] = served.sim.signers["timestamp"]
    assert served.refresh() == 1
    assert set(served.kept()) == {"root.json", "timestamp.json"}


def test_a_role_that_the_server_withholds_fails_the_refresh(served: Served) -> None:
    served.init()
    served.sim.timestamp.snapshot_meta.version = 2
    assert served.refresh() == 1
    assert set(served.kept()) == {"root.json", "timestamp.json"}


def test_other_bytes_of_the_listed_length_are_refused_and_not_stored(served: Served) -> None:
    served.init()
    served.list_artifact(b"what was signed", served=b"what was forged")
    assert served.download() == 1
    assert served.stored() == []


def test_more_bytes_than_listed_are_refused_and_not_stored(served: Served) -> None:
    served.init()
    served.list_artifact(b"what was signed", served=b"what was signed, and more")
    assert served.download() == 1
    assert served.stored() == []


def test_an_unchanged_artifact_is_not_asked_for_again(served: Served) -> None:
    served.init()
    name = served.list_artifact(b"what was signed")
    assert served.download() == 0
    assert served.new_requests()[-2:] == [f"1.{RELEASE}.json", name]
    assert served.download() == 0
    assert served.new_requests() == ["2.root.json", "timestamp.json"]
    assert served.stored() == [b"what was signed"]


def test_a_changed_artifact_takes_the_place_of_the_old_one(served: Served) -> None:
    served.init()
    served.list_artifact(b"the first")
    assert served.download() == 0
    served.list_artifact(b"the second")
    assert served.download() == 0
    assert served.stored() == [b"the second"]


def test_several_artifacts_share_one_refresh_and_the_first_failure_ends_them(served: Served) -> None:
    served.init()
    other = "release/digits/ocr/1.1.0.json"
    served.list_artifact(b"the first")
    served.list_artifact(b"the other", path=other)
    assert served.download(ARTIFACT, "release/digits/ocr/9.9.9.json", other) == 1
    assert served.new_requests().count("timestamp.json") == 1
    assert served.stored() == [b"the first"]
