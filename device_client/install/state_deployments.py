"""The tables of what was installed here: deployments with their evidence, what runs, and what may run again.

Decides nothing: ``activation.py``, ``probation.py`` and ``rollback.py`` do, each in one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.path import BundlePath, ModelPath
from device_client.install.rows import read_counter, read_digest, read_integer, read_time
from device_client.install.state_memory import MemoryTables
from device_client.trust.times import format_time

_COLUMNS = "deployments.id, version, manifest, variant, variant_digest, epoch, n, seq, installed"


@dataclass(frozen=True)
class Deployment:
    """A bundle as it was activated here.

    ``variant_digest`` names the bytes the runtime gets; ``id`` is its row in the database, 0 before it has one.
    """

    model: ModelPath
    version: str
    manifest: Digest
    variant: str
    variant_digest: Digest
    counter: Counter
    seq: int
    installed: datetime
    id: int = field(default=0, compare=False)

    @property
    def path(self) -> BundlePath:
        """The bundle's name."""
        return BundlePath(self.model.line, self.model.model, self.version)


class DeploymentTables(MemoryTables):
    """This part of the open database, on top of its memory. Changes need ``transaction()``."""

    def active(self, model: ModelPath) -> Deployment | None:
        """The active deployment of a model."""
        return self._active("deployment", model)

    def previous(self, model: ModelPath) -> Deployment | None:
        """The deployment that was active before."""
        return self._active("previous", model)

    def held(self, model: ModelPath) -> list[Deployment]:
        """The bundles that were ever active here, each as it was activated last, newest first. Their blobs may be gone."""
        rows = self._db.rows(
            f"SELECT {_COLUMNS} FROM deployments WHERE id IN"  # noqa: S608  # our words
            " (SELECT max(id) FROM deployments WHERE model = ? GROUP BY manifest, version) ORDER BY id DESC",
            str(model),
        )
        return [_deployment(model, row) for row in rows]

    def evidence(self, deployment: Deployment) -> dict[str, bytes]:
        """The signed files that a deployment rests on."""
        rows = self._db.rows("SELECT name, data FROM evidence WHERE deployment = ?", deployment.id)
        return {str(name): data for name, data in rows if isinstance(data, bytes)}

    def activate(self, deployment: Deployment, evidence: Mapping[str, bytes]) -> int:
        """Makes a deployment the active one; returns its row. Call in a transaction.

        What it replaces becomes the previous one, unless that was never committed: then the previous one stays.
        """
        identifier = self._add(deployment, evidence)
        self._db.change(
            "INSERT INTO active (model, deployment) VALUES (?, ?) ON CONFLICT (model) DO UPDATE SET previous ="
            " CASE WHEN active.deployment IN (SELECT deployment FROM commits) THEN active.deployment ELSE active.previous END,"
            " deployment = excluded.deployment",
            str(deployment.model),
            identifier,
        )
        self.remember_seq(deployment.model, deployment.manifest, deployment.seq)
        return identifier

    def add_factory(self, deployment: Deployment, evidence: Mapping[str, bytes]) -> Deployment:
        """Puts the bundle that the device came with into a state that was made anew, without making it active."""
        added = replace(deployment, id=self._add(deployment, evidence))
        self.mark_factory(added)
        return added

    def _add(self, deployment: Deployment, evidence: Mapping[str, bytes]) -> int:
        model, counter = str(deployment.model), deployment.counter
        identifier = self._db.change(
            "INSERT INTO deployments (model, version, manifest, variant, variant_digest, epoch, n, seq, installed)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            model,
            deployment.version,
            str(deployment.manifest),
            deployment.variant,
            str(deployment.variant_digest),
            counter.epoch,
            counter.n,
            deployment.seq,
            format_time(deployment.installed),
        )
        for name, data in evidence.items():
            self._db.change("INSERT INTO evidence (deployment, name, data) VALUES (?, ?, ?)", identifier, name, data)
        return identifier

    def commit(self, deployment: Deployment, *, floor: Counter) -> None:
        """The deployment was observed good: it counts as history from here on, and its counter and floor are never lowered."""
        self._db.change("INSERT OR IGNORE INTO commits (deployment) VALUES (?)", deployment.id)
        self.raise_counter(deployment.model, deployment.counter, deployment.manifest)
        self.remember_name(deployment.model, deployment.version, deployment.manifest)
        self.raise_floor(deployment.model, floor)

    def fall_back(self, target: Deployment) -> None:
        """Makes a held bundle the active one again; touches no counter and no floor. Call in a transaction."""
        self._db.change(
            "INSERT INTO active (model, deployment) VALUES (?, ?) ON CONFLICT (model) DO UPDATE SET previous ="
            " CASE WHEN active.deployment IN (SELECT deployment FROM commits) THEN active.deployment END,"
            " deployment = excluded.deployment",
            str(target.model),
            target.id,
        )

    def deactivate(self, model: ModelPath) -> None:
        """Nothing of this model runs any more. Call in a transaction."""
        self._db.change("DELETE FROM active WHERE model = ?", str(model))

    def forget_deployments(self, model: ModelPath) -> None:
        """What was installed, tried, watched and decided, but for the factory bundle; nothing of the memory. In a transaction."""
        for table in (
            "active",
            "probation",
            "known_bad",
            "tries",
            "waiting",
            "decisions",
            "progress",
            "patience",
            "stopped",
            "proofs",
        ):
            self._db.change(f"DELETE FROM {table} WHERE model = ?", str(model))  # noqa: S608  # our words
        old = "(SELECT id FROM deployments WHERE model = ? AND id NOT IN (SELECT deployment FROM factory))"
        for table in ("evidence", "commits"):
            self._db.change(f"DELETE FROM {table} WHERE deployment IN {old}", str(model))  # noqa: S608
        self._db.change(f"DELETE FROM deployments WHERE id IN {old}", str(model))  # noqa: S608

    def committed(self, model: ModelPath) -> set[Digest]:
        """Manifests of the bundles that were committed here, the factory bundle among them."""
        rows = self._db.rows(
            "SELECT manifest FROM deployments JOIN commits ON commits.deployment = deployments.id WHERE model = ?", str(model)
        )
        return {read_digest(row[0]) for row in rows}

    def factory(self, model: ModelPath) -> Deployment | None:
        """The bundle that came with the device; never collected."""
        rows = self._db.rows(
            f"SELECT {_COLUMNS} FROM deployments JOIN factory ON factory.deployment = deployments.id"  # noqa: S608  # our words
            " WHERE factory.model = ?",
            str(model),
        )
        return _deployment(model, rows[0]) if rows else None

    def mark_factory(self, deployment: Deployment) -> None:
        """The deployment came with the device."""
        self._db.change("INSERT OR REPLACE INTO factory (model, deployment) VALUES (?, ?)", str(deployment.model), deployment.id)

    def drop_evidence(self, model: ModelPath, *, but: Collection[int]) -> None:
        """Forgets the evidence of deployments that are held no longer; the deployments themselves stay as history."""
        rows = self._db.rows("SELECT id FROM deployments WHERE model = ?", str(model))
        for (identifier,) in rows:
            if read_integer(identifier) not in but:
                self._db.change("DELETE FROM evidence WHERE deployment = ?", identifier)

    def _active(self, column: str, model: ModelPath) -> Deployment | None:
        rows = self._db.rows(
            f"SELECT {_COLUMNS} FROM deployments JOIN active ON active.{column} = deployments.id"  # noqa: S608  # our words
            " WHERE active.model = ?",
            str(model),
        )
        return _deployment(model, rows[0]) if rows else None


def _deployment(model: ModelPath, row: tuple[object, ...]) -> Deployment:
    identifier, version, manifest, variant, digest, epoch, n, seq, installed = row
    return Deployment(
        model=model,
        version=str(version),
        manifest=read_digest(manifest),
        variant=str(variant),
        variant_digest=read_digest(digest),
        counter=read_counter(epoch, n),
        seq=read_integer(seq),
        installed=read_time(installed),
        id=read_integer(identifier),
    )
