"""Bodies and headers: bounded before they are read, checked while they are, and nothing left of what is refused."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from device_client.bundle.digest import Digest
from device_client.errors import LimitError
from tests.unit.update_server.world import RELEASE, Client, World, code_of
from update_server import bodies, guard
from update_server.blobs import BlobStore, Upload, _storage_error

DATA = b"some bytes of a model"


def put(client: Client, data: Any, *, name: str | None = None, **arguments: Any) -> Any:
    name = Digest.of(DATA).hex if name is None else name
    return client("PUT", f"/v1/blobs/sha256/{name}", token=client.world.tokens[RELEASE], content=data, **arguments)


def stored(world: World) -> list[str]:
    return sorted(path.name for path in (world.data / "blobs" / "sha256").iterdir())


def test_a_blob_is_stored_once_and_can_be_sent_again(world: World, client: Client) -> None:
    assert put(client, DATA).status_code == 201
    assert put(client, DATA).status_code == 200
    assert stored(world) == [Digest.of(DATA).hex]
    assert client("GET", f"/blobs/sha256/{Digest.of(DATA).hex}").content == DATA


def test_sending_a_damaged_blob_again_repairs_it(world: World, client: Client) -> None:
    path = world.data / "blobs" / "sha256" / Digest.of(DATA).hex
    path.write_bytes(b"damaged")
    assert put(client, DATA).status_code == 200
    assert path.read_bytes() == DATA


def test_an_upload_with_other_bytes_leaves_nothing_behind(world: World, client: Client) -> None:
    answer = put(client, DATA + b"!")
    assert (answer.status_code, code_of(answer)) == (422, "blob_digest_mismatch")
    assert stored(world) == []


def test_a_name_that_is_not_a_digest_is_refused(world: World, client: Client) -> None:
    assert code_of(put(client, DATA, name="A" * 64)) == "digest_syntax"
    assert code_of(put(client, DATA, name="..")) in {"digest_syntax", "not_found"}
    assert stored(world) == []


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(client: Client) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    answer = client("POST", "/v1/enroll", content=never(), headers={"content-length": str(17 * 1024)})
    assert (answer.status_code, code_of(answer)) == (413, "body_too_large")
    answer = client("POST", "/v1/enroll", content=never(), headers={"content-length": "9" * 400})
    assert code_of(answer) == "body_too_large"


def test_an_endless_body_without_a_length_is_cut_off(client: Client) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 4096
            yield b"x" * 4096

    answer = client("POST", "/v1/enroll", content=endless())
    assert (answer.status_code, code_of(answer)) == (413, "body_too_large")
    assert sent <= 32 * 1024


def test_a_body_that_stops_coming_ends_the_request(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "IDLE_TIMEOUT_S", 0.05)

    async def stalls() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    answer = client("POST", "/v1/enroll", content=stalls())
    assert (answer.status_code, code_of(answer)) == (400, "bad_request")


def test_a_body_that_trickles_ends_the_request(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "IDLE_TIMEOUT_S", 0.2)

    async def trickle() -> AsyncIterator[bytes]:
        for _ in range(100):
            await asyncio.sleep(0.02)
            yield b"x"

    answer = client("POST", "/v1/enroll", content=trickle())
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert answer.headers["connection"] == "close"


def test_an_upload_that_breaks_off_leaves_nothing_behind(world: World, client: Client) -> None:
    class GoneError(Exception):
        pass

    async def breaks() -> AsyncIterator[bytes]:
        yield DATA
        raise GoneError

    with pytest.raises(GoneError):
        put(client, breaks())
    assert stored(world) == []


def test_a_full_disk_is_503_and_leaves_nothing_behind(world: World, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Upload, chunk: bytes) -> None:
        raise _storage_error(OSError(errno.ENOSPC, "No space left on device"), self._digest)

    monkeypatch.setattr(Upload, "write", full)
    answer = put(client, DATA)
    assert (answer.status_code, code_of(answer)) == (503, "storage_full")
    assert answer.headers["retry-after"]
    assert stored(world) == []


def test_a_blob_beyond_the_limit_is_refused_while_it_is_written(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    with pytest.raises(LimitError), store.begin_upload(Digest.of(DATA), max_bytes=4) as upload:
        upload.write(DATA)
    assert list((tmp_path / "sha256").iterdir()) == []


def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    (tmp_path / "sha256" / ".new-abc").write_bytes(b"half")
    assert store.remove_leftovers() == 1
    assert list((tmp_path / "sha256").iterdir()) == []


def test_headers_beyond_the_limit_are_refused(client: Client) -> None:
    answer = client("GET", "/v1/capabilities", headers={"x-filler": "a" * 17_000})
    assert (answer.status_code, code_of(answer)) == (431, "headers_too_large")
    assert client("GET", "/tuf/timestamp.json", headers={"x-filler": "a" * 17_000}).status_code == 431


def test_an_encoded_body_is_refused(client: Client) -> None:
    answer = client("POST", "/v1/enroll", content=b"x", headers={"content-encoding": "gzip"})
    assert (answer.status_code, code_of(answer)) == (415, "encoding_refused")


def test_a_reader_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(guard, "SEND_TIMEOUT_S", 0.05)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def stuck(message: Any) -> None:
        await asyncio.sleep(60)

    scope = {"type": "http", "method": "GET", "raw_path": b"/", "query_string": b"", "headers": []}
    with caplog.at_level(logging.WARNING, logger="update_server.access"):
        asyncio.run(guard.Guard(app)(scope, stuck, stuck))  # type: ignore[arg-type]
    assert "stopped reading" in caplog.text


def test_the_access_log_names_the_request_and_never_the_token(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    token = client.world.tokens[RELEASE]
    with caplog.at_level(logging.INFO, logger="update_server.access"):
        client("GET", f"/v1/drafts/{RELEASE}?secret=1", token=token)
    line = json.loads(caplog.records[-1].message)
    assert (line["method"], line["path"], line["status"]) == ("GET", f"/v1/drafts/{RELEASE}", 404)
    assert token not in caplog.text
    assert "secret" not in caplog.text


def test_a_fault_of_ours_tells_the_client_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("inner detail")

    monkeypatch.setattr(client.service.publisher, "role_bytes", broken)
    client._transport.raise_app_exceptions = False
    answer = client("GET", "/v1/roles/targets")
    assert (answer.status_code, code_of(answer)) == (500, "internal")
    assert "inner detail" not in answer.text


def test_a_flag_in_a_query_is_true_or_false(client: Client) -> None:
    assert code_of(client("PUT", f"/v1/drafts/{RELEASE}?replace=yes", token=client.world.tokens[RELEASE])) == "bad_request"
