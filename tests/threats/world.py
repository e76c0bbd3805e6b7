"""One device and one server of its own, the attacker's hands on them, and what lies on the device's disk.

before = world.footprint()
...                                  # change one thing
assert world.refusal().code == "blob_digest_mismatch"
assert world.footprint() == before   # active model, its blobs, counter: all as they were
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from demo.attacker import StolenKeys, WebRoot
from demo.attacks import Issue, Stage
from demo.names import AUDIT, FIRST_COUNTER
from device_client.bundle.digest import Digest
from device_client.bundle.path import BundlePath
from device_client.errors import SealiftError
from device_client.inference.model import open_model
from device_client.install.folder import Device, open_device
from device_client.install.poll import PollResult, poll
from device_client.install.report import PAYLOAD_TYPE
from device_client.install.store import open_store
from device_client.trust.custom import VariantVerdict
from device_client.trust.dsse import verify_envelope
from device_client.trust.refs import BlobRef
from device_client.trust.times import utc_now
from device_client.trust.trusted_time import BootTime, boot_time
from tests.threats.loopback import LoopbackServer
from tests.threats.sealed import Sealed
from tests.threats.town import PASSPHRASE, THE_MODEL, Town

ROOT = Path(__file__).parents[2]
X = np.array([[1.0, -2.0, 3.0], [0.5, 0.0, -7.0]], np.float32)
_REMEMBERED = ("active", "deployments", "evidence", "counters", "floors", "seqs", "withdrawals")
_FILES = ("root.json", "device.toml", "policy.toml", "identity.pem")


@dataclass(frozen=True)
class Footprint:
    """All that a refusal must leave as it was; read by plain SQL and plain files, not by the code under test.

    Attributes:
        rows: the tables that say what runs and what is remembered against rollback.
        blobs: each blob that the active model rests on: name, SHA-256 of its bytes, inode and time of change.
        files: SHA-256 of the device's own files.
        outputs: what the active model computes for ``X``, as bytes.
    """

    rows: Mapping[str, tuple[tuple[object, ...], ...]]
    blobs: tuple[tuple[str, str, int, int], ...]
    files: tuple[str, ...]
    outputs: bytes


class World:
    """A copy of the town in ``folder``, with its server running.

    Attributes:
        keys: every signer by role, as the key holders have them now; a rotation replaces them here.
        later: how far the world is from the real date; ``pass_time`` moves it, and server and device see it.
        wrong_clock: what the device's wall clock shows instead of the true time.
    """

    def __init__(self, town: Town, folder: Path) -> None:
        self.town = town
        self.folder = folder
        self.data = folder / "server"
        self.keys = dict(town.keys.by_role)
        self.later = timedelta(0)
        self.wrong_clock: datetime | None = None
        self._boot = boot_time()
        self._booted = timedelta(0)
        for name in ("server", "device"):
            shutil.copytree(town.folder / name, folder / name)
        self.server = LoopbackServer(self.data, passphrase=PASSPHRASE, clock=self.true_time)
        config = folder / "device" / "device.toml"
        config.write_text(config.read_text().replace(town.url, self.server.url))
        self.device: Device = open_device(folder / "device")
        self.web = WebRoot(self.data, StolenKeys(self.keys))
        self.stage = Stage(self.web, StolenKeys(self.keys), folder / "reissued", town.second.folder, FIRST_COUNTER + 2)

    def close(self) -> None:
        self.server.stop()

    def restart_server(self) -> None:
        """The same server at the same address, after it was stopped."""
        self.server = LoopbackServer(self.data, passphrase=PASSPHRASE, port=self.server.port, clock=self.true_time)

    # Time.

    def true_time(self) -> datetime:
        """What an honest clock shows."""
        return utc_now() + self.later

    def clock(self) -> datetime:
        """The device's wall clock."""
        return self.wrong_clock or self.true_time()

    def uptime(self) -> BootTime:
        """The device's boot clock."""
        return BootTime(self._boot.boot, boot_time().seconds + (self.later - self._booted).total_seconds())

    def pass_time(self, *, days: float) -> None:
        """Time goes on for everybody; the device stays switched on."""
        self.later += timedelta(days=days)

    def reboot(self, *, name: str) -> None:
        """The device is switched off and on; its boot clock begins anew, near zero."""
        self._boot = BootTime(name, 0.0)
        self._booted = self.later + timedelta(seconds=boot_time().seconds)

    # The device.

    def ask(self, url: str) -> None:
        """The device asks another address: a gateway that is in the attacker's hands."""
        config = self.device.folder.path / "device.toml"
        config.write_text(config.read_text().replace(self.device.config.server, url))
        self.reopen()

    def reopen(self) -> None:
        """Reads the device's folder again, after its configuration was changed."""
        self.device = open_device(self.device.folder.path)

    def poll(self, **arguments: Any) -> PollResult:
        return poll(self.device, THE_MODEL, **{"clock": self.clock, "uptime": self.uptime} | arguments)

    def refusal(self, **arguments: Any) -> SealiftError:
        """Polls and returns the error that it must end with."""
        try:
            result = self.poll(**arguments)
        except SealiftError as error:
            _forget_frames(error)
            return error
        raise AssertionError(f"not refused: {result}")

    def command(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts ``python -m sealift device ...`` on this device, as a process of its own."""
        environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(self.folder)}
        return subprocess.Popen(
            [sys.executable, "-m", "sealift", "device", *arguments, "--dir", str(self.device.folder.path), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=self.folder,
        )

    def outputs(self) -> bytes:
        """What the active model computes for ``X``."""
        with open_model(self.device.folder, THE_MODEL) as model:
            return model.run({"x": X})["y"].tobytes()

    # What is on its disk.

    def rows(self, query: str) -> tuple[tuple[Any, ...], ...]:
        """Asks the device's database."""
        with contextlib.closing(sqlite3.connect(self.device.folder.state)) as connection:
            return tuple(tuple(row) for row in connection.execute(query).fetchall())

    def footprint(self) -> Footprint:
        files = tuple(_sha256(self.device.folder.path / name) for name in _FILES)
        rows = {table: self.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in _REMEMBERED}
        return Footprint(rows, self._active_blobs(), files, self.outputs())

    def active_version(self) -> str:
        ((version,),) = self.rows("SELECT version FROM deployments JOIN active ON deployments.id = active.deployment")
        return str(version)

    def counter(self) -> tuple[int, int]:
        """The highest counter that was committed here."""
        ((epoch, n),) = self.rows("SELECT epoch, n FROM counters")
        return epoch, n

    def marks(self) -> dict[tuple[str, str], int]:
        """The version mark of each role and set of keys."""
        return {(role, keyset): version for role, keyset, version in self.rows("SELECT role, keyset, version FROM marks")}

    def alarms(self) -> list[str]:
        """Codes of the alarms that hold now."""
        return [code for (code,) in self.rows("SELECT code FROM alarms ORDER BY code")]

    def told(self) -> list[tuple[str, str | None]]:
        """Event and code of everything that the server was told, oldest first."""
        return [(report["event"], report["code"]) for report in self.reports()]

    def last_entry(self) -> tuple[str, str | None, str | None]:
        """Event, code and version of the newest line of the journal."""
        return self.rows("SELECT event, code, version FROM journal ORDER BY id DESC LIMIT 1")[0]

    def blob(self, digest: Digest) -> Path:
        """Where the device keeps a blob."""
        return self.device.folder.blobs / "sha256" / digest.hex

    def leftovers(self) -> list[Path]:
        """Files of unfinished writes in the store."""
        return [path for path in self.device.folder.blobs.rglob("*") if path.is_file() and path.parent.name != "sha256"]

    # What it told the server.

    def reports(self) -> list[dict[str, Any]]:
        """Everything that the server stored from this device, oldest first, with the signatures checked."""
        with contextlib.closing(sqlite3.connect(self.data / "server.db")) as connection:
            stored = connection.execute("SELECT envelope FROM reports ORDER BY counter").fetchall()
        key = self.device.identity.public_key
        payloads = [
            verify_envelope(row[0], payload_type=PAYLOAD_TYPE, keys=[key], max_bytes=1 << 16, where="report").payload
            for row in stored
        ]
        return [json.loads(payload) for payload in payloads]

    def waiting(self) -> int:
        """Reports that wait on the device."""
        return len(self.rows("SELECT counter FROM outbox"))

    # The attacker.

    def issue(self, sealed: Sealed) -> Issue:
        """A bundle that no admission has seen, with its blobs in the web root."""
        self.web.add_blobs(sealed.folder)
        contract = sealed.bundle.contract
        return Issue(self.stage, BundlePath(contract.line, contract.model, contract.version), sealed.manifest, contract.counter)

    def audit(self, issue: Issue, sealed: Sealed | None = None, **changes: Any) -> None:
        """Lists ``issue`` under the audit role: PASSED for its bytes, but for ``changes`` in the record or the verdict."""
        model = (sealed or self.town.second).model
        verdict = VariantVerdict("PASSED", "quick", utc_now() + timedelta(days=20), BlobRef.of(b"attestation"))
        kept = {name: changes.pop(name) for name in ("verdict", "tier", "expires") if name in changes}
        active = {"status": "active", "reason": ""}  # the record before may be a withdrawal
        record = replace(issue.audit_record(), variants={model: replace(verdict, **kept)}, **active | changes)
        entries = {issue.path.audit_target: (issue.manifest, record.to_json())}
        self.web.forge_delegated(AUDIT, entries, signers=self.stage.keys.of(AUDIT))

    def _active_blobs(self) -> tuple[tuple[str, str, int, int], ...]:
        ((manifest,),) = self.rows("SELECT manifest FROM deployments JOIN active ON deployments.id = active.deployment")
        document = json.loads(open_store(self.device.folder).read(Digest.parse(manifest, where="row")))
        names = [manifest, document["config"]["digest"], *(layer["digest"] for layer in document["layers"])]
        paths = [self.blob(Digest.parse(name, where="manifest")) for name in names]
        return tuple(
            (path.name, _sha256(path), path.stat().st_ino, path.stat().st_mtime_ns) for path in paths if path.exists()
        )  # fmt: skip


def _forget_frames(error: BaseException | None) -> None:
    """Lets go of what the frames of an error hold, connections above all, while the test goes on with the error."""
    seen: set[int] = set()  # a cause may have been raised while its own consequence was handled
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.with_traceback(None)
        error = error.__cause__ or error.__context__


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
