"""ML-DSA-65 keys for every role, and a root of one Ed25519 and one ML-DSA-65 key that needs both, through the real commands.

`keys new`, `keys init`, `server init`, `sign`, `publish`, `device init`, `enroll`, `poll`, `infer`, with the real server and
real HTTP between them. Then a rotation from Ed25519 to the hybrid root, which a device follows, and two that it refuses.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tuf.api.metadata import Key, Metadata, Root

import demo.names
from device_client.bundle import media_types
from device_client.bundle.descriptor import Descriptor
from device_client.bundle.digest import Digest
from device_client.bundle.layout import LayoutDirectory, read_blob
from device_client.console import run_main
from device_client.trust.attestation import PAYLOAD_TYPE, build_statement
from device_client.trust.dsse import sign_envelope
from device_client.trust.keys import load_public_key, load_signer
from device_client.trust.times import format_time, utc_now
from packager.measurements import write_measurements
from packager.reissue import compose_manifest
from packager.repository import to_bytes
from packager.writer import write_layout
from sealift import cli
from tests.statements import passed
from tests.threats.loopback import LoopbackServer
from tests.threats.sealed import Sealed, seal

pytestmark = pytest.mark.e2e

PASSPHRASE = "a passphrase for tests"
PQ, CLASSICAL = "ml-dsa-65", "ed25519"
MODEL = f"{demo.names.LINE}/{demo.names.MODEL}"
RELEASE, AUDIT = demo.names.RELEASE, demo.names.AUDIT
ROLES_TOML = """\
schema = 1
[root]
keys = {root}
threshold = {threshold}
[targets]
keys = ["targets.pub"]
[snapshot]
keys = ["snapshot.pub"]
[timestamp]
keys = ["timestamp.pub"]
[lines.digits.release]
keys = ["release-a.pub", "release-b.pub"]
[lines.digits.audit]
keys = ["audit-a.pub", "audit-b.pub"]
"""
X = np.array([[1.0, -2.0, 3.0], [0.5, 0.0, -7.0]], np.float32)


class Shop:
    """A folder in which people run commands, as they would by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root_sha256 = ""
        self.server: LoopbackServer | None = None

    def run(self, command: str, *, refused_as: str = "") -> dict[str, Any]:
        """Runs ``sealift COMMAND --json`` and returns its answer; only a refusal with the code ``refused_as`` may fail."""
        printed = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(printed):
            status = run_main(cli, prog_name="sealift", args=[*command.split(), "--json"])
        lines = [line for line in printed.getvalue().splitlines() if line.startswith("{")]
        answer: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        assert (status != 0, answer.get("code", "")) == (bool(refused_as), refused_as), f"{command}: {status} {answer}"
        return answer

    def make_keys(self, schemes: Mapping[str, str]) -> None:
        for name, scheme in schemes.items():
            self.run(f"keys new keys/{name} --scheme {scheme}")

    def hold_ceremony(self, root_keys: Sequence[str], *, threshold: int) -> None:
        roles = ROLES_TOML.format(root=json.dumps([f"{name}.pub" for name in root_keys]), threshold=threshold)
        (self.folder / "keys" / "roles.toml").write_text(roles)
        signers = " ".join(f"--key file:keys/{name}" for name in (*root_keys, "targets"))
        self.root_sha256 = self.run(f"keys init --repo ceremony --roles keys/roles.toml {signers}")["root_sha256"]

    def start_server(self) -> None:
        self.run(
            "server init --data server --repo ceremony --snapshot-key file:keys/snapshot "
            "--timestamp-key file:keys/timestamp --tokens tokens --accept-loopback-devices"
        )
        self.server = LoopbackServer(self.folder / "server", passphrase=PASSPHRASE.encode())

    def release(self, sealed: Sealed) -> None:
        """Both teams sign with two keys each, and publish."""
        version = sealed.bundle.contract.version
        self._attest(sealed)
        options = {RELEASE: "", AUDIT: f"--attestation attestation-{version}.json"}
        for role, option in options.items():
            assert self.server is not None
            at = f"bundles/{version} --repo {self.server.url} --yes --role {role} --token-file tokens/{role}.token"
            kind = role.partition("-")[0]
            for key in ("a", "b"):
                self.run(f"sign {at} --root-sha256 {self.root_sha256} --key file:keys/{kind}-{key} {option}")
            self.run(f"publish {at}")

    def pack(self, version: str, *, counter: int, seed: int) -> Sealed:
        """A tiny real bundle with the report of a compression whose budget was met, which `sign` asks for."""
        plain = seal(self.folder / "plain", version=version, counter=counter, seed=seed)
        report = b'{"budget":{"verdict":"met"}}'
        layers = plain.bundle.manifest.layers[1:]
        source = LayoutDirectory(plain.folder)
        blobs = {layer.digest: read_blob(source, layer.digest, layer.size) for layer in layers}
        added = Descriptor(media_types.REPORT, Digest.of(report), len(report))
        manifest, others = compose_manifest(plain.bundle.contract, (*layers, added))
        folder = self.folder / "bundles" / version
        bundle = write_layout(folder, blobs={**blobs, **others, added.digest: report}, manifest=manifest)
        write_measurements(folder, manifest=bundle.digest, latency={}, durations_s={})
        return Sealed(folder, bundle)

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()

    def start_device(self) -> None:
        assert self.server is not None
        self.run(
            f"device init --dir device --root ceremony/metadata/1.root.json --root-sha256 {self.root_sha256} "
            f"--server {self.server.url} --model {MODEL}"
        )
        self.run("device enroll --dir device")

    def infer(self) -> np.ndarray[Any, Any]:
        np.savez(self.folder / "x.npz", x=X)
        self.run(f"device infer --dir device --model {MODEL} --input x.npz --output y.npz")
        with np.load(self.folder / "y.npz", allow_pickle=False) as outputs:
            (found,) = (outputs[name] for name in outputs.files)
        return np.asarray(found)

    def active_version(self) -> str:
        return str(self.run("device status --dir device")["models"][MODEL]["active"]["version"])

    def prepare_root(self, keys: Sequence[str], *, threshold: int) -> None:
        """Puts the next root into the ceremony's folder, unsigned: ``keys`` in the place of the root keys before."""
        newest = max((self.folder / "ceremony" / "metadata").glob("*.root.json"), key=lambda path: int(path.name.partition(".")[0]))
        root: Root = Metadata[Root].from_bytes(newest.read_bytes()).signed
        for keyid in list(root.roles["root"].keyids):
            root.revoke_key(keyid, "root")
        for name in keys:
            root.add_key(self._public(name), "root")
        now = utc_now()
        root.roles["root"].threshold = threshold
        root.version += 1
        root.expires = now + timedelta(days=365)
        root.unrecognized_fields["issued"] = format_time(now)
        drafts = self.folder / "ceremony" / "drafts"
        drafts.mkdir(exist_ok=True)
        (drafts / "root.json").write_bytes(to_bytes(Metadata(root)))

    def sign_root(self, *keys: str) -> dict[str, Any]:
        """Each holder signs what is prepared."""
        answer: dict[str, Any] = {}
        for name in keys:
            answer = self.run(f"sign --repo ceremony --role root --yes --key file:keys/{name}")
        return answer

    def publish_root(self, version: int) -> str:
        """Makes the prepared root the ceremony's newest; returns its digest."""
        data = self.draft
        (self.folder / "ceremony" / "drafts" / "root.json").rename(self.folder / "ceremony" / "metadata" / f"{version}.root.json")
        return Digest.of(data).hex

    def serve_root(self, data: bytes, version: int) -> None:
        """Puts a root where the server's operator would."""
        (self.folder / "server" / "tuf" / f"{version}.root.json").write_bytes(data)

    @property
    def draft(self) -> bytes:
        return (self.folder / "ceremony" / "drafts" / "root.json").read_bytes()

    def _public(self, name: str) -> Key:
        return load_public_key(self.folder / "keys" / f"{name}.pub")

    def _attest(self, sealed: Sealed) -> None:
        now = utc_now()
        name = sealed.bundle.contract.variants[0].id
        audit = passed(sealed.model, name, audited_at=now, expires=now + timedelta(days=20))
        signer = load_signer(f"file:{self.folder / 'keys' / 'audit-a'}", passphrase=lambda _: PASSPHRASE.encode())
        envelope = sign_envelope(build_statement(audit), payload_type=PAYLOAD_TYPE, signers=[signer])
        (self.folder / f"attestation-{sealed.bundle.contract.version}.json").write_bytes(envelope)


