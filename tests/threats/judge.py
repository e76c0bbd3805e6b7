"""What must hold after every refusal and after every control, asked of the disk, of the server and of the model itself."""

from __future__ import annotations

from typing import Any

from demo.attacks import Attack
from device_client.errors import SealiftError
from tests.threats.world import Footprint, World


def refuse_then_install(world: World, attack: Attack) -> None:
    """The attack is refused with its own code and changes nothing; without its defect the same version installs."""
    before = world.footprint()
    attack.strike()
    expect_refusal(world, attack.code, before=before)
    attack.mend()
    expect_installed(world, attack.version, before=before)


def expect_refusal(
    world: World, code: str, *, before: Footprint, is_repeated: bool = False, learns: tuple[str, ...] = (), **arguments: Any
) -> SealiftError:
    """One poll that ends with ``code``, leaves everything as ``before``, and is written down and told.

    Args:
        world: the device and its server, which answers.
        code: of the error, the journal and the report.
        before: what was there before the attack.
        is_repeated: the same was refused at the poll before, so that only the journal says it again.
        learns: tables that gain rows although nothing is installed: what a withdrawal teaches.
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
    event = "awaiting_audit" if code == "audit_entry_missing" else "refused"
    assert world.last_entry()[:2] == (event, code)
    reports = world.reports()
    assert len(reports) == told + (0 if is_repeated else 2 if learns else 1), "the server was told, once"
    active = {"version": world.active_version(), "manifest": before.rows["counters"][0][3]}
    assert (reports[-1]["event"], reports[-1]["code"], reports[-1]["active"]) == (event, code, active)
    assert world.waiting() == 0
    return error


def expect_installed(world: World, version: str, *, before: Footprint) -> None:
    """One poll that installs ``version``, which computes something else than what ran ``before``."""
    counter = world.counter()
    result = world.poll()
    assert (result.result, result.deployment and result.deployment.version) == ("installed", version)
    assert result.selftest is not None, "the real golden self-test, in its child process"
    assert world.active_version() == version
    assert world.counter() > counter
    assert world.outputs() != before.outputs, "the control runs, and is another model than before"
    assert world.rows("SELECT * FROM deployments")[: len(before.rows["deployments"])] == before.rows["deployments"]
    assert world.last_entry() == ("installed", None, version)
    assert world.reports()[-1]["event"] == "installed"
