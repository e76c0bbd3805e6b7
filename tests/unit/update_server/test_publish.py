"""Publishing through the API: what is admitted, what is refused, and what a crash leaves."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Snapshot, TargetFile, Targets, Timestamp

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.trust.client import MetadataClient
from device_client.trust.files import write_atomic
from device_client.trust.marks import Marks
from packager.repository import next_delegated, to_bytes
from tests.unit.inference.models import external_tensor, linear, model
from tests.unit.update_server.fetching import AppFetcher
from tests.unit.update_server.world import AUDIT, RELEASE, Client, World, code_of, make_bundle
from update_server.service import Service


def visible(world: World) -> dict[str, int]:
    """What a reader sees: role versions by the snapshot that the timestamp names, every file hashed as it is named."""
    folder = world.data / "tuf"
    timestamp = Metadata[Timestamp].from_bytes((folder / "timestamp.json").read_bytes()).signed
    data = (folder / f"{timestamp.snapshot_meta.version}.snapshot.json").read_bytes()
    timestamp.snapshot_meta.verify_length_and_hashes(data)
    snapshot = Metadata[Snapshot].from_bytes(data).signed
    for name, meta in snapshot.meta.items():
        meta.verify_length_and_hashes((folder / f"{meta.version}.{name}").read_bytes())
    return {name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()}


def test_a_released_and_audited_bundle_is_agreed_on_by_the_production_client(world: World, client: Client, tmp_path: Path) -> None:
    bundle = make_bundle()
    assert client.release(bundle).json() == {
        "schema": 1, "role": RELEASE, "version": 1, "snapshot": 2, "timestamp": 2, "changed": True,
    }  # fmt: skip
    assert client.audit(bundle).status_code == 200
    assert visible(world) == {"targets": 1, RELEASE: 1, AUDIT: 1}
    trusted = MetadataClient(
        metadata_dir=tmp_path / "cache",
        base_url="http://server/tuf/",
        bootstrap=(world.folder / "repo" / "metadata" / "1.root.json").read_bytes(),
        clock=world.clock,
        fetcher=AppFetcher(client),
    ).refresh(Marks())
    assert trusted.agree(bundle.path).manifest == bundle.manifest


def test_publishing_a_version_again_changes_nothing(world: World, client: Client) -> None:
    client.release(make_bundle())
    before = visible(world)
    answer = client.publish(RELEASE, version=1)
    assert (answer.status_code, answer.json()["changed"]) == (200, False)
    assert visible(world) == before
    assert code_of(client.publish(RELEASE)) == "draft_missing"
    assert code_of(client.publish(RELEASE, version=2)) == "draft_missing"


def test_a_token_for_another_role_publishes_nothing_and_leaves_a_trace(world: World, service: Service, client: Client) -> None:
    data, _ = world.release_draft(make_bundle())
    for answer in (
        client("PUT", f"/v1/drafts/{RELEASE}", token=world.tokens[AUDIT], content=data),
        client("GET", f"/v1/drafts/{RELEASE}", token=world.tokens[AUDIT]),
        client("POST", "/v1/publish", token=world.tokens[AUDIT], json={"role": RELEASE}),
        client("PUT", f"/v1/blobs/sha256/{'0' * 64}", token=world.tokens["operator"], content=b""),
    ):
        assert (answer.status_code, code_of(answer)) == (403, "token_role")
    service.database.write(lambda connection: None).result()  # the rows were queued before this
    rows = service.database.read(
        lambda connection: connection.execute("SELECT actor, code FROM audit_log WHERE outcome = 'refused'").fetchall()
    )
    assert [(row["actor"], row["code"]) for row in rows] == [(AUDIT, "token_role")] * 3 + [("operator", "token_role")]


def test_no_token_an_unknown_one_and_an_expired_one_are_401(world: World, client: Client) -> None:
    path = f"/v1/drafts/{RELEASE}"
    assert code_of(client("GET", path)) == "token_missing"
    assert code_of(client("GET", path, headers={"authorization": "Basic abc"})) == "token_missing"
    answer = client("GET", path, token="x" * 43)
    assert (answer.status_code, code_of(answer), answer.headers["www-authenticate"]) == (401, "token_unknown", "Bearer")
    world.clock.now = world.clock.now.replace(year=2028)
    assert code_of(client("GET", path, token=world.tokens[RELEASE])) == "token_expired"


def test_co_signers_add_up_and_below_the_threshold_nothing_is_published(world: World, client: Client) -> None:
    bundle = make_bundle()
    client.upload_bundle(bundle)
    metadata = Metadata[Targets].from_bytes(world.release_draft(bundle, signatures=1)[0])
    client.upload(world.release_draft(bundle)[1])
    answer = client.put_draft(RELEASE, to_bytes(metadata))
    assert (answer.status_code, answer.json()["missing"]) == (201, 1)
    assert code_of(client.publish(RELEASE)) == "signature_threshold"
    assert RELEASE not in visible(world)
    metadata.sign(world.keys.signers[RELEASE][1], append=True)
    answer = client.put_draft(RELEASE, to_bytes(metadata))
    assert (answer.status_code, answer.json()["missing"]) == (200, 0)
    assert client("GET", f"/v1/drafts/{RELEASE}", token=world.tokens[RELEASE]).content == to_bytes(metadata)
    assert client.publish(RELEASE).status_code == 200


def test_a_co_signer_cannot_drop_the_other_ones_signature(world: World, client: Client) -> None:
    both = Metadata[Targets].from_bytes(world.release_draft(make_bundle())[0])
    client.put_draft(RELEASE, to_bytes(both))
    both.signatures.popitem()
    answer = client.put_draft(RELEASE, to_bytes(both))
    assert (answer.status_code, code_of(answer)) == (409, "draft_conflict")
    other, _ = world.release_draft(make_bundle("1.0.1"))
    assert code_of(client.put_draft(RELEASE, other)) == "draft_conflict"
    assert client.put_draft(RELEASE, other, query="?replace=true").status_code == 200


def test_a_draft_with_a_wrong_or_foreign_signature_is_not_kept(world: World, client: Client) -> None:
    metadata = Metadata[Targets].from_bytes(world.release_draft(make_bundle())[0])
    metadata.sign(CryptoSigner.generate_ed25519(), append=True)
    assert code_of(client.put_draft(RELEASE, to_bytes(metadata))) == "signature_invalid"
    metadata = Metadata[Targets].from_bytes(world.release_draft(make_bundle())[0])
    metadata.signed.unrecognized_fields["note"] = "added after signing"
    assert code_of(client.put_draft(RELEASE, to_bytes(metadata))) == "signature_invalid"
    metadata.signatures.clear()
    assert code_of(client.put_draft(RELEASE, to_bytes(metadata))) == "signature_invalid"
    assert code_of(client.put_draft(RELEASE, b"{}")) == "metadata_syntax"
    assert code_of(client("GET", f"/v1/drafts/{RELEASE}", token=world.tokens[RELEASE])) == "draft_missing"


def test_a_draft_of_any_but_the_next_version_is_refused(world: World, client: Client) -> None:
    first, _ = world.release_draft(make_bundle())
    client.release(make_bundle())
    assert code_of(client.put_draft(RELEASE, first)) == "draft_version"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"counter": Counter(0, 2)}, "counter_mismatch"),
        ({"counter": Counter(1, 1)}, "epoch_mismatch"),
        ({"latest": "9.9.9"}, "channel_latest"),
        ({"target": "release/clinic/digits/2.0.0.json", "latest": "2.0.0"}, "path_mismatch"),
        ({"target": "release/clinic/digits/CON.json"}, "path_outside_role"),
        ({"target": "release/clinic/digits/1.0.0"}, "path_outside_role"),
        ({"target": "release/other/digits/1.0.0.json"}, "path_outside_role"),
        ({"target": "audit/clinic/digits/1.0.0.json"}, "path_outside_role"),
        ({"target": "release/clinic/../1.0.0.json"}, "path_outside_role"),
        ({"target": "release/clinic/digits/a\\b.json"}, "path_outside_role"),
        ({"target": "release/clinic/digits/" + "a" * 300 + ".json"}, "path_outside_role"),
        ({"target": "release/clinic/digits/1.0.0?x#%.json"}, "path_outside_role"),
    ],
)
def test_a_release_entry_that_breaks_a_rule_is_refused(world: World, client: Client, changes: dict[str, Any], code: str) -> None:
    answer = client.release(make_bundle(), **changes)
    assert (answer.status_code, code_of(answer)) == (422, code)
    assert RELEASE not in visible(world)
    rows = client.service.database.read(lambda connection: connection.execute("SELECT * FROM audit_log").fetchall())
    assert [(row["actor"], row["outcome"], row["code"]) for row in rows] == [(RELEASE, "refused", code)]


def test_a_bundle_with_a_missing_or_damaged_blob_is_refused(world: World, client: Client) -> None:
    bundle = make_bundle()
    client.upload_bundle(bundle)
    layer = bundle.contract.variants[0].model.digest
    path = world.data / "blobs" / "sha256" / layer.hex
    data = path.read_bytes()
    draft, blobs = world.release_draft(bundle)
    client.put_draft(RELEASE, draft)
    assert code_of(client.publish(RELEASE)) == "blob_missing"  # the channel was not sent
    client.upload(blobs)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert code_of(client.publish(RELEASE)) == "blob_digest_mismatch"
    assert not path.exists()  # a damaged copy would keep the publisher from sending a good one
    assert code_of(client.publish(RELEASE)) == "blob_missing"
    client.upload_bundle(bundle)
    assert client.publish(RELEASE).status_code == 200


def test_a_model_that_reaches_for_other_files_is_refused(world: World, client: Client) -> None:
    reaching = model([], initializers=[external_tensor()]).SerializeToString()
    answer = client.release(make_bundle(model=reaching))
    assert answer.status_code == 422
    assert code_of(answer).startswith("model_")


def test_a_published_version_cannot_become_another_bundle(world: World, client: Client) -> None:
    client.release(make_bundle())
    other = make_bundle(model=linear(scale=3.0).SerializeToString())
    assert code_of(client.release(other)) == "equivocation"


def test_two_versions_cannot_carry_one_counter_and_counters_grow(client: Client) -> None:
    client.release(make_bundle("1.0.0", 5))
    assert code_of(client.release(make_bundle("1.0.1", 5))) == "equivocation"
    # the draft of the refused one is still there, and is replaced
    draft, blobs = client.world.release_draft(make_bundle("1.0.2", 4), current=client.current(RELEASE))
    client.upload(blobs)
    client.upload_bundle(make_bundle("1.0.2", 4))
    client.put_draft(RELEASE, draft, query="?replace=true")
    assert code_of(client.publish(RELEASE)) == "counter_not_above"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"subject": Digest.of(b"other bytes")}, "variant_unknown"),
        ({"verdict": "WARNED"}, "attestation_mismatch"),
        ({"signers": [CryptoSigner.generate_ed25519()]}, "signature_threshold"),
    ],
)
def test_an_audit_entry_without_a_true_attestation_is_refused(
    world: World, client: Client, changes: dict[str, Any], code: str
) -> None:
    bundle = make_bundle()
    client.upload_bundle(bundle)
    answer = client.audit(bundle, **changes)
    assert (answer.status_code, code_of(answer)) == (422, code)
    assert AUDIT not in visible(world)


def test_a_waiver_by_one_auditor_is_refused_and_by_all_that_the_role_needs_is_admitted(world: World, client: Client) -> None:
    bundle = make_bundle()
    client.upload_bundle(bundle)
    auditors = world.keys.signers[AUDIT]
    assert len(auditors) == 2
    answer = client.audit(bundle, verdict="WAIVED", signers=auditors[:1])
    assert (answer.status_code, code_of(answer)) == (422, "signature_threshold")
    draft, blobs = world.audit_draft(bundle, current=client.current(AUDIT), verdict="WAIVED", signers=auditors)
    client.upload(blobs, role=AUDIT)
    client.put_draft(AUDIT, draft, query="?replace=true")
    assert client.publish(AUDIT).status_code == 200


def test_a_withdrawal_needs_a_higher_seq_and_no_valid_attestation(world: World, client: Client) -> None:
    bundle = make_bundle()
    client.upload_bundle(bundle)
    assert client.audit(bundle).status_code == 200
    stranger = [CryptoSigner.generate_ed25519()]
    assert code_of(client.audit(bundle, seq=1, status="withdrawn")) == "audit_seq"
    draft, blobs = world.audit_draft(bundle, current=client.current(AUDIT), seq=2, status="withdrawn", signers=stranger)
    client.upload(blobs, role=AUDIT)
    client.put_draft(AUDIT, draft, query="?replace=true")
    assert client.publish(AUDIT).status_code == 200


def test_an_expired_attestation_of_an_old_entry_does_not_bar_new_ones(world: World, client: Client) -> None:
    first, second = make_bundle("1.0.0", 1), make_bundle("1.0.1", 2)
    for bundle in (first, second):
        client.upload_bundle(bundle)
    client.audit(first)
    world.clock.now = world.clock.now.replace(month=7)
    assert client.audit(second, seq=2).status_code == 200


def test_a_role_that_lists_a_second_hash_is_refused(world: World, client: Client) -> None:
    bundle = make_bundle()
    metadata = next_delegated(None, RELEASE, entries={}, now=world.clock())
    hashes = {"sha256": bundle.manifest.digest.hex, "sha512": "0" * 128}
    target = bundle.path.release_target
    metadata.signed.targets[target] = TargetFile(bundle.manifest.length, hashes, target)
    client.upload_bundle(bundle)
    client.put_draft(RELEASE, world.keys.signed(RELEASE, metadata))
    assert code_of(client.publish(RELEASE)) == "hash_not_sha256"


class PowerCutError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("survived", [0, 1, 2])
def test_a_crash_between_two_files_of_a_publish_leaves_the_old_set_and_the_same_request_finishes_it(
    world: World, service: Service, client: Client, survived: int
) -> None:
    client.release(make_bundle())
    before = visible(world)
    second = make_bundle("1.0.1", 2)
    client.upload_bundle(second)
    draft, blobs = world.release_draft(second, current=client.current(RELEASE))
    client.upload(blobs)
    client.put_draft(RELEASE, draft)
    service.database.close()
    written: list[Path] = []

    def write(path: Path, data: bytes) -> None:
        if len(written) == survived:
            raise PowerCutError
        written.append(path)
        write_atomic(path, data)

    with world.service(write=write) as cut, pytest.raises(PowerCutError):
        cut.publisher.publish(RELEASE, version=None)
    assert visible(world) == before
    with world.service() as restarted:
        after = Client(world, restarted)
        assert after("GET", f"/v1/roles/{RELEASE}").json()["signed"]["version"] == 1
        assert after.publish(RELEASE).json()["version"] == 2
    assert visible(world) == before | {RELEASE: 2}


def test_a_damaged_channel_does_not_keep_the_server_from_starting(
    world: World, service: Service, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.release(make_bundle())
    entry = client("GET", f"/v1/roles/{RELEASE}").json()["signed"]["targets"]["release/clinic/digits/channel.json"]
    (world.data / "blobs" / "sha256" / entry["hashes"]["sha256"]).write_bytes(b"x" * entry["length"])
    service.database.close()
    with world.service() as restarted:
        offers = restarted.database.read(lambda connection: connection.execute("SELECT version FROM offers").fetchall())
        assert [row["version"] for row in offers] == ["1.0.0"]
    assert "cannot read what release-clinic offers" in caplog.text


def test_a_crash_after_the_timestamp_leaves_the_new_set_and_the_request_finds_it(
    world: World, service: Service, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle()
    client.upload_bundle(bundle)
    draft, blobs = world.release_draft(bundle)
    client.upload(blobs)
    client.put_draft(RELEASE, draft)

    def cut(*_: object, **__: object) -> None:
        raise PowerCutError

    monkeypatch.setattr(service.publisher, "_settle", cut)
    with pytest.raises(PowerCutError):
        service.publisher.publish(RELEASE, version=None)
    service.database.close()
    assert visible(world)[RELEASE] == 1
    with world.service() as restarted:
        after = Client(world, restarted)
        assert after.publish(RELEASE, version=1).json()["changed"] is False
        rows = restarted.database.read(lambda connection: connection.execute("SELECT model, version FROM offers").fetchall())
        assert [tuple(row) for row in rows] == [("clinic/digits", "1.0.0")]


def test_concurrent_publishes_are_serialised_and_none_is_lost(world: World, service: Service, client: Client) -> None:
    bundle = make_bundle()
    client.upload_bundle(bundle)
    for role, (draft, blobs) in ((RELEASE, world.release_draft(bundle)), (AUDIT, world.audit_draft(bundle))):
        client.upload(blobs, role=role)
        client.put_draft(role, draft)
    results: list[Any] = []
    start = threading.Barrier(6)

    def publish(role: str) -> None:
        start.wait()
        results.append(service.publisher.publish(role, version=1))

    threads = [threading.Thread(target=publish, args=(role,)) for role in (RELEASE, AUDIT) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    changed = sorted((result.timestamp, result.snapshot) for result in results if result.changed)
    assert changed == [(2, 2), (3, 3)]
    assert len(results) == 6
    assert visible(world) == {"targets": 1, RELEASE: 1, AUDIT: 1}


def test_readers_never_see_a_mixed_set_while_roles_are_published(world: World, service: Service, client: Client) -> None:
    stop = threading.Event()
    seen: list[list[int]] = [[], []]
    errors: list[BaseException] = []

    def read(versions: list[int]) -> None:
        try:
            while not stop.is_set():
                versions.append(visible(world).get(RELEASE, 0))
        except BaseException as e:  # noqa: BLE001  # handed to the test
            errors.append(e)

    readers = [threading.Thread(target=read, args=(versions,)) for versions in seen]
    for reader in readers:
        reader.start()
    for number in range(1, 11):
        metadata = next_delegated(client.current(RELEASE), RELEASE, entries={}, now=world.clock())
        client.put_draft(RELEASE, world.keys.signed(RELEASE, metadata))
        assert client.publish(RELEASE).json()["version"] == number
    stop.set()
    for reader in readers:
        reader.join()
    assert not errors
    assert all(versions == sorted(versions) for versions in seen)


def test_online_roles_are_signed_again_before_they_expire(world: World, service: Service) -> None:
    service.publisher.renew_if_due()
    assert visible(world) == {"targets": 1}
    versions = []
    for hours in (6, 13, 24 * 6):
        world.clock.now += timedelta(hours=hours)
        service.publisher.renew_if_due()
        timestamp = Metadata[Timestamp].from_bytes((world.data / "tuf" / "timestamp.json").read_bytes()).signed
        assert not timestamp.is_expired(world.clock.now)
        versions.append((timestamp.version, timestamp.snapshot_meta.version))
    assert versions == [(1, 1), (2, 1), (3, 2)]


def test_an_offline_role_about_to_expire_is_said_loudly(world: World, service: Service, caplog: pytest.LogCaptureFixture) -> None:
    world.clock.now += timedelta(days=175)
    service.publisher.renew_if_due()
    assert "role targets expires" in caplog.text
