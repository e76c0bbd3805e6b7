"""A download ends with exactly what was signed, or with nothing but a beginning that the next one can use."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_client.bundle import Digest
from device_client.errors import IntegrityError, SealiftError, StateError, TransportError
from device_client.install import space
from device_client.install.download import download_missing
from device_client.install.download_config import DEFAULT_DOWNLOAD, DownloadConfig
from device_client.install.http import HttpClient
from device_client.install.sealed import CHUNK_BYTES, sealed_bytes
from device_client.install.store import BlobStore
from device_client.install.transfer import Transfer, ask_command
from device_client.trust.refs import BlobRef
from tests.unit.device.keys import FixedKey
from tests.unit.device.ranges import Blobs, Reply, serving_blobs

SIZE = 4 * CHUNK_BYTES + 12_345
DATA = random.Random(7).randbytes(SIZE)
BLOB = BlobRef.of(DATA)
MANY = [random.Random(n).randbytes(CHUNK_BYTES * 2 + n) for n in range(6)]


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", key=FixedKey())


@pytest.fixture
def served() -> Iterator[Blobs]:
    with serving_blobs(DATA, *MANY) as found:
        yield found


def client(url: str, **changes: Any) -> HttpClient:
    return HttpClient(url, **{"timeout_s": 5.0, "deadline_s": 20.0, "retries": 2, "sleep": lambda _: None} | changes)


def download(served: Blobs, store: BlobStore, *blobs: BlobRef, transfer: Transfer | None = None, **changes: Any) -> int:
    return download_missing(blobs or (BLOB,), store=store, http=client(served.url, **changes), transfer=transfer)


def begin(served: Blobs, store: BlobStore, *, upto: int) -> None:
    """A poll whose download breaks off."""
    served.cuts.append(upto)
    with pytest.raises(TransportError):
        download(served, store, retries=0)
    served.seen.clear()


def only_partials(store: BlobStore) -> bool:
    return store.digests() == set()


@pytest.mark.parametrize("upto", [1, SIZE // 100, CHUNK_BYTES, SIZE // 2, SIZE * 99 // 100, SIZE - 1])
def test_a_cut_connection_goes_on_where_whole_chunks_end(served: Blobs, store: BlobStore, upto: int) -> None:
    """A19."""
    begin(served, store, upto=upto)
    assert only_partials(store)
    kept = upto // CHUNK_BYTES * CHUNK_BYTES
    assert download(served, store) == SIZE - kept
    assert served.ranges() == [f"bytes={kept}-" if kept else None]
    assert store.read(BLOB.digest) == DATA
    assert store.size_bytes() == sealed_bytes(SIZE)


def test_within_a_poll_a_cut_connection_goes_on_too(served: Blobs, store: BlobStore) -> None:
    served.cuts += [CHUNK_BYTES + 5, CHUNK_BYTES + 5]
    assert download(served, store) == SIZE - 2 * CHUNK_BYTES
    assert served.ranges() == [None, f"bytes={CHUNK_BYTES}-", f"bytes={2 * CHUNK_BYTES}-"]
    assert served.seen[1][1]["If-Range"] == f'"{BLOB.digest.hex}"'
    assert store.read(BLOB.digest) == DATA


def ignoring(reply: Reply, _: str) -> Reply:
    return replace(reply, status=200, body=DATA, headers={"ETag": reply.headers["ETag"]})


def told(**headers: str | None) -> Callable[[Reply, str], Reply]:
    def change(reply: Reply, _: str) -> Reply:
        if reply.status != 206:
            return reply
        changed = {**reply.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return replace(reply, headers={name: value for name, value in changed.items() if value is not None})

    return change


def status(code: int) -> Callable[[Reply, str], Reply]:
    return lambda reply, _: replace(reply, status=code, body=b"") if reply.status == 206 else reply


END = SIZE - 1
WRONG_RANGES: dict[str, Callable[[Reply, str], Reply]] = {
    "it ignores ranges": ignoring,
    "it begins one byte later": told(Content_Range=f"bytes {2 * CHUNK_BYTES + 1}-{END}/{SIZE}"),
    "it begins at the beginning": told(Content_Range=f"bytes 0-{END}/{SIZE}"),
    "it ends early": told(Content_Range=f"bytes {2 * CHUNK_BYTES}-{END - 1}/{SIZE}"),
    "another total": told(Content_Range=f"bytes {2 * CHUNK_BYTES}-{END}/{SIZE + 1}"),
    "an unknown total": told(Content_Range=f"bytes {2 * CHUNK_BYTES}-{END}/*"),
    "no content range": told(Content_Range=None),
    "nonsense": told(Content_Range="bytes"),
    "another etag": told(ETag='"somebody else"'),
    "a weak etag": told(ETag=f'W/"{BLOB.digest.hex}"'),
    "no etag": told(ETag=None),
    "several parts": told(Content_Range=None, Content_Type="multipart/byteranges; boundary=x"),
    "416": status(416),
}


@pytest.mark.parametrize("change", WRONG_RANGES.values(), ids=WRONG_RANGES.keys())
def test_an_answer_that_is_not_the_rest_of_the_same_blob_is_thrown_away(
    served: Blobs, store: BlobStore, change: Callable[[Reply, str], Reply]
) -> None:
    """A20: a clean restart within the same poll, never a splice."""
    begin(served, store, upto=2 * CHUNK_BYTES)
    served.change = change
    assert download(served, store, retries=0) == SIZE
    assert served.ranges() == [f"bytes={2 * CHUNK_BYTES}-", None]
    assert store.read(BLOB.digest) == DATA


SPOILT: dict[str, Callable[[Reply, str], Reply]] = {
    "other bytes": lambda reply, _: replace(reply, body=bytes(len(reply.body))) if reply.status == 206 else reply,
    "a byte more": lambda reply, _: replace(reply, body=reply.body + b"x") if reply.status == 206 else reply,
    "a byte less": lambda reply, _: replace(reply, body=reply.body[:-1]) if reply.status == 206 else reply,
    "the whole blob as its rest": lambda reply, _: replace(reply, body=DATA) if reply.status == 206 else reply,
}


@pytest.mark.parametrize("change", SPOILT.values(), ids=SPOILT.keys())
def test_a_spliced_blob_is_found_by_its_digest_and_fetched_whole(
    served: Blobs, store: BlobStore, change: Callable[[Reply, str], Reply]
) -> None:
    begin(served, store, upto=2 * CHUNK_BYTES)
    served.change = change
    download(served, store)
    assert served.ranges() == [f"bytes={2 * CHUNK_BYTES}-", None]
    assert store.read(BLOB.digest) == DATA


def test_a_spoilt_beginning_costs_no_poll(served: Blobs, store: BlobStore) -> None:
    """R13: who was on the network once cannot keep the blob from arriving afterwards."""
    served.change = lambda reply, _: replace(reply, body=bytes(len(reply.body)))
    begin(served, store, upto=3 * CHUNK_BYTES)
    served.change = lambda reply, _: reply
    download(served, store)
    assert store.read(BLOB.digest) == DATA


def test_a_wrong_blob_is_refused_once_leaves_nothing_and_is_welcome_when_right(served: Blobs, store: BlobStore) -> None:
    """R13."""
    for _ in range(5):
        served.change = lambda reply, _: replace(reply, body=reply.body[:-1] + b"!")
        served.seen.clear()
        with pytest.raises(IntegrityError) as caught:
            download(served, store)
        assert caught.value.code == "blob_digest_mismatch"
        assert len(served.seen) == 1
        assert store.size_bytes() == 0
    served.change = lambda reply, _: reply
    download(served, store)
    assert store.read(BLOB.digest) == DATA


def test_a_source_without_ranges_is_enough(store: BlobStore) -> None:
    class Plain:
        def download(self, path: str, *, size: int, write: Callable[[bytes], None]) -> int:
            assert path.endswith(BLOB.digest.hex)
            write(DATA)
            return size

        def with_retries(self, action: Callable[[], Any]) -> Any:
            return action()

    assert download_missing([BLOB, *map(BlobRef.of, ())], store=store, http=Plain()) == SIZE
    assert store.read(BLOB.digest) == DATA


_KILLED = """
import sys
from pathlib import Path
from device_client.bundle import Digest
from device_client.install.download import download_missing
from device_client.install.http import HttpClient
from device_client.install.store import BlobStore
from device_client.trust.refs import BlobRef
from tests.unit.device.keys import FixedKey
root, url, digest, size = sys.argv[1:]
download_missing([BlobRef(Digest(digest), int(size))], store=BlobStore(Path(root), key=FixedKey()), http=HttpClient(url))
"""


def test_a_download_survives_kill_9(served: Blobs, store: BlobStore) -> None:
    arrived, released = threading.Event(), threading.Event()

    def hold(reply: Reply, _: str) -> Reply:
        if reply.status == 200:
            return reply
        arrived.set()
        released.wait(20)
        return reply

    served.cuts.append(3 * CHUNK_BYTES + 99)
    served.change = hold
    command = [sys.executable, "-c", _KILLED, str(store.root), served.url, BLOB.digest.hex, str(SIZE)]
    with subprocess.Popen(command) as process:
        assert arrived.wait(20)
        process.send_signal(signal.SIGKILL)
    released.set()
    served.change = lambda reply, _: reply
    served.seen.clear()
    assert only_partials(store)
    assert DATA[:1000] not in (store.root / "partial" / BLOB.digest.hex).read_bytes()
    assert download(served, store) == SIZE - 3 * CHUNK_BYTES
    assert store.read(BLOB.digest) == DATA


def test_several_blobs_come_at_once_over_connections_that_stay_open(served: Blobs, store: BlobStore) -> None:
    served.barrier = threading.Barrier(3)  # no answer before three ask
    blobs = [BlobRef.of(data) for data in MANY]
    received = download(served, store, *blobs, transfer=Transfer(DownloadConfig(parallel=3)))
    assert received == sum(map(len, MANY))
    assert len(served.connections) == 3
    assert [store.read(blob.digest) for blob in blobs] == MANY


def test_one_wrong_blob_stops_the_others_and_they_go_on_at_the_next_poll(served: Blobs, store: BlobStore) -> None:
    bad, *good = (BlobRef.of(data) for data in MANY)
    served.change = lambda reply, path: replace(reply, body=bytes(len(reply.body))) if path.endswith(bad.digest.hex) else reply
    with pytest.raises(IntegrityError) as caught:
        download(served, store, bad, *good)
    assert caught.value.code == "blob_digest_mismatch"
    assert bad.digest not in store.digests()
    served.change = lambda reply, _: reply
    download(served, store, bad, *good)
    assert store.digests() == {BlobRef.of(data).digest for data in MANY}


def test_a_refusal_wins_over_a_lost_connection_when_both_happen(store: BlobStore) -> None:
    both = threading.Barrier(2)

    class Failing(HttpClient):
        def download(self, path: str, *, size: int, write: Callable[[bytes], None]) -> int:
            both.wait(10)
            if path.endswith(BLOB.digest.hex):
                raise IntegrityError("other bytes", code="blob_digest_mismatch")
            raise TransportError("lost", code="transport")

    for blobs in ([BLOB, BlobRef.of(MANY[0])], [BlobRef.of(MANY[0]), BLOB]):
        with pytest.raises(IntegrityError):
            download_missing(blobs, store=store, http=Failing("http://127.0.0.1:9", retries=0))


# Limits of the owner.


def test_a_full_disk_is_said_before_the_first_byte(served: Blobs, store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """F03."""
    needed = sealed_bytes(SIZE)
    monkeypatch.setattr(space, "free_bytes", lambda _: needed + DEFAULT_DOWNLOAD.reserve_bytes - 1)
    with pytest.raises(StateError) as caught:
        download(served, store)
    assert caught.value.code == "disk_full"
    assert str(needed) in str(caught.value)
    assert str(needed + DEFAULT_DOWNLOAD.reserve_bytes - 1) in str(caught.value)
    assert served.seen == []
    monkeypatch.setattr(space, "free_bytes", lambda _: needed + DEFAULT_DOWNLOAD.reserve_bytes)
    assert download(served, store) == SIZE


def test_unfinished_blobs_of_others_make_room_and_ones_own_counts(
    served: Blobs, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(served, store, upto=2 * CHUNK_BYTES)
    other = store.root / "partial" / Digest.of(b"superseded").hex
    other.write_bytes(bytes(1000))
    left = DEFAULT_DOWNLOAD.reserve_bytes + sealed_bytes(SIZE) - store.partial_bytes(BLOB.digest)
    monkeypatch.setattr(space, "free_bytes", lambda _: left - (1 if other.exists() else 0))
    assert download(served, store) == SIZE - 2 * CHUNK_BYTES
    assert not other.exists()


def test_a_disk_that_fills_up_during_the_download_gives_its_space_back(
    served: Blobs, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F03."""
    written = 0

    def limited(self: Any, data: memoryview) -> None:
        nonlocal written
        written += len(data)
        if written > 2 * CHUNK_BYTES:
            raise OSError(28, "No space left on device")
        self._file.write(data)

    monkeypatch.setattr("device_client.install.partial.BlobWriter._write_all", limited)
    with pytest.raises(StateError) as caught:
        download(served, store)
    assert caught.value.code == "disk_full"
    assert store.size_bytes() == 0


