"""Any one byte of anything signed, changed after signing, is refused: roles, attestation, report, and what digests name.

The default run takes every position where that is fast, and for role files a sample with a fixed seed; ``make test-slow`` takes
every position of those too.

What is not covered, because no signature and no digest is over it, and what each test shows to change nothing:

- how the hexadecimal digits of a role's ``sig`` are written: their case, and white space between two pairs;
- how JSON is written in a role file or an envelope (white space between tokens, a needless escape): the signature is over the
  canonical form, or over the payload;
- signatures beyond the threshold, or by keys that the role does not have: they do not count;
- unused bits in the last base64 letter of an envelope's ``sig``: they decode to the same signature (its padding is not free);
- the ``keyid`` of a device's report: the server tries the one key that it has for this device;
- owner, group, permissions and times in an offline file (``tests/unit/bundle/test_offline.py``).

An attestation's file has a digest in the audit record, so there even these are refused before they are looked at.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from device_client.bundle.digest import Digest
from device_client.bundle.strict_json import canonical_json
from device_client.bundle.verified import verify_bundle
from device_client.errors import SealiftError
from device_client.install.report import PAYLOAD_TYPE as REPORT_TYPE
from device_client.trust.agreement import AgreedRelease
from device_client.trust.attestation import PAYLOAD_TYPE, VerifiedAudit, build_statement, verify_attestation
from device_client.trust.dsse import sign_envelope
from device_client.trust.keys import fingerprint
from device_client.trust.marks import Marks
from device_client.trust.refs import BlobRef
from device_client.trust.times import format_time
from tests.fuzz.fixed_keys import signer
from tests.fuzz.targets.attestation import AUDIT as STATEMENT
from tests.fuzz.targets.attestation import AUDITORS, KEYS
from tests.fuzz.targets.attestation import NOW as AUDITED
from tests.simulator import AUDIT, NOW, RELEASE, RepositorySimulator
from tests.unit.bundle.samples import MemorySource, sample_bundle
from update_server.audience import Audience
from update_server.devices import Device, DeviceState
from update_server.reports import Report, verify_report

V = "1.0.0"
SEED = 20260601
SAMPLE = 30  # positions of each role file in the default run
FILES = ("2.root.json", "timestamp.json", "2.snapshot.json", "1.targets.json", f"1.{RELEASE}.json", f"1.{AUDIT}.json")


@dataclass(frozen=True)
class Change:
    """One byte replaced, removed or added; ``new`` is what stands at ``at`` then."""

    at: int
    removed: int
    new: bytes

    def applied(self, data: bytes) -> bytes:
        return data[: self.at] + self.new + data[self.at + self.removed :]


def changes(data: bytes, at: int) -> Iterator[Change]:
    """Another bit, another case, another byte; gone; a byte more."""
    byte, rng = data[at], random.Random(SEED + at)
    for other in {byte ^ 0x01, byte ^ 0x20, byte ^ 0x80, rng.randrange(256)} - {byte}:
        yield Change(at, 1, bytes([other]))
    yield Change(at, 1, b"")
    yield Change(at, 0, rng.choice((b" ", b"0", data[at : at + 1])))


# Role files, through the client that a device runs


@dataclass
class Repository:
    """A repository whose files are signed once, and what an honest refresh of it gives."""

    sim: RepositorySimulator
    files: dict[str, bytes]
    honest: tuple[Marks, AgreedRelease]

    def refresh(self, cache: Path, **served: bytes) -> tuple[Marks, AgreedRelease]:
        self.sim.served = {**self.files, **served}
        trusted = self.sim.refresh(cache)
        agreed = trusted.agree(self.sim.path(V))
        return trusted.marks, agreed


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    sim = RepositorySimulator()
    sim.release(V, counter=1)
    sim.root.version = 2
    roles = dict(zip(FILES, ("root", "timestamp", "snapshot", "targets", RELEASE, AUDIT), strict=True))
    files = {name: sim.role_bytes(role) for name, role in roles.items()}
    repository = Repository(sim, files, honest=None)  # type: ignore[arg-type]
    repository.honest = repository.refresh(tmp_path_factory.mktemp("honest"))
    assert set(FILES) <= set(sim.requests)
    return repository


def means_nothing(data: bytes, changed: bytes) -> bool:
    """The same ``signed`` part under the same signatures, otherwise written."""
    before, after = json.loads(data), json.loads(changed)
    decoded = [[(one["keyid"], bytes.fromhex(one["sig"])) for one in value["signatures"]] for value in (before, after)]
    return before["signed"] == after["signed"] and decoded[0] == decoded[1]


def check_role_file(repository: Repository, name: str, positions: Iterator[int], folder: Path) -> int:
    """Refuses every change that means something; returns how many were refused."""
    data, refused = repository.files[name], 0
    for at in positions:
        for number, change in enumerate(changes(data, at)):
            try:
                found = repository.refresh(folder / f"{at}-{number}", **{name: change.applied(data)})
            except SealiftError:
                refused += 1
                continue
            assert means_nothing(data, change.applied(data)), (name, change)
            assert found == repository.honest, (name, change)
    return refused


@pytest.mark.parametrize("name", FILES)
def test_a_role_file_with_one_byte_changed_is_refused(repository: Repository, tmp_path: Path, name: str) -> None:
    positions = random.Random(f"{SEED} {name}").sample(range(len(repository.files[name])), SAMPLE)
    assert check_role_file(repository, name, iter(positions), tmp_path) > 4 * SAMPLE


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_role_file_with_any_one_byte_changed_is_refused(repository: Repository, tmp_path: Path, name: str) -> None:
    length = len(repository.files[name])
    assert check_role_file(repository, name, iter(range(length)), tmp_path) > 4 * length


@pytest.mark.parametrize("name", FILES)
def test_what_no_signature_of_a_role_is_over_changes_nothing(repository: Repository, tmp_path: Path, name: str) -> None:
    data = repository.files[name]
    value = json.loads(data)
    loud = json.loads(data)
    for signature in loud["signatures"]:
        signature["sig"] = signature["sig"].upper()
    stranger = {"keyid": "0" * 64, "sig": "00"}
    more = {**value, "signatures": [*value["signatures"], stranger]}
    spaced = json.loads(data)
    for signature in spaced["signatures"]:
        signature["sig"] = " ".join(signature["sig"][at : at + 2] for at in range(0, len(signature["sig"]), 2))
    forms = [canonical_json(loud), canonical_json(spaced), json.dumps(value, indent=3).encode(), canonical_json(more)]
    for number, form in enumerate(forms):
        assert form != data
        assert repository.refresh(tmp_path / str(number), **{name: form}) == repository.honest


@pytest.mark.parametrize("name", FILES)
def test_a_role_that_says_something_else_under_its_old_signatures_is_refused(
    repository: Repository, tmp_path: Path, name: str
) -> None:
    value = json.loads(repository.files[name])
    value["signed"]["expires"] = "2026-06-29T12:00:00Z"
    with pytest.raises(SealiftError) as refusal:
        repository.refresh(tmp_path, **{name: canonical_json(value)})
    assert refusal.value.code == "signature_threshold"


@pytest.mark.parametrize(
    "change",
    [
        lambda signed: signed["meta"].update({"more.json": {"version": 1}}),
        lambda signed: signed.update(expires=signed["expires"].replace("-0", "-", 1)),
        lambda signed: signed.update(expires=signed["expires"].replace("2", "\u0662", 1)),
    ],
    ids=["a part that python-tuf drops", "a date without its zero", "a digit of another script"],
)
def test_what_python_tuf_reads_as_if_it_were_not_there_is_signed_too(
    repository: Repository, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    """Signatures are over what the file says, not over what a library made of it."""
    value = json.loads(repository.files["timestamp.json"])
    change(value["signed"])
    with pytest.raises(SealiftError):
        repository.refresh(tmp_path, **{"timestamp.json": canonical_json(value)})


# Envelopes: attestation and report

ENVELOPE = sign_envelope(build_statement(STATEMENT), payload_type=PAYLOAD_TYPE, signers=[AUDITORS[0]])
DEVICE_KEY = signer("device")
DEVICE = Device(fingerprint(DEVICE_KEY.public_key), DEVICE_KEY.public_key, DeviceState.ACCEPTED, 0, 0, {})
REPORT = {
    "schema": 1, "audience": "http://127.0.0.1:8000", "device_id": DEVICE.device_id.hex, "counter": 5, "generation": 1,
    "created": format_time(NOW), "model": "digits/ocr", "state": "commit", "event": "installed", "code": None, "detail": None,
    "active": {"version": V, "manifest": str(Digest.of(b"manifest"))}, "target": None, "floor": [0, 0], "marks": {"root": 1},
}  # fmt: skip
REPORT_ENVELOPE = sign_envelope(canonical_json(REPORT), payload_type=REPORT_TYPE, signers=[DEVICE_KEY])


def attested(data: bytes) -> VerifiedAudit:
    return verify_attestation(data, keys=KEYS, now=AUDITED, subject=STATEMENT.subject)


def reported(data: bytes) -> Report:
    return verify_report(data, device=DEVICE, audience=Audience(loopback=True), now=NOW)


def same_envelope(data: bytes, changed: bytes, *, any_keyid: bool) -> bool:
    """The same payload and the same signature, by a key that the reader finds by itself or by its id."""
    before, after = json.loads(data), json.loads(changed)
    one, other = before["signatures"][0], after["signatures"][0]
    return (
        base64.b64decode(before["payload"]) == base64.b64decode(after["payload"])
        and base64.b64decode(one["sig"]) == base64.b64decode(other["sig"])
        and (any_keyid or one["keyid"] == other["keyid"])
    )


def check_envelope(data: bytes, verify: Callable[[bytes], object], told: Callable[[object], object], *, any_keyid: bool) -> int:
    """Refuses every change that means something, at every position; returns how many were taken and mean the same."""
    honest, taken = told(verify(data)), 0
    for at in range(len(data)):
        for change in changes(data, at):
            try:
                found = verify(change.applied(data))
            except SealiftError:
                continue
            taken += 1
            assert same_envelope(data, change.applied(data), any_keyid=any_keyid), change
            assert told(found) == honest, change
    return taken


def test_an_attestation_with_any_one_byte_changed_is_refused() -> None:
    taken = check_envelope(ENVELOPE, attested, lambda found: found.audit, any_keyid=False)  # type: ignore[attr-defined]
    assert taken < 20  # spaces between tokens


def test_an_attestation_that_is_named_by_its_digest_has_no_byte_to_spare() -> None:
    """What a signer and a server hold against the record: the envelope's own digest."""
    named = attested(ENVELOPE).envelope
    for at in range(len(ENVELOPE)):
        for change in changes(ENVELOPE, at):
            assert BlobRef.of(change.applied(ENVELOPE)) != named


