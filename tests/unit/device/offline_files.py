"""Offline files of a test's world: what `sealift export` would write, or the same with something changed by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from device_client.bundle.digest import Digest
from device_client.install.import_offline import open_import
from device_client.install.poll import PollResult
from device_client.install.selftest import SelfTestReport, run_selftest
from tests.unit.bundle.archives import archive, blob
from tests.unit.device.world import THE_MODEL, Bundle, World

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
