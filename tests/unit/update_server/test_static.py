"""Metadata and blobs: what is on disk is what is answered, byte for byte, in whole or in one range."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from device_client.bundle.digest import Digest
from tests.unit.update_server.world import Client, World, code_of
from update_server import static
from update_server.app import create_app
from update_server.http_range import ByteRange, UnsatisfiableRangeError, matches, parse_range

DATA = bytes(range(200))
BLOB = Digest.of(DATA).hex
PATH = f"/blobs/sha256/{BLOB}"


@pytest.fixture
def blob(world: World) -> Path:
    path = world.data / "blobs" / "sha256" / BLOB
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", ByteRange(0, 0, 10)),
        ("bytes=3-", ByteRange(3, 9, 10)),
        ("bytes=3-99", ByteRange(3, 9, 10)),
        ("bytes=-4", ByteRange(6, 9, 10)),
        ("bytes=-99", ByteRange(0, 9, 10)),
        ("bytes=5-4", None),
        ("bytes=0-1,3-4", None),
        ("bytes=-", None),
        ("lines=0-1", None),
        ("bytes=a-b", None),
        ("bytes= 0-1", None),
        ("bytes=" + "9" * 40 + "-", None),
    ],
)
def test_a_range_header_means_one_range_or_nothing(header: str, expected: ByteRange | None) -> None:
    assert parse_range(header, size=10) == expected


@pytest.mark.parametrize(("header", "size"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-5", 0)])
def test_a_range_without_a_byte_is_unsatisfiable(header: str, size: int) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        parse_range(header, size=size)


def test_if_none_match_compares_weakly_and_knows_the_star() -> None:
    assert matches('W/"a", "b"', '"a"')
    assert matches("*", '"a"')
    assert not matches("", '"a"')


def test_a_blob_is_answered_whole(client: Client, blob: Path) -> None:
    answer = client("GET", PATH)
    assert (answer.status_code, answer.content) == (200, DATA)
    assert answer.headers["etag"] == f'"{BLOB}"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert "immutable" in answer.headers["cache-control"]
    head = client("HEAD", PATH)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "200")


@pytest.mark.parametrize(
    ("headers", "status", "content"),
    [
        ({"range": "bytes=10-19"}, 206, DATA[10:20]),
        ({"range": "bytes=190-"}, 206, DATA[190:]),
        ({"range": "bytes=-5"}, 206, DATA[-5:]),
        ({"range": "bytes=10-19", "if-range": f'"{BLOB}"'}, 206, DATA[10:20]),
        ({"range": "bytes=10-19", "if-range": '"other"'}, 200, DATA),
        ({"range": "bytes=10-19", "if-range": f'W/"{BLOB}"'}, 200, DATA),
        ({"range": "bytes=0-1,5-6"}, 200, DATA),
        ({"range": "bytes=10-19", "if-none-match": f'"{BLOB}"'}, 304, b""),
        ({"if-none-match": "*"}, 304, b""),
    ],
)
def test_ranges_and_conditions_of_a_blob(client: Client, blob: Path, headers: dict[str, str], status: int, content: bytes) -> None:
    answer = client("GET", PATH, headers=headers)
    assert (answer.status_code, answer.content) == (status, content)
    if status == 206:
        assert answer.headers["content-length"] == str(len(content))


def test_a_range_after_the_end_is_416_with_the_size(client: Client, blob: Path) -> None:
    answer = client("GET", PATH, headers={"range": "bytes=200-"})
    assert (answer.status_code, code_of(answer), answer.headers["content-range"]) == (416, "range_unsatisfiable", "bytes */200")


def test_a_large_blob_is_streamed_in_bounded_chunks(world: World, service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "CHUNK_BYTES", 64)
    (world.data / "blobs" / "sha256" / BLOB).write_bytes(DATA)
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sent.append(message["body"])

    async def receive() -> Any:
        raise AssertionError("a download reads no body")

    app = static.StaticFiles(metadata=service.metadata_folder, blobs=service.blobs_folder)
    scope = {"type": "http", "method": "GET", "raw_path": PATH.encode(), "headers": []}

    async def ask() -> None:
        await app(scope, receive, send)

    asyncio.run(ask())
    assert [len(chunk) for chunk in sent] == [64, 64, 64, 8]
    assert b"".join(sent) == DATA


def test_the_consistent_snapshot_path_of_a_target_is_its_blob(client: Client, blob: Path) -> None:
    for path in (f"/targets/release/clinic/digits/{BLOB}.1.0.0.json", f"/targets/audit/clinic/digits/{BLOB}.channel.json"):
        assert client("GET", path).content == DATA
    assert client("GET", f"/targets/other/clinic/digits/{BLOB}.1.0.0.json").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/tuf/../server.db",
        "/tuf/%2e%2e/server.toml",
        "/tuf/..%2fserver.toml",
        "/tuf//etc/passwd",
        "/tuf/01.root.json",
        "/tuf/1.root.json/",
        "/tuf/1.ROOT.json",
        "/tuf/1.root%2ejson",
        "/tuf/1.root.json%00",
        "/tuf/.new-x.json",
        "/tuf/",
        "/blobs/sha256/",
        f"/blobs/sha256/{BLOB.upper()}",
        f"/blobs/sha256/{BLOB}/..",
        f"/blobs/sha256/../sha256/{BLOB}",
        "/blobs/sha256/..",
        f"/targets/release/../digits/{BLOB}.1.json",
        f"/targets/release/clinic/digits/{BLOB}.json",
        "/targets/release/clinic/digits/1.0.0.json",
    ],
)
def test_a_path_that_is_not_exactly_a_legal_name_is_not_found(client: Client, blob: Path, path: str) -> None:
    status, body = ask_as_it_is(client, path.encode())
    assert (status, json.loads(body)["code"]) == (404, "not_found")


def ask_as_it_is(client: Client, raw_path: bytes) -> tuple[int, bytes]:
    """One request whose path no client library tidied up; decoded as a server does it."""
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "http_version": "1.1",
        "raw_path": raw_path,
        "path": unquote(raw_path.decode()),
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8470),
    }

    async def ask() -> None:
        await create_app(client.service)(scope, receive, send)

    asyncio.run(ask())
    return messages[0]["status"], b"".join(message.get("body", b"") for message in messages[1:])


def test_a_link_out_of_the_web_root_is_not_followed(world: World, client: Client) -> None:
    (world.data / "tuf" / "9.root.json").symlink_to(world.data / "server.toml")
    (world.data / "blobs" / "sha256" / ("0" * 64)).symlink_to(world.data / "server.toml")
    (world.data / "blobs" / "sha256" / ("1" * 64)).mkdir()
    assert client("GET", "/tuf/9.root.json").status_code == 404
    assert client("GET", f"/blobs/sha256/{'0' * 64}").status_code == 404
    assert client("GET", f"/blobs/sha256/{'1' * 64}").status_code == 404


def test_metadata_changed_on_disk_is_served_at_once(world: World, client: Client) -> None:
    path = world.data / "tuf" / "timestamp.json"
    before = client("GET", "/tuf/timestamp.json")
    assert (before.content, before.headers["cache-control"]) == (path.read_bytes(), "no-cache")
    changed = before.content.replace(b'"version":1', b'"version":7', 1)
    stat = path.stat()
    path.write_bytes(changed)  # in place, same length, and the modification time set back
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = client("GET", "/tuf/timestamp.json", headers={"if-none-match": before.headers["etag"]})
    assert (after.status_code, after.content) == (200, changed)
    assert client("GET", "/tuf/timestamp.json", headers={"if-none-match": after.headers["etag"]}).status_code == 304
    path.unlink()
    assert client("GET", "/tuf/timestamp.json").status_code == 404


def test_the_cache_of_metadata_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "MAX_CACHED_FILES", 3)
    app = static.StaticFiles(metadata=world.data / "tuf", blobs=world.data / "blobs")
    for number in range(1, 8):
        (world.data / "tuf" / f"{number}.x.json").write_bytes(b"{}")
        app._load(f"{number}.x.json")
    assert list(app._cache) == ["5.x.json", "6.x.json", "7.x.json"]
    assert app._cached_bytes == 6


def test_other_methods_are_refused_with_what_is_allowed(client: Client) -> None:
    answer = client("DELETE", "/tuf/timestamp.json")
    assert (answer.status_code, code_of(answer), answer.headers["allow"]) == (405, "method_not_allowed", "GET, HEAD")
    assert client("DELETE", "/v1/capabilities").headers["allow"] == "GET"
    assert code_of(client("GET", "/v1/nothing")) == "not_found"
    assert code_of(client("GET", "/docs")) == "not_found"
