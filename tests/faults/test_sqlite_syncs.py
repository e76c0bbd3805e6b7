"""A commit is one certain event: SQLite, set as the device sets it, syncs before ``COMMIT`` returns. Seen by strace."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_CHILD = """
import os, sys
from pathlib import Path
from device_client.install.database import create_database
from device_client.install.state import open_state
from device_client.trust.times import utc_now
path = Path(sys.argv[1])
create_database(path)
os.access("/created", 0)
with open_state(path) as state:
    for number in range(2):
        os.access("/begin", 0)
        with state.transaction():
            state.set_enrolment(f"token {number}", "accepted")
        os.access("/committed", 0)
os.access("/closed", 0)
"""


@pytest.mark.slow
def test_a_commit_returns_after_the_log_was_synced_and_a_close_after_the_file_was(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    trace = tmp_path / "trace"
    watched = "trace=openat,pwrite64,write,fsync,fdatasync,unlink,access,faccessat,faccessat2"
    subprocess.run(
        ["strace", "-f", "-y", "-e", watched, "-o", trace, sys.executable, "-c", _CHILD, tmp_path / "state.db"],
        check=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
    )
    text = trace.read_text()
    first, second = (part.split('"/committed"')[0] for part in text.split('"/begin"')[1:])
    for part in (first, second):
        written = [match.start() for match in re.finditer(r"p?write(64)?\(\d+<[^>]*state\.db-wal>", part)]
        synced = [match.start() for match in re.finditer(r"f(data)?sync\(\d+<[^>]*state\.db-wal>", part)]
        assert written, "a commit writes the log"
        assert synced[-1] > written[-1], "and syncs it after the last write"
    assert re.search(rf"f(data)?sync\(\d+<{re.escape(str(tmp_path))}>", text.split('"/created"')[1].split('"/committed"')[0]), (
        "the log's name is synced with the first commit"
    )
    closing = text.split('"/committed"')[-1].split('"/closed"')[0]
    moved = [match.start() for match in re.finditer(r"pwrite64\(\d+<[^>]*state\.db>", closing)]
    synced = [match.start() for match in re.finditer(r"f(data)?sync\(\d+<[^>]*state\.db>", closing)]
    assert moved[-1] < synced[-1] < closing.index("unlink("), "the log goes only after all of it is in the file, and synced"