_EVERYBODY = ("targets", "snapshot", "timestamp", "release-a", "release-b", "audit-a", "audit-b")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv("SEALIFT_PASSPHRASE", PASSPHRASE)
    (tmp_path / "keys").mkdir()
    made = Shop(tmp_path)
    yield made
    made.stop()


def _running(shop: Shop, *, root_keys: Mapping[str, str], threshold: int, others: str) -> Sealed:
    """A device that runs 1.0.0, in a world with these keys."""
    shop.make_keys({**root_keys, **dict.fromkeys(_EVERYBODY, others)})
    shop.hold_ceremony(list(root_keys), threshold=threshold)
    shop.start_server()
    sealed = shop.pack("1.0.0", counter=1, seed=1)
    shop.release(sealed)
    shop.start_device()
    assert shop.run("device poll --dir device")["result"] == "installed"
    return sealed


def _schemes(root: bytes) -> set[str]:
    return {key["scheme"] for key in json.loads(root)["signed"]["keys"].values()}


def test_every_role_signs_with_ml_dsa_65_from_the_ceremony_to_the_inference(shop: Shop) -> None:
    _running(shop, root_keys={"root-a": PQ, "root-b": PQ}, threshold=2, others=PQ)
    first = shop.infer()
    assert _schemes((shop.folder / "ceremony" / "metadata" / "1.root.json").read_bytes()) == {"ml-dsa-65/1"}
    shop.release(shop.pack("1.1.0", counter=2, seed=2))
    assert shop.run("device poll --dir device")["result"] == "installed"
    assert shop.active_version() == "1.1.0"
    assert not np.allclose(shop.infer(), first)


