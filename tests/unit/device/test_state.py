"""The device's memory: whole transactions, values that only grow, and no file that is not exactly ours."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from device_client.bundle import Counter, Digest, ModelPath
from device_client.errors import StateError
from device_client.install.database import create_database
from device_client.install.machine import State
from device_client.install.state import MAX_JOURNAL_ROWS, Deployment, DeviceState, JournalEntry, Progress, open_state
from device_client.install.state_schema import ADDED, USER_VERSION
from device_client.trust.marks import Marks, VersionMark
from device_client.trust.trusted_time import BootTime, TimeFloor

NOW = datetime(2026, 6, 1, tzinfo=UTC)
OCR = ModelPath("digits", "ocr")
A, B = Digest.of(b"a"), Digest.of(b"b")
AT = BootTime("boot-1", 1000.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_database(tmp_path / "state.db")
    return tmp_path / "state.db"


def deployment(counter: int, *, manifest: Digest = A) -> Deployment:
    return Deployment(OCR, f"{counter}.0.0", manifest, "int8", B, Counter(0, counter), 1, NOW)


def activate(state: DeviceState, counter: int, *, manifest: Digest = A, floor: int = 0) -> None:
    with state.transaction():
        made = deployment(counter, manifest=manifest)
        identifier = state.activate(made, {"targets.json": b"{}"})
        state.commit(replace(made, id=identifier), floor=Counter(0, floor))


def code(path: Path) -> str:
    with pytest.raises(StateError) as caught:
        open_state(path)
    return caught.value.code


def test_an_activation_is_found_again_with_its_evidence(path: Path) -> None:
    with open_state(path) as state:
        activate(state, 1)
        activate(state, 2, manifest=B, floor=1)
    with open_state(path) as state:
        assert state.active(OCR) == deployment(2, manifest=B)
        assert state.previous(OCR) == deployment(1)
        assert state.evidence(state.active(OCR)) == {"targets.json": b"{}"}
        memory = state.memory(OCR)
        assert (memory.counter, memory.manifest, memory.floor) == (Counter(0, 2), B, Counter(0, 1))
        assert memory.versions == {"1.0.0": A, "2.0.0": B}
        assert state.active(ModelPath("digits", "other")) is None


def test_a_failed_transaction_leaves_nothing(path: Path) -> None:
    with open_state(path) as state:
        with contextlib.suppress(KeyboardInterrupt), state.transaction():
            state.commit(replace(deployment(1), id=state.activate(deployment(1), {})), floor=Counter(0, 0))
            raise KeyboardInterrupt
        assert state.active(OCR) is None
        assert state.memory(OCR).counter is None


def test_a_change_outside_a_transaction_is_a_programming_error(path: Path) -> None:
    with open_state(path) as state, pytest.raises(RuntimeError):
        state.remember_roots({1: b"root"})


def test_counters_floors_seqs_and_marks_never_come_down(path: Path) -> None:
    with open_state(path) as state:
        activate(state, 5, floor=4)
        activate(state, 3, manifest=B, floor=1)
        with state.transaction():
            state.remember_seq(OCR, A, 7)
            state.remember_seq(OCR, A, 2)
            state.remember_withdrawal(OCR, B, [A], 9)
            state.remember_withdrawal(OCR, B, [A], 3)
            state.remember_marks(Marks((VersionMark("snapshot", 5, A, A),)), at=AT)
            state.remember_marks(Marks((VersionMark("snapshot", 4, B, A), VersionMark("snapshot", 1, B, B))), at=AT)
            state.remember_marks(Marks(()), at=AT)
        memory = state.memory(OCR)
        assert (memory.counter, memory.manifest, memory.floor) == (Counter(0, 5), A, Counter(0, 4))
        assert memory.seqs == {A: 7, B: 9}
        assert (memory.withdrawn, memory.withdrawn_variants) == ({B: 9}, {A: 9})
        assert {(mark.version, mark.keyset) for mark in state.marks().versions} == {(5, A), (1, B)}


def readings(state: DeviceState, at: BootTime) -> dict[str, datetime]:
    return {floor.role: floor.reading(at) for floor in state.marks().times}


def test_times_never_read_earlier_and_go_on_across_boots(path: Path) -> None:
    first = TimeFloor("targets", A, NOW, "boot-1", 1000.0)
    with open_state(path) as state:
        with state.transaction():
            state.remember_marks(Marks(times=(first,)), at=AT)
        with state.transaction():
            state.remember_marks(Marks(times=(TimeFloor("targets", A, NOW - timedelta(days=1), "boot-1", 900.0),)), at=AT)
        assert readings(state, AT) == {"targets": NOW}
        later = BootTime("boot-1", 1000.0 + 3600.75)
        with state.transaction():
            state.remember_marks(Marks(), at=later)
        assert readings(state, later) == {"targets": NOW + timedelta(seconds=3600.75)}, "exactly as before"
        next_boot = BootTime("boot-2", 5.0)
        assert readings(state, next_boot) == {"targets": NOW + timedelta(seconds=3605)}, "the hour of the boot before counts"


def back_to(version: int) -> list[str]:
    """Statements that make a database of this format one of an older."""
    later = [name for added, names in ADDED.items() if added > version for name in reversed(names)]
    return [*(f"DROP TABLE {name}" for name in later), f"PRAGMA user_version = {version}"]


@pytest.mark.parametrize("version", [1, 2])
def test_a_state_of_format_1_is_brought_to_format_2_with_all_it_holds(path: Path, version: int) -> None:
    with open_state(path) as state:
        activate(state, 1, floor=1)
        activate(state, 2, manifest=B)
        before = state.remembered()
    run_sql(path, *back_to(version))
    with open_state(path) as state:
        assert state.remembered() == before
        assert state.active(OCR) == deployment(2, manifest=B)
        assert state.committed(OCR) == {A, B}, "before probation there was, activated meant committed"
        assert state._db.row("PRAGMA user_version")[0] == USER_VERSION == 3


def test_a_planted_table_is_not_carried_over_from_format_1(path: Path) -> None:
    run_sql(path, *back_to(1), "CREATE TABLE evil (x)")
    assert code(path) == "state_schema"


def test_report_counters_are_used_once_and_reports_wait_until_removed(path: Path) -> None:
    with open_state(path) as state:
        with state.transaction():
            state.add_report(state.next_report_counter(), b"one")
            state.add_report(state.next_report_counter(), b"two")
        with state.transaction():
            state.remove_report(1)
            state.skip_report_counter(10)
            state.skip_report_counter(4)
            assert state.next_report_counter() == 11
        assert state.outbox() == [(2, b"two")]


def test_known_bad_ends_when_it_is_said_to(path: Path) -> None:
    with open_state(path) as state, state.transaction():
        state.remember_bad(OCR, A, cause="selftest_mismatch", until=None)
        state.remember_bad(OCR, B, cause="selftest_memory", until=NOW + timedelta(days=1))
        assert state.known_bad(OCR, A, now=NOW + timedelta(days=9999)) == "selftest_mismatch"
        assert state.known_bad(OCR, B, now=NOW) == "selftest_memory"
        assert state.known_bad(OCR, B, now=NOW + timedelta(days=1)) is None
        assert state.known_bad(ModelPath("digits", "other"), A, now=NOW) is None


def test_progress_root_and_enrolment_are_kept(path: Path) -> None:
    with open_state(path) as state:
        assert (state.progress(OCR).state, state.roots(), state.enrolment(), state.generation()) == (
            State.IDLE,
            {},
            (None, None),
            1,
        )
        with state.transaction():
            state.set_progress(OCR, Progress(State.VERIFY, "1", str(A), NOW))
            state.remember_roots({1: b"root"})
            state.remember_roots({1: b"another", 2: b"next"})
            state.set_enrolment("secret", "pending")
        assert state.progress(OCR) == Progress(State.VERIFY, "1", str(A), NOW)
        assert (state.roots(), state.enrolment()) == ({1: b"root", 2: b"next"}, ("secret", "pending"))


def test_the_journal_is_bounded_and_newest_first(path: Path) -> None:
    with open_state(path) as state:
        with state.transaction():
            for index in range(MAX_JOURNAL_ROWS + 5):
                state.write_journal(JournalEntry(NOW, str(OCR), "refused", str(index), "code", None))
        entries = state.journal(limit=MAX_JOURNAL_ROWS * 2)
        assert len(entries) == MAX_JOURNAL_ROWS
        assert entries[0] == state.last_entry(OCR) == JournalEntry(NOW, str(OCR), "refused", str(MAX_JOURNAL_ROWS + 4), "code")


def test_settings_of_the_connection_are_the_documented_ones(path: Path) -> None:
    with open_state(path) as state:
        found = {
            name: state._db.row(f"PRAGMA {name}")[0] for name in ("synchronous", "trusted_schema", "journal_mode", "foreign_keys")
        }
    assert found == {"synchronous": 2, "trusted_schema": 0, "journal_mode": "wal", "foreign_keys": 1}


def test_who_only_reads_can_change_nothing_and_gets_no_foreign_schema(path: Path) -> None:
    """The evidence proves what the rows say; a planted trigger must not run all the same."""
    with open_state(path) as state:
        activate(state, 1)
    with open_state(path, read_only=True) as reader:
        assert reader.active(OCR) == deployment(1)
        with pytest.raises(StateError) as caught, reader.transaction():
            reader.remember_bad(OCR, A, cause="memory", until=None)
        assert caught.value.code == "state_unwritable"
    run_sql(path, "CREATE VIEW planted AS SELECT 1")
    with pytest.raises(StateError) as caught:
        open_state(path, read_only=True)
    assert caught.value.code == "state_schema"


def test_an_older_format_is_brought_up_for_readers_too(path: Path) -> None:
    run_sql(path, *back_to(1))
    with open_state(path, read_only=True) as reader:
        assert reader.active(OCR) is None
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (USER_VERSION,)


def test_an_existing_state_is_never_made_anew(path: Path) -> None:
    with open_state(path) as state:
        activate(state, 1)
    with pytest.raises(StateError):
        create_database(path)
    with open_state(path) as state:
        assert state.active(OCR) is not None


def test_a_missing_state_is_an_error_and_not_an_empty_memory(tmp_path: Path) -> None:
    assert code(tmp_path / "state.db") == "state_missing"
    assert not list(tmp_path.iterdir())


def run_sql(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_state_of_a_newer_client_is_refused_and_left_alone(path: Path) -> None:
    run_sql(path, f"PRAGMA user_version = {USER_VERSION + 1}")
    before = path.read_bytes()
    assert code(path) == "state_newer"
    assert path.read_bytes() == before


SCHEMAS = {
    "a planted trigger": "CREATE TRIGGER evil AFTER INSERT ON journal BEGIN DELETE FROM counters; END",
    "a planted view": "CREATE VIEW evil AS SELECT * FROM device",
    "another table": "CREATE TABLE evil (x)",
    "a changed table": "ALTER TABLE journal ADD COLUMN evil TEXT",
    "a missing table": "DROP TABLE seqs",
    "an index of others": "CREATE INDEX evil ON journal (at)",
    "another application": "PRAGMA application_id = 1",
}


@pytest.mark.parametrize("statement", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_any_other_schema_is_refused(path: Path, statement: str) -> None:
    run_sql(path, statement)
    assert code(path) == "state_schema"


@pytest.mark.parametrize(
    "content", [b"", b"not a database at all", b"SQLite format 3\x00" + b"\xff" * 5000], ids=["empty", "text", "random"]
)
def test_a_damaged_file_is_said_to_be_damaged(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert code(path) in {"state_damaged", "state_schema"}


def test_a_truncated_file_is_said_to_be_damaged(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 4096])
    assert code(path) in {"state_damaged", "state_schema"}


def test_a_file_that_others_can_read_is_refused(path: Path) -> None:
    path.chmod(0o644)
    assert code(path) == "state_owner"
    path.chmod(0o600)
    path.rename(path.with_name("real.db"))
    path.symlink_to("real.db")
    assert code(path) == "state_owner"


def test_foreign_values_are_damage_and_not_a_crash(path: Path) -> None:
    with open_state(path) as state:
        activate(state, 1)
    run_sql(path, "UPDATE deployments SET manifest = 'x'")
    with open_state(path) as state, pytest.raises(StateError) as caught:
        state.active(OCR)
    assert caught.value.code == "state_damaged"


WRITER = """
import sys
from pathlib import Path
from tests.unit.device.test_state import activate, open_state
with open_state(Path(sys.argv[1])) as state:
    counter = 1
    while True:
        activate(state, counter)
        print(counter, flush=True)
        counter += 1
"""


def test_a_killed_writer_leaves_every_acknowledged_activation_whole(path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "1"
    time.sleep(0.2)
    child.kill()
    last = [int(line) for line in child.stdout.read().split()][-1:] or [1]
    child.wait()
    child.stdout.close()
    with open_state(path) as state:
        active = state.active(OCR)
        assert active is not None
        assert active.counter.n in {last[0], last[0] + 1}
        assert state.memory(OCR).counter == active.counter
        assert state.evidence(state.active(OCR))
