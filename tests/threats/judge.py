"""What must hold after every refusal and after every control, asked of the disk, of the server and of the model itself."""

from __future__ import annotations

from typing import Any

from demo.attacks import Attack
from device_client.errors import SealiftError, TransportError
from tests.threats.world import Footprint, World


def refuse_then_install(world: World, attack: Attack) -> None:
    """The attack is refused with its own code and changes nothing; without its defect the same version installs."""
    before = world.footprint()
    attack.strike()
    expect_refusal(world, attack.code, before=before)
    attack.mend()
    expect_installed(world, attack.version, before=before)


def expect_refusal(
    world: World,
    code: str,
    *,
    before: Footprint,
    is_told: bool = True,
    learns: tuple[str, ...] = (),
    alarms: tuple[str, ...] = (),
    **arguments: Any,
) -> SealiftError:
    """One poll that ends with ``code``, leaves everything as ``before``, and is written down and told.

    Args:
        world: the device and its server, which answers.
        code: of the error, the journal and the report.
        before: what was there before the attack.
        is_told: the server can be reached; else the report waits on the device.
        learns: tables that gain rows although nothing is installed: what a withdrawal teaches.
        alarms: codes of alarms that this poll raises beside the refusal.
        arguments: for ``poll``.
    """
    marks, told = world.marks(), len(world.reports())
    error = world.refusal(**arguments)
    assert error.code == code, f"{error.code}: {error}"
    after = world.footprint()
    for table, rows in before.rows.items():
        if table in learns:
            assert set(rows) < set(after.rows[table])
        else:
            assert after.rows[table] == rows, "what runs and what is remembered against rollback is as it was"
    assert after.blobs == before.blobs, "the active model's blobs are the same files, untouched"
    assert after.files == before.files
    assert after.outputs == before.outputs, "the old model computes what it computed"
    assert world.leftovers() == []
    now = world.marks()
    assert all(now[name] >= version for name, version in marks.items()), "no mark was lowered or lost"
    assert world.rows("SELECT state FROM progress") == (("idle",),)
    event = "awaiting_audit" if code == "audit_entry_missing" else "failed" if isinstance(error, TransportError) else "refused"
    journal = world.rows("SELECT event, code, version FROM journal ORDER BY id DESC LIMIT 9")
    entry = next(place for place, line in enumerate(journal) if line[:2] == (event, code))
    assert entry <= len(alarms), "written down"
    if not is_told:
        assert len(world.reports()) == told
        assert world.waiting() > 0, "it waits for the server"
        return error
    is_repeated = journal[entry] == journal[entry + 1]  # the same twice in a row is told once
    new = world.reports()[told:]
    assert len(new) == (not is_repeated) + bool(learns) + len(alarms), (
        f"told, once: {[(each['event'], each['code']) for each in new]}"
    )
    active = {"version": world.active_version(), "manifest": before.rows["counters"][0][3]}
    assert all(report["active"] == active for report in new)
    assert is_repeated or (event, code) in [(report["event"], report["code"]) for report in new]
    assert [report["code"] for report in new if report["event"] == "alarm"][bool(learns) :] == list(alarms)
    assert world.waiting() == 0
    return error


def expect_current(world: World, *, before: Footprint) -> None:
    """One poll that finds nothing to do: what ran ``before`` runs, and no alarm holds."""
    result = world.poll()
    assert result.result in {"current", "none"}
    assert world.footprint() == before
    assert world.alarms() == []


def expect_installed(world: World, version: str, *, before: Footprint, **arguments: Any) -> None:
    """One poll that installs ``version``, which computes something else than what ran ``before``; ``arguments`` for ``poll``."""
    counter = world.counter()
    result = world.poll(**arguments)
    assert (result.result, result.deployment and result.deployment.version) == ("installed", version)
    assert result.selftest is not None, "the real golden self-test, in its child process"
    assert world.active_version() == version
    assert world.counter() > counter
    assert world.outputs() != before.outputs, "the control runs, and is another model than before"
    assert world.rows("SELECT * FROM deployments")[: len(before.rows["deployments"])] == before.rows["deployments"]
    assert ("installed", None, version) in world.rows("SELECT event, code, version FROM journal ORDER BY id DESC LIMIT 4")
    if result.reports_waiting == 0:
        assert "installed" in [report["event"] for report in world.reports()[-4:]]
