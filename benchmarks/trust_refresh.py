"""T4: what a poll with nothing new costs, beside plain python-tuf doing the same on the same repository.

    python -m benchmarks.trust_refresh

Both refresh a warm cache over real HTTP and look up the release and the audit entry of one version; Sealift adds strict
parsing, agreement, memory and trusted time. Interleaved in one process, by its CPU time (all threads); the server is another
process, which does not count.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuf.ngclient import Updater

from benchmarks.results_file import Goal
from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.path import BundlePath
from device_client.trust.client import MetadataClient
from device_client.trust.marks import Marks
from tests.simulator import AUDIT, RELEASE, RepositorySimulator

_SIZES = (1, 20, 200)  # releases in the repository, each with two audited variants
_ROUNDS = 15
_MIN_ROUND_S = 0.15
_GOAL = 1.3

SERVE = """
import functools, http.server, sys
class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    def log_message(self, *_): pass
    def send_error(self, code, *_):
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=sys.argv[1]))
print(server.server_port, flush=True)
server.serve_forever()
"""


def rows(sizes: tuple[int, ...] = _SIZES, *, rounds: int = _ROUNDS) -> list[dict[str, Any]]:
    """One row for each size of repository: median CPU of both in milliseconds, and the ratio with its spread."""
    return [_row(size, rounds) for size in sizes]


def goals(measured: list[dict[str, Any]]) -> list[Goal]:
    """T4, judged on the row that does worst."""
    worst = max(float(row["ratio"]) for row in measured)
    return [Goal("T4", "warm refresh and two look-ups: CPU, against plain python-tuf", worst, "<=", _GOAL, "times")]


def _row(releases: int, rounds: int) -> dict[str, Any]:
    sim = _repository(releases)
    path = sim.path(f"1.{releases // 2}")
    with tempfile.TemporaryDirectory(prefix="sealift-bench-") as name, _served(sim, Path(name) / "web") as url:
        plain = _plain(Path(name) / "plain", url, sim.bootstrap, path)
        ours = _ours(Path(name) / "ours", url, sim.bootstrap, path)
        plain(), ours()
        repeats = max(1, round(_MIN_ROUND_S / max(_cpu(plain, 3), 1e-4)))
        pairs = [(_cpu(plain, repeats), _cpu(ours, repeats)) for _ in range(rounds)]
    ratios = sorted(other / one for one, other in pairs)
    return {
        "releases": releases,
        "plain_ms": round(1000 * statistics.median(one for one, _ in pairs), 2),
        "sealift_ms": round(1000 * statistics.median(other for _, other in pairs), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_low": round(ratios[0], 3),
        "ratio_high": round(ratios[-1], 3),
    }


def _repository(releases: int) -> RepositorySimulator:
    sim = RepositorySimulator(now=datetime.now(UTC).replace(microsecond=0))
    for n in range(releases):
        manifest, counter = f"manifest of 1.{n}".encode(), Counter(0, n + 1)
        variants = tuple(Digest.of(f"{name} of 1.{n}".encode()) for name in ("int8", "fp32"))
        sim.add_release_entry(f"1.{n}", counter=counter, manifest=manifest)
        sim.add_audit_entry(f"1.{n}", counter=counter, manifest=manifest, variants=variants)
    sim.publish(RELEASE, AUDIT)
    return sim


@contextmanager
def _served(sim: RepositorySimulator, folder: Path) -> Iterator[str]:
    folder.mkdir(parents=True)
    versions = {"snapshot": sim.snapshot.version, "targets": sim.targets.version}
    versions |= {role: signed.version for role, signed in sim.delegated.items()}
    (folder / "timestamp.json").write_bytes(sim.role_bytes("timestamp"))
    for role, version in versions.items():
        (folder / f"{version}.{role}.json").write_bytes(sim.role_bytes(role))
    server = subprocess.Popen([sys.executable, "-c", SERVE, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/"
    finally:
        server.terminate()
        server.wait()


def _plain(cache: Path, url: str, root: bytes, path: BundlePath) -> Callable[[], None]:
    cache.mkdir()

    def run() -> None:
        updater = Updater(str(cache), url, bootstrap=root)
        updater.refresh()
        release, audit = updater.get_targetinfo(path.release_target), updater.get_targetinfo(path.audit_target)
        assert release is not None
        assert audit is not None
        assert release.hashes == audit.hashes

    return run


def _ours(cache: Path, url: str, root: bytes, path: BundlePath) -> Callable[[], None]:
    marks = Marks()

    def run() -> None:
        nonlocal marks
        trusted = MetadataClient(metadata_dir=cache, base_url=url, bootstrap=root).refresh(marks)
        trusted.agree(path)
        marks = trusted.marks

    return run


def _cpu(run: Callable[[], None], repeats: int) -> float:
    begun = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - begun) / repeats


def main() -> None:
    """Prints the rows."""
    for row in rows():
        print(row)


if __name__ == "__main__":
    main()