def test_a_hybrid_root_carries_the_whole_chain(shop: Shop) -> None:
    _running(shop, root_keys={"root-a": CLASSICAL, "root-q": PQ}, threshold=2, others=CLASSICAL)
    root = (shop.folder / "ceremony" / "metadata" / "1.root.json").read_bytes()
    assert _schemes(root) == {"ed25519", "ml-dsa-65/1"}
    assert json.loads(root)["signed"]["roles"]["root"]["threshold"] == 2
    assert shop.infer().shape == (2, 3)


def test_a_ceremony_with_one_of_the_two_keys_of_a_hybrid_root_writes_nothing(shop: Shop) -> None:
    shop.make_keys({"root-a": CLASSICAL, "root-q": PQ, **dict.fromkeys(_EVERYBODY, CLASSICAL)})
    shop.hold_ceremony(["root-a", "root-q"], threshold=2)
    for alone in ("root-a", "root-q"):
        shop.run(
            f"keys init --repo {alone}-alone --roles keys/roles.toml --key file:keys/{alone} --key file:keys/targets",
            refused_as="threshold_missing",
        )
        assert not (shop.folder / f"{alone}-alone" / "metadata" / "1.root.json").exists()


def test_an_ed25519_root_rotates_to_a_hybrid_one_and_the_device_follows(shop: Shop) -> None:
    _running(shop, root_keys={"root-a": CLASSICAL, "root-b": CLASSICAL}, threshold=2, others=CLASSICAL)
    shop.make_keys({"root-c": CLASSICAL, "root-q": PQ})
    shop.prepare_root(["root-c", "root-q"], threshold=2)
    assert not shop.sign_root("root-a", "root-b")["complete"]  # the keys before do not suffice
    assert shop.sign_root("root-c")["missing"] == [load_public_key(shop.folder / "keys" / "root-q.pub").keyid]
    assert shop.sign_root("root-q")["complete"]
    shop.serve_root(shop.draft, 2)
    shop.run("device poll --dir device")
    shop.root_sha256 = shop.publish_root(2)
    shop.release(shop.pack("1.1.0", counter=2, seed=2))
    assert shop.run("device poll --dir device")["result"] == "installed"
    assert shop.active_version() == "1.1.0"
    shop.prepare_root(["root-c", "root-q"], threshold=2)
    shop.run("sign --repo ceremony --role root --yes --key file:keys/root-a", refused_as="key_not_in_role")
    shop.serve_root(_signed_by_strangers_to_it(shop), 3)
    shop.run("device poll --dir device", refused_as="signature_threshold")  # the keys that were rotated out say nothing any more


def test_a_hybrid_root_that_lacks_a_signature_is_refused_and_the_model_runs_on(shop: Shop) -> None:
    """The ML-DSA key alone, and each other set that leaves out one of: the two keys before, the new Ed25519 key."""
    _running(shop, root_keys={"root-a": CLASSICAL, "root-b": CLASSICAL}, threshold=2, others=CLASSICAL)
    before = shop.infer()
    shop.make_keys({"root-c": CLASSICAL, "root-q": PQ})
    everybody = ["root-a", "root-b", "root-c", "root-q"]
    for signed_by in (["root-q"], ["root-a", "root-q"], ["root-a", "root-b", "root-q"], ["root-c", "root-q"], everybody[:3]):
        shop.prepare_root(["root-c", "root-q"], threshold=2)
        assert not shop.sign_root(*signed_by)["complete"]
        shop.serve_root(shop.draft, 2)
        shop.run("device poll --dir device", refused_as="signature_threshold")
        assert np.array_equal(shop.infer(), before)
    assert shop.sign_root("root-q")["complete"]
    shop.serve_root(shop.draft, 2)
    assert shop.run("device poll --dir device")["result"] != "installed"  # nothing new, and no refusal any more


def test_one_key_of_a_hybrid_root_cannot_sign_the_next_alone(shop: Shop) -> None:
    _running(shop, root_keys={"root-a": CLASSICAL, "root-q": PQ}, threshold=2, others=CLASSICAL)
    for alone in ("root-a", "root-q"):
        shop.prepare_root(["root-a", "root-q"], threshold=2)
        assert not shop.sign_root(alone)["complete"]
        shop.serve_root(shop.draft, 2)
        shop.run("device poll --dir device", refused_as="signature_threshold")
    assert shop.sign_root("root-a")["complete"]
    shop.serve_root(shop.draft, 2)
    shop.run("device poll --dir device")
    assert shop.active_version() == "1.0.0"


def _signed_by_strangers_to_it(shop: Shop) -> bytes:
    """The prepared root, signed by the keys that stood in the first root."""
    metadata: Metadata[Root] = Metadata.from_bytes(shop.draft)
    for name in ("root-a", "root-b"):
        metadata.sign(load_signer(f"file:{shop.folder / 'keys' / name}", passphrase=lambda _: PASSPHRASE.encode()), append=True)
    return to_bytes(metadata)
