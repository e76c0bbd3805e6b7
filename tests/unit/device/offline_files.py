"""Offline files of a test's world: what `sealift export` would write, or the same with something changed by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tuf.api.metadata import TargetFile

from device_client.bundle import BundlePath, Counter, Digest, ModelPath
from device_client.install.import_offline import open_import
from device_client.install.poll import PollResult
from device_client.install.selftest import SelfTestReport, run_selftest
from device_client.trust.channel import Channel
from device_client.trust.custom import parse_audit_custom
from device_client.trust.times import utc_now
from tests.simulator import RepositorySimulator
from tests.unit.bundle.archives import archive, blob
from tests.unit.device import world as world_module
from tests.unit.device.world import THE_MODEL, Bundle, World, verdict

TAIL = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": b'{"schemaVersion":2,"manifests":[]}'}


def metadata_of(world: World) -> dict[str, bytes]:
    """The role files that the simulated repository shows now, as members of a file; the root chain included."""
    sim = world.sim
    roots = {"1.root.json": sim.bootstrap, **{name: data for name, data in sim.served.items() if name.endswith(".root.json")}}
    signed = {"snapshot": sim.snapshot, "targets": sim.targets, **sim.delegated}
    files = {**roots, **{f"{each.version}.{role}.json": sim.role_bytes(role) for role, each in signed.items()}}
    return {f"metadata/{name}": data for name, data in {**files, "timestamp.json": sim.role_bytes("timestamp")}.items()}


def members_of(world: World, *made: Bundle) -> dict[str, bytes]:
    """A whole file: metadata first, then the layout's two files, then the bundles' blobs and the channel's."""
    newest = made[-1]
    world.channel(newest)
    channel = world.sim.delegated["release-digits"].targets[THE_MODEL.channel_target].hashes["sha256"]
    blobs = {digest: data for each in made for digest, data in each.blobs.items()}
    blobs[Digest(channel)] = world.server.blobs[Digest(channel)]
    return {**metadata_of(world), **TAIL, **dict(blob(data) for data in blobs.values())}


def write_file(path: Path, members: Mapping[str, bytes]) -> Path:
    path.write_bytes(archive(members))
    return path


def release(world: World, made: Bundle, **audit: object) -> dict[str, bytes]:
    """Publishes a bundle with its channel, and gives the members of the file that carries it."""
    world.upload(made)
    world.release_entry(made)
    world.audit_entry(made, **audit)  # type: ignore[arg-type]  # the keywords of `audit_entry`
    world.channel(made)
    world.sim.publish("release-digits", "audit-digits")
    return members_of(world, made)


def list_model(world: World, model: ModelPath, made: Bundle) -> dict[str, bytes]:
    """Both roles list another model's bundle and its channel, under the world's own records; gives its blobs as members."""
    path, mine = BundlePath(model.line, model.model, made.contract.version), BundlePath(THE_MODEL.line, THE_MODEL.model, "1.0.0")
    release_role, audit_role = world.sim.delegated[model.release_role], world.sim.delegated[model.audit_role]
    channel = Channel(made.contract.version, made.contract.counter, Counter(0, 0)).to_bytes()
    said = parse_audit_custom(audit_role.targets[mine.audit_target].unrecognized_fields["custom"], "test")
    audited = {"custom": replace(said, variants={made.model(): verdict()}).to_json()}
    entries = (
        (release_role, path.release_target, made.manifest, release_role.targets[mine.release_target].unrecognized_fields),
        (release_role, model.channel_target, channel, {}),
        (audit_role, path.audit_target, made.manifest, audited),
    )
    for role, target, data, fields in entries:
        role.targets[target] = TargetFile(len(data), {"sha256": Digest.of(data).hex}, target, dict(fields))
    world.sim.publish(model.release_role, model.audit_role)
    return dict(blob(data) for data in (*made.blobs.values(), channel))


def live_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A device and a repository that was signed just now: commands ask the machine's clock."""
    now = utc_now()
    monkeypatch.setattr(world_module, "NOW", now)
    monkeypatch.setattr(world_module, "RepositorySimulator", functools.partial(RepositorySimulator, now=now))
    return World(folder)


def import_into(world: World, path: Path, *, selftest: Callable[..., SelfTestReport] = run_selftest) -> PollResult:
    """As `sealift device import` does it, with the world's clocks."""
    with open_import(world.device, path) as found:
        (model,) = found.models
        return found.run(model, clock=world.clock, uptime=world.uptime, selftest=selftest)


def snapshot_of(folder: Path) -> dict[str, bytes]:
    """Every file of a device with its bytes, but for the lock: to see that nothing has changed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }
