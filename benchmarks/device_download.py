"""D3, D4, D5: what it costs in CPU and memory to get a blob and keep it, beside its parts and beside plain python-tuf.

    python -m benchmarks.device_download

The blob comes over real HTTP from another process, which does not count. CPU is that of this process, all threads. Each part
is one pass over the blob: read and dropped; hashed in memory; encrypted from memory into one buffer; one buffer written again
and again and synced. Beside it, the ratio to the same parts on one chunk that never leaves the cache: less than any pipeline can
reach. Interleaved, medians. Memory is the high-water mark of a fresh process above what it held before the download.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import urllib3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tuf.api.metadata import TargetFile
from tuf.ngclient import Updater, UpdaterConfig

from benchmarks.results_file import Goal
from benchmarks.trust_refresh import SERVE
from device_client.bundle.digest import Digest
from device_client.install.download import Wanted, download_missing
from device_client.install.download_config import DownloadConfig
from device_client.install.http import HttpClient
from device_client.install.sealed import CHUNK_BYTES, OVERHEAD_BYTES
from device_client.install.store import BlobStore
from device_client.install.transfer import Transfer
from device_client.trust.files import sync_folder
from device_client.trust.refs import BlobRef
from tests.simulator import RepositorySimulator
from tests.unit.device.keys import FixedKey

MIB = 1024 * 1024
_CPU_MIB = 100
_MEMORY_MIB = (10, 100, 500)
_ROUNDS = 9
_READ_BYTES = 256 * 1024
_PARTS = ("read", "hash", "encrypt", "write")
_CACHED = ("read", "hash cached", "encrypt cached", "write")


@dataclass(frozen=True)
class _Served:
    """A blob on a server, and a folder for what is measured."""

    url: str
    wanted: tuple[Wanted, ...]
    folder: Path

    @property
    def blob(self) -> BlobRef:
        return self.wanted[0].layer


def rows(*, megabytes: int = _CPU_MIB, memory: tuple[int, ...] = _MEMORY_MIB, rounds: int = _ROUNDS) -> list[dict[str, Any]]:
    """One row of CPU milliseconds and ratios, then one of memory for each size and way."""
    with tempfile.TemporaryDirectory(prefix="sealift-bench-") as name:
        found = [_cpu_row(Path(name) / "cpu", megabytes, rounds)]
        found += [_memory_row(Path(name) / f"{size}", size, "one blob") for size in memory]
        found.append(_memory_row(Path(name) / "four", memory[1], "four at once"))
        found.append(_memory_row(Path(name) / "zstd", memory[1], "zstd, window 4 MiB"))
    return found


def goals(measured: list[dict[str, Any]]) -> list[Goal]:
    """D3 and D4 from the row of CPU, D5 from the largest of the rows of memory."""
    (cpu,) = (row for row in measured if row["what"] == "CPU")
    memory = max(float(row["value"]) for row in measured if row["what"] == "memory")
    return [
        Goal("D3", "install of a 100 MiB blob: CPU, against the sum of its parts", cpu["value"], "<=", 1.15, "times"),
        Goal("D4", "the same, against plain python-tuf and a copy into place with fsync", cpu["against tuf"], "<=", 0.6, "times"),
        Goal("D5", "peak extra memory of download and store, largest of all sizes and ways", memory, "<=", 8.0, "MiB"),
    ]


def _cpu_row(folder: Path, megabytes: int, rounds: int) -> dict[str, Any]:
    with _served(folder, [_random(megabytes)]) as served:
        runs = {"install": _install(served), "tuf": _tuf(served), **_parts(served)}
        for run in runs.values():
            run()
        measured = [{name: _cpu(run) for name, run in runs.items()} for _ in range(rounds)]
    to_parts = sorted(round_["install"] / sum(round_[part] for part in _PARTS) for round_ in measured)
    to_cached = statistics.median(round_["install"] / sum(round_[part] for part in _CACHED) for round_ in measured)
    to_tuf = sorted(round_["install"] / round_["tuf"] for round_ in measured)
    return {
        "what": "CPU",
        "case": f"{megabytes} MiB",
        "value": round(statistics.median(to_parts), 3),
        "low": round(to_parts[0], 3),
        "high": round(to_parts[-1], 3),
        "to cached parts": round(to_cached, 3),
        "against tuf": round(statistics.median(to_tuf), 3),
        "tuf low": round(to_tuf[0], 3),
        "tuf high": round(to_tuf[-1], 3),
        **{f"{name} ms": round(1000 * statistics.median(round_[name] for round_ in measured)) for name in runs},
    }


def _cpu(run: Callable[[], None]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


def _install(served: _Served) -> Callable[[], None]:
    store, http = BlobStore(served.folder / "blobs", key=FixedKey()), HttpClient(served.url)

    def run() -> None:
        store.remove(served.blob.digest)
        assert download_missing([served.blob], store=store, http=http) == served.blob.length

    return run


def _tuf(served: _Served) -> Callable[[], None]:
    """As an updater on plain python-tuf does it: its own download, then into the place that the device reads, durably."""
    digest = served.blob.digest.hex
    place = served.folder / "tuf"
    place.mkdir()
    updater = Updater(
        str(place),
        served.url + "/",
        bootstrap=RepositorySimulator().bootstrap,
        config=UpdaterConfig(prefix_targets_with_hash=False),
    )
    info = TargetFile(served.blob.length, {"sha256": digest}, digest)

    def run() -> None:
        for name in (place / "target", place / digest):
            name.unlink(missing_ok=True)
        got = updater.download_target(info, str(place / "target"), served.url + "/blobs/sha256/")
        with Path(got).open("rb") as source, (place / "new").open("wb") as copy:
            shutil.copyfileobj(source, copy, MIB)
            copy.flush()
            os.fsync(copy.fileno())
        (place / "new").replace(place / digest)
        sync_folder(place)

    return run


def _parts(served: _Served) -> dict[str, Callable[[], None]]:
    pool = urllib3.PoolManager(retries=False)
    starts = range(0, served.blob.length, CHUNK_BYTES)
    blob = memoryview((served.folder / "web" / "blobs" / "sha256" / served.blob.digest.hex).read_bytes())
    content, record = os.urandom(CHUNK_BYTES), bytearray(CHUNK_BYTES + OVERHEAD_BYTES)
    cipher, path = AESGCM(bytes(32)), served.folder / "written"

    def read() -> None:
        response = pool.request("GET", f"{served.url}/blobs/sha256/{served.blob.digest.hex}", preload_content=False)
        while response.read1(_READ_BYTES):
            pass
        response.release_conn()

    def hash_(cached: bool = False) -> None:
        hasher = hashlib.sha256()
        for at in starts:
            hasher.update(content if cached else blob[at : at + CHUNK_BYTES])

    def encrypt(cached: bool = False) -> None:
        for at in starts:
            piece = content if cached else blob[at : at + CHUNK_BYTES]
            cipher.encrypt_into(at.to_bytes(12), piece, b"", memoryview(record)[12 : 12 + len(piece) + 16])

    def write() -> None:
        path.unlink(missing_ok=True)
        with path.open("wb", buffering=0) as file:
            for _ in starts:
                file.write(record)
            os.fsync(file.fileno())
        sync_folder(path.parent)

    cached = {"hash cached": partial(hash_, cached=True), "encrypt cached": partial(encrypt, cached=True)}
    return {"read": read, "hash": hash_, "encrypt": encrypt, "write": write, **cached}


def _memory_row(folder: Path, megabytes: int, case: str) -> dict[str, Any]:
    parts = 4 if case == "four at once" else 1
    blobs = [_random(megabytes // parts, seed=n) for n in range(parts)]
    with _served(folder, blobs, encoded=case.startswith("zstd")) as served:
        wanted = [[each.layer.digest.hex, each.layer.length, each.content.digest.hex, each.content.length, each.encoding]
                  for each in served.wanted]  # fmt: skip
        command = [sys.executable, "-m", "benchmarks.device_download", served.url, str(folder / "blobs"), json.dumps(wanted)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    extra_kib = int(done.stdout)
    return {"what": "memory", "case": f"{megabytes} MiB, {case}", "value": round(extra_kib / 1024, 2)}


def _measure_memory(url: str, folder: str, wanted: str) -> None:
    """In a process of its own: prints the KiB by which its memory rose above what it held before the download."""
    blobs = [
        Wanted(BlobRef(Digest(layer), size), BlobRef(Digest(content), decoded), encoding)
        for layer, size, content, decoded, encoding in json.loads(wanted)
    ]
    store, http = BlobStore(Path(folder), key=FixedKey()), HttpClient(url)
    store.put(Digest.of(b"warm"), b"warm")
    before = _status_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark begins here
    download_missing(blobs, store=store, http=http, transfer=Transfer(DownloadConfig()))
    print(_status_kib("VmHWM") - before)


def _status_kib(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(name)


def _random(megabytes: int, *, seed: int = 1) -> bytes:
    """Bytes that do not compress, made fast: blocks of one random megabyte, each turned by another number."""
    block = random.Random(seed).randbytes(MIB)
    return b"".join(block[n:] + block[:n] for n in range(megabytes))


@contextmanager
def _served(folder: Path, blobs: list[bytes], *, encoded: bool = False) -> Iterator[_Served]:
    place = folder / "web" / "blobs" / "sha256"
    place.mkdir(parents=True)
    wanted = []
    for data in blobs:
        layer = _encoded(data) if encoded else data
        (place / Digest.of(layer).hex).write_bytes(layer)
        wanted.append(Wanted(BlobRef.of(layer), BlobRef.of(data), "zstd" if encoded else None))
    server = subprocess.Popen([sys.executable, "-c", SERVE, str(folder / "web")], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield _Served(f"http://127.0.0.1:{int(server.stdout.readline())}", tuple(wanted), folder)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


def _encoded(data: bytes) -> bytes:
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=22, write_content_size=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(data) + compressor.flush()


def main() -> None:
    """Prints the rows and the goals; with arguments, one measurement of memory."""
    if len(sys.argv) > 1:
        return _measure_memory(*sys.argv[1:])
    measured = rows()
    for row in measured:
        print(row)
    for goal in goals(measured):
        print(goal.id, goal.value, goal.op, goal.goal, goal.unit, "met" if goal.met else "MISSED")
    return None


if __name__ == "__main__":
    main()