def test_a_budget_of_bytes_ends_a_poll_and_the_next_ones_finish(served: Blobs, store: BlobStore) -> None:
    config = DownloadConfig(max_bytes_per_poll=2 * CHUNK_BYTES)
    codes = []
    for _ in range(8):
        try:
            download(served, store, transfer=Transfer(config))
            break
        except SealiftError as error:
            codes.append(error.code)
    assert set(codes) == {"byte_budget"}
    assert 2 <= len(codes) <= 4
    assert store.read(BLOB.digest) == DATA


def test_a_spent_budget_asks_for_nothing_more(served: Blobs, store: BlobStore) -> None:
    transfer = Transfer(DownloadConfig(max_bytes_per_poll=SIZE))
    with pytest.raises(StateError):
        download(served, store, transfer=transfer)
    served.seen.clear()
    with pytest.raises(StateError) as caught:
        download(served, store, transfer=transfer)
    assert caught.value.code == "byte_budget"
    assert served.seen == []


def test_a_metered_connection_is_asked_about_once_a_poll_and_nothing_is_fetched(served: Blobs, store: BlobStore) -> None:
    asked: list[object] = []
    config = DownloadConfig(may_use_metered=False, metered_command=("/bin/x",))

    def transfer(answer: bool) -> Transfer:
        return Transfer(config, is_metered=lambda command: asked.append(command) or answer)

    metered = transfer(True)
    for _ in range(2):
        with pytest.raises(StateError) as caught:
            download(served, store, transfer=metered)
        assert caught.value.code == "metered"
    assert (asked, served.seen) == ([("/bin/x",)], [])
    assert download(served, store, transfer=transfer(False)) == SIZE
    assert download(served, store, transfer=metered) == 0, "what is there needs no connection"


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (["/bin/sh", "-c", "exit 0"], True),
        (["/bin/sh", "-c", "exit 1"], False),
        (["/bin/sh", "-c", "exit 2"], True),
        (["/bin/sh", "-c", "kill -9 $$"], True),
        (["/no/such/program"], True),
        (["/bin/sh", "-c", 'test -z "$SECRET"; exit 1'], False),
    ],
)
def test_only_a_clear_no_of_the_owners_command_counts_as_unmetered(
    command: list[str], answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    assert ask_command(command) is answer


def test_the_rate_is_kept_over_all_connections(served: Blobs, store: BlobStore) -> None:
    now = 0.0
    lock = threading.Lock()

    def sleep(seconds: float) -> None:
        nonlocal now
        with lock:
            now += seconds

    transfer = Transfer(DownloadConfig(max_bytes_per_s=1_000_000), clock=lambda: now, sleep=sleep)
    received = download(served, store, *(BlobRef.of(data) for data in MANY), transfer=transfer)
    assert now >= received / 1_000_000 * 0.9
    assert os.environ is not None
