"""The tables behind what happens around an activation: probation, unfinished tries, waiting releases, the last decision.

Not memory in the sense of ``state_memory.py``: with the database these are lost, and begin anew. Decides nothing;
``policy/probation.py`` does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.install.database import Database, Row
from device_client.install.rows import read_digest, read_integer, read_number
from device_client.policy.probation import Observation
from device_client.trust.trusted_time import BootTime

_COUNTS = ("boots", "runs", "failures", "non_finite", "crashes", "votes_good", "votes_bad")


@dataclass(frozen=True)
class Stretch:
    """Uptime added up over boots: ``elapsed_s`` seconds by the time that boot ``boot`` was ``seconds`` old."""

    boot: str
    seconds: float
    elapsed_s: float = 0.0

    @classmethod
    def beginning(cls, at: BootTime) -> Stretch:
        """One that begins now."""
        return cls(at.boot, at.seconds)

    def until(self, at: BootTime) -> Stretch:
        """The same with the uptime since counted in; of another boot only what this one proves."""
        passed = at.seconds - self.seconds if at.boot == self.boot else at.seconds
        return Stretch(at.boot, at.seconds, self.elapsed_s + max(0.0, passed))


@dataclass(frozen=True)
class Probation:
    """A bundle that is watched: which deployment, since when, and what was counted."""

    deployment: int
    manifest: Digest
    time: Stretch
    seen: Observation

    def at(self, now: BootTime) -> Probation:
        """The same with time and boots up to ``now`` counted in."""
        time = self.time.until(now)
        boots = self.seen.boots + (now.boot != self.time.boot)
        return replace(self, time=time, seen=replace(self.seen, elapsed_s=time.elapsed_s, boots=boots))


class ProbationTables:
    """This part of the open database. Changes need ``transaction()``."""

    _db: Database

    def probation(self, model: ModelPath) -> Probation | None:
        """What is on probation for a model, as stored last; None if the active bundle is committed, or there is none."""
        rows = self._db.rows(
            f"SELECT deployment, manifest, boot, seconds, elapsed_s, {', '.join(_COUNTS)} FROM probation"  # noqa: S608  # our words
            " JOIN deployments ON deployments.id = probation.deployment WHERE probation.model = ?",
            str(model),
        )
        return _probation(rows[0]) if rows else None

    def set_probation(self, model: ModelPath, found: Probation) -> None:
        """Stores it."""
        names = ("model", "deployment", "boot", "seconds", "elapsed_s", *_COUNTS)
        self._db.change(
            f"INSERT OR REPLACE INTO probation ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",  # noqa: S608
            str(model),
            found.deployment,
            found.time.boot,
            found.time.seconds,
            found.time.elapsed_s,
            *(getattr(found.seen, name) for name in _COUNTS),
        )

    def end_probation(self, model: ModelPath) -> None:
        """Nothing is on probation any more."""
        self._db.change("DELETE FROM probation WHERE model = ?", str(model))

    def tries(self, model: ModelPath, manifest: Digest) -> int:
        """How often a bundle's self-test was begun here and did not end."""
        rows = self._db.rows("SELECT tries FROM tries WHERE model = ? AND manifest = ?", str(model), str(manifest))
        return read_integer(rows[0][0]) if rows else 0

    def count_try(self, model: ModelPath, manifest: Digest) -> None:
        """A self-test begins."""
        self._db.change(
            "INSERT INTO tries (model, manifest, tries) VALUES (?, ?, 1)"
            " ON CONFLICT (model, manifest) DO UPDATE SET tries = tries + 1",
            str(model),
            str(manifest),
        )

    def forget_tries(self, model: ModelPath, manifest: Digest) -> None:
        """It ended, well or not."""
        self._db.change("DELETE FROM tries WHERE model = ? AND manifest = ?", str(model), str(manifest))

    def waiting(self, model: ModelPath, manifest: Digest) -> Stretch | None:
        """How long a bundle has been waiting to be taken."""
        rows = self._db.rows(
            "SELECT boot, seconds, elapsed_s FROM waiting WHERE model = ? AND manifest = ?", str(model), str(manifest)
        )
        return Stretch(str(rows[0][0]), read_number(rows[0][1]), read_number(rows[0][2])) if rows else None

    def set_waiting(self, model: ModelPath, manifest: Digest, stretch: Stretch) -> None:
        """One bundle of a model waits at a time: the newest offer."""
        self._db.change(
            "INSERT OR REPLACE INTO waiting (model, manifest, boot, seconds, elapsed_s) VALUES (?, ?, ?, ?, ?)",
            str(model),
            str(manifest),
            stretch.boot,
            stretch.seconds,
            stretch.elapsed_s,
        )

    def end_waiting(self, model: ModelPath) -> None:
        """Nothing waits any more."""
        self._db.change("DELETE FROM waiting WHERE model = ?", str(model))

    def decision(self, model: ModelPath) -> bytes | None:
        """The last decision about a model, as JSON."""
        rows = self._db.rows("SELECT data FROM decisions WHERE model = ?", str(model))
        return rows[0][0] if rows and isinstance(rows[0][0], bytes) else None

    def set_decision(self, model: ModelPath, data: bytes) -> None:
        """Stores it; only the last one is kept."""
        self._db.change("INSERT OR REPLACE INTO decisions (model, data) VALUES (?, ?)", str(model), data)


def _probation(row: Row) -> Probation:
    deployment, manifest, boot, seconds, elapsed_s, *counts = row
    time = Stretch(str(boot), read_number(seconds), read_number(elapsed_s))
    seen = Observation(time.elapsed_s, *(read_integer(count) for count in counts))
    return Probation(read_integer(deployment), read_digest(manifest), time, seen)