def test_a_report_with_any_one_byte_changed_is_refused() -> None:
    def told(found: object) -> object:
        assert isinstance(found, Report)
        return {name: value for name, value in vars(found).items() if name != "envelope"}

    assert check_envelope(REPORT_ENVELOPE, reported, told, any_keyid=True) < 400  # spaces, and any key id


def test_unused_bits_of_base64_change_nothing() -> None:
    value = json.loads(ENVELOPE)
    sig = value["signatures"][0]["sig"]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    assert sig.endswith("==")  # 64 bytes: the last letter carries two bits of them, and four of nothing
    last = letters.index(sig[-3])
    taken = 0
    for other in letters:
        value["signatures"][0]["sig"] = sig[:-3] + other + "=="
        try:
            found = attested(canonical_json(value))
        except SealiftError:
            assert letters.index(other) >> 4 != last >> 4
            continue
        taken += 1
        assert found.audit == STATEMENT
    assert taken == 16


# What signed metadata names by digest: manifest, contract, config, models, probes, papers


def test_a_bundle_with_any_one_byte_changed_is_refused() -> None:
    source, _, digest = sample_bundle()
    size = len(source.blobs[digest])
    verify_bundle(source, digest, manifest_size=size, closed=True)
    for name, data in source.blobs.items():
        for at in range(len(data)):
            for change in (Change(at, 1, bytes([data[at] ^ 1])), Change(at, 1, b""), Change(at, 0, b" ")):
                damaged = MemorySource({**source.blobs, name: change.applied(data)})
                with pytest.raises(SealiftError) as refusal:
                    verify_bundle(damaged, digest, manifest_size=size)
                assert refusal.value.code in {"blob_digest_mismatch", "blob_size_mismatch"}
