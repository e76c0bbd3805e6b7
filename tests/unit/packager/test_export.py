"""An exported file is what a device imports: verified before and after it is written, the same bytes each time, whole or absent."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from device_client.bundle import Digest, ModelPath
from device_client.bundle.layout import LayoutDirectory
from device_client.bundle.offline import open_offline
from device_client.bundle.ustar import parse_header
from device_client.errors import IntegrityError, SealiftError, StateError, UsageError
from device_client.trust.refs import BlobRef
from packager.commands_sign import load_bundle
from packager.offline_export import ExportResult, write_export
from packager.offline_plan import ExportPlan, Wish, plan_export
from packager.publication import FolderPublication, open_publication
from packager.ustar_writer import UstarWriter, header
from tests.simulator import AUDIT, RELEASE
from tests.unit.bundle.archives import Header
from tests.unit.device.offline_files import import_into, release
from tests.unit.device.test_import import never, passes
from tests.unit.device.world import THE_MODEL, Bundle, World, bundle, verdict
from tests.unit.packager.published import ATTESTATION, MEASUREMENTS, publish_to, write_layout


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "device")


@pytest.fixture
def made() -> Bundle:
    return bundle("1.0.0", counter=1, scale=3.0)


@pytest.fixture
def repo(tmp_path: Path, world: World, made: Bundle) -> Path:
    release(world, made)
    return publish_to(tmp_path / "repo", world, made)


def plan(repo: Path, world: World, *wishes: Wish, **options: Any) -> ExportPlan:
    return plan_export(wishes or (Wish(THE_MODEL),), publication=FolderPublication(repo), clock=world.clock, **options)


def write(repo: Path, world: World, out: Path, *wishes: Wish, **options: Any) -> ExportResult:
    return write_export(plan(repo, world, *wishes, **options), out, publication=FolderPublication(repo), clock=world.clock)


def test_what_is_exported_is_imported(tmp_path: Path, world: World, made: Bundle, repo: Path) -> None:
    done = write(repo, world, tmp_path / "F.tar")
    assert (done.size_bytes, done.sha256) == ((tmp_path / "F.tar").stat().st_size, Digest.of((tmp_path / "F.tar").read_bytes()))
    assert import_into(world, tmp_path / "F.tar", selftest=passes).result == "installed"
    assert world.running() == 3.0


def test_the_file_holds_the_root_chain_the_roles_and_every_blob_that_they_name(
    tmp_path: Path, world: World, made: Bundle, repo: Path
) -> None:
    world.sim.rotate("timestamp")
    publish_to(repo, world, made)
    write(repo, world, tmp_path / "F.tar")
    with open_offline(tmp_path / "F.tar") as offline:
        names = {str(name) for name in offline.metadata}
        blobs = offline.blob_digests()
    assert names >= {"1.root.json", "2.root.json", "timestamp.json"}
    assert {name.split(".")[1] for name in names} == {"root", "json", "snapshot", "targets", RELEASE, AUDIT}
    channel = world.sim.delegated[RELEASE].targets[THE_MODEL.channel_target].hashes["sha256"]
    assert blobs == {*made.blobs, Digest(channel), Digest.of(MEASUREMENTS), Digest.of(ATTESTATION)}


def test_the_same_release_gives_the_same_bytes_from_two_places(tmp_path: Path, world: World, made: Bundle, repo: Path) -> None:
    other = shutil.copytree(repo, tmp_path / "elsewhere" / "copy")
    for path in other.rglob("*.json"):
        path.touch()
    folder = write_layout(tmp_path / "bundle", made)
    wish = Wish(THE_MODEL, load_bundle(folder), LayoutDirectory(folder))
    digests = {
        write(repo, world, tmp_path / "F.tar").sha256,
        write(other, world, tmp_path / "G.tar").sha256,
        write(repo, world, tmp_path / "H.tar", wish).sha256,
    }
    assert len(digests) == 1


def test_a_bundle_s_own_folder_is_read_before_the_repository(tmp_path: Path, world: World, made: Bundle, repo: Path) -> None:
    folder = write_layout(tmp_path / "bundle", made)
    (repo / "blobs" / "sha256" / made.model().hex).unlink()
    write(repo, world, tmp_path / "F.tar", Wish(THE_MODEL, load_bundle(folder), LayoutDirectory(folder)))
    assert import_into(world, tmp_path / "F.tar", selftest=passes).result == "installed"


def test_a_withdrawal_travels_in_a_file_and_is_acted_upon(tmp_path: Path, world: World, made: Bundle, repo: Path) -> None:
    write(repo, world, tmp_path / "F.tar")
    import_into(world, tmp_path / "F.tar", selftest=passes)
    world.audit_entry(made, seq=2, status="withdrawn")
    world.sim.publish(AUDIT)
    publish_to(repo, world, made)
    write(repo, world, tmp_path / "F.tar")
    with pytest.raises(SealiftError) as refused:
        import_into(world, tmp_path / "F.tar", selftest=never)
    assert refused.value.code == "withdrawn"
    with world.state() as state:
        assert made.digest in state.memory(THE_MODEL).withdrawn


def test_bins_that_nothing_was_looked_up_in_are_there_for_devices_that_hold_older_bundles(
    tmp_path: Path, world: World, made: Bundle, repo: Path
) -> None:
    write(repo, world, tmp_path / "F.tar")
    import_into(world, tmp_path / "F.tar", selftest=passes)
    second = bundle("1.1.0", counter=2)
    release(world, second, seq=2)
    for role in (RELEASE, AUDIT):
        world.sim.split_into_bins(role)
    publish_to(repo, world, made, second)
    write(repo, world, tmp_path / "F.tar")
    with open_offline(tmp_path / "F.tar") as offline:
        assert {f"{role}-{number}" for role in (RELEASE, AUDIT) for number in range(4)} <= {name.role for name in offline.metadata}
    assert import_into(world, tmp_path / "F.tar", selftest=passes).result == "installed"


def test_until_when_the_file_can_be_imported_is_known_from_roles_and_verdicts(world: World, repo: Path) -> None:
    ends = plan(repo, world).expiries()
    assert set(ends) == {"root", "timestamp", "snapshot", "targets", RELEASE, AUDIT, "verdict on digits/ocr/1.0.0 int8"}
    assert min(ends, key=lambda name: ends[name]) == "timestamp"
    assert ends["verdict on digits/ocr/1.0.0 int8"] == verdict().expires


# Refusals: nothing is written.


def _damage(name: str) -> Callable[[Path, World, Bundle], None]:
    def change(repo: Path, world: World, made: Bundle) -> None:
        digest = {"model": made.model(), "manifest": made.digest, "attestation": Digest.of(ATTESTATION)}[name]
        path = repo / "blobs" / "sha256" / digest.hex
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    return change


def _longer(repo: Path, world: World, made: Bundle) -> None:
    with (repo / "blobs" / "sha256" / made.model().hex).open("ab") as file:
        file.write(b"more")


def _missing_blob(repo: Path, world: World, made: Bundle) -> None:
    (repo / "blobs" / "sha256" / made.model().hex).unlink()


def _missing_role(repo: Path, world: World, made: Bundle) -> None:
    next((repo / "tuf").glob(f"*.{AUDIT}.json")).unlink()


def _expired(repo: Path, world: World, made: Bundle) -> None:
    world.now += timedelta(days=2)


def _unsigned(repo: Path, world: World, made: Bundle) -> None:
    path = repo / "tuf" / "timestamp.json"
    path.write_bytes(path.read_bytes().replace(b'"version":', b'"version": 1'))


def _not_agreed(repo: Path, world: World, made: Bundle) -> None:
    del world.sim.delegated[AUDIT].targets[next(iter(world.sim.delegated[AUDIT].targets))]
    world.sim.publish(AUDIT)
    publish_to(repo, world, made)


def _no_channel(repo: Path, world: World, made: Bundle) -> None:
    del world.sim.delegated[RELEASE].targets[THE_MODEL.channel_target]
    world.sim.publish(RELEASE)
    publish_to(repo, world, made)


BROKEN = {
    "a model whose bytes changed": (_damage("model"), "blob_digest_mismatch"),
    "a manifest whose bytes changed": (_damage("manifest"), "blob_digest_mismatch"),
    "an attestation whose bytes changed": (_damage("attestation"), "blob_digest_mismatch"),
    "a model with bytes behind its end": (_longer, "blob_digest_mismatch"),
    "a model that is not there": (_missing_blob, "blob_missing"),
    "a role that is not there": (_missing_role, "metadata_unavailable"),
    "a timestamp that has expired": (_expired, "metadata_expired"),
    "a timestamp that nobody signed like this": (_unsigned, "signature_threshold"),
    "a release without an audit": (_not_agreed, "audit_entry_missing"),
    "a release without a channel": (_no_channel, "offline_channel"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_a_device_would_refuse_is_not_written(tmp_path: Path, world: World, made: Bundle, repo: Path, case: str) -> None:
    change, code = BROKEN[case]
    change(repo, world, made)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SealiftError) as refused:
        write(repo, world, tmp_path / "F.tar")
    assert refused.value.code == code
    assert sorted(tmp_path.iterdir()) == before


def test_an_older_bundle_is_not_exported_since_no_device_would_take_it(
    tmp_path: Path, world: World, made: Bundle, repo: Path
) -> None:
    folder = write_layout(tmp_path / "bundle", made)
    second = bundle("1.1.0", counter=2)
    release(world, second, seq=2)
    publish_to(repo, world, made, second)
    with pytest.raises(UsageError) as refused:
        plan(repo, world, Wish(THE_MODEL, load_bundle(folder), LayoutDirectory(folder)))
    assert (refused.value.code, str(second.digest) in str(refused.value)) == ("export_not_newest", True)


def test_a_bundle_packed_again_under_a_published_name_is_not_exported(
    tmp_path: Path, world: World, made: Bundle, repo: Path
) -> None:
    folder = write_layout(tmp_path / "bundle", bundle("1.0.0", counter=1, scale=9.0))
    with pytest.raises(UsageError) as refused:
        plan(repo, world, Wish(THE_MODEL, load_bundle(folder), LayoutDirectory(folder)))
    assert refused.value.code == "export_not_newest"


def test_unknown_variants_models_named_twice_and_staging_folders_are_usage_errors(tmp_path: Path, world: World, repo: Path) -> None:
    with pytest.raises(UsageError, match="int8") as refused:
        plan(repo, world, variants=("int4",))
    assert refused.value.code == "variant_unknown"
    with pytest.raises(UsageError) as refused:
        plan(repo, world, Wish(THE_MODEL), Wish(THE_MODEL))
    assert refused.value.code == "export_twice"
    (tmp_path / "staging" / "metadata").mkdir(parents=True)
    with pytest.raises(UsageError) as refused:
        open_publication(str(tmp_path / "staging"))
    assert refused.value.code == "publication_missing"


def test_a_model_that_no_line_delegates_is_refused(world: World, repo: Path) -> None:
    with pytest.raises(SealiftError) as refused:
        plan(repo, world, Wish(ModelPath("nowhere", "ocr")))
    assert refused.value.code == "role_unknown"


def test_a_full_disk_leaves_the_earlier_file_and_nothing_beside_it(
    tmp_path: Path, world: World, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(repo, world, tmp_path / "F.tar")
    earlier, names = (tmp_path / "F.tar").read_bytes(), sorted(tmp_path.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(UstarWriter, "add_blob", full)
    with pytest.raises(StateError) as refused:
        write(repo, world, tmp_path / "F.tar")
    assert refused.value.code == "write_failed"
    assert ((tmp_path / "F.tar").read_bytes(), sorted(tmp_path.iterdir())) == (earlier, names)


def test_the_written_file_is_read_back_before_it_gets_its_name(
    tmp_path: Path, world: World, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(self: UstarWriter, ref: BlobRef, copy: Callable[..., None]) -> None:
        self.add(f"blobs/sha256/{ref.digest.hex}", b"other bytes")

    monkeypatch.setattr(UstarWriter, "add_blob", careless)
    with pytest.raises(IntegrityError):
        write(repo, world, tmp_path / "F.tar")
    assert not (tmp_path / "F.tar").exists()


def test_a_file_that_lacks_what_the_plan_says_is_not_handed_out(
    tmp_path: Path, world: World, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExportPlan, "blobs", lambda self: sorted(self.releases[0].blobs, key=lambda ref: ref.digest)[:-1])
    with pytest.raises(IntegrityError) as refused:
        write(repo, world, tmp_path / "F.tar")
    assert refused.value.code == "blob_missing"
    assert not (tmp_path / "F.tar").exists()


# The writer of the archive.


@pytest.mark.parametrize(("name", "size"), [("oci-layout", 0), ("a" * 99, 511), ("blobs/sha256/" + "0" * 64, 8**11 - 1)])
def test_a_header_is_the_one_that_the_reader_takes(name: str, size: int) -> None:
    assert parse_header(header(name, size), where="here").size == size
    assert header(name, size) == Header(name.encode(), b"%011o\0" % size).to_bytes()


@pytest.mark.parametrize(("name", "size"), [("", 0), ("a" * 100, 0), ("ü", 0), ("a", 8**11), ("a", -1)])
def test_what_a_header_has_no_room_for_is_a_programming_error(name: str, size: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # also UnicodeEncodeError, which is one
        header(name, size)


def test_a_blob_that_broke_off_can_be_written_again_from_where_it_began(tmp_path: Path) -> None:
    data = b"x" * 70_000
    ref = BlobRef.of(data)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with whole.open("wb") as file:
        UstarWriter(file).add_blob(ref, lambda write: write(data))
    with broken.open("wb") as file:
        tar = UstarWriter(file)
        for bad in ((data[:-1],), (data, b"y"), (data + b"y",), (b"z" * len(data),), ()):
            with pytest.raises(IntegrityError):
                tar.add_blob(ref, lambda write, bad=bad: [write(part) for part in bad])  # type: ignore[misc]
            assert file.tell() == 0
        tar.add_blob(ref, lambda write: write(data))
    assert whole.read_bytes() == broken.read_bytes()


def test_memory_does_not_grow_with_a_blob(tmp_path: Path) -> None:
    chunk, count = bytes(1 << 20), 64
    import hashlib

    hasher = hashlib.sha256()
    for _ in range(count):
        hasher.update(chunk)
    ref = BlobRef(Digest(hasher.hexdigest()), len(chunk) * count)
    tracemalloc.start()
    with (tmp_path / "F").open("wb") as file:
        UstarWriter(file).add_blob(ref, lambda write: [write(chunk) for _ in range(count)])  # type: ignore[arg-type,return-value]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
