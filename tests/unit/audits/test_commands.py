"""The commands, on a real bundle folder: run, report, attest, verify, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audits.commands import audit
from audits.commands_statements import expected_policy
from audits.policy import TIERS, load_policy
from device_client.bundle.digest import Digest
from device_client.console import run_main
from device_client.trust.expected_policy import read_expected_policy
from device_client.trust.keys import new_key_file
from tests.unit.audits.conftest import Case
from tests.unit.bundle.samples import sample_bundle, write_layout

PASSPHRASE = b"correct horse battery"
SMALL_POLICY = "[decision]\npermutations = 1999\nbootstraps = 300\n"


@dataclass(frozen=True)
class Desk:
    """An auditor's folder."""

    folder: Path
    bundle: Path

    def call(self, *arguments: str) -> int:
        return run_main(audit, prog_name="audit", args=[*arguments, "--json"])

    def run(self, out: str, *more: str) -> int:
        names = {"--data": "records.npz", "--original": "original.onnx", "--policy": "policy.toml"}
        options = [part for name, file in names.items() for part in (name, str(self.folder / file))]
        return self.call("run", str(self.bundle), *options, "--out", str(self.folder / out), *more)


@pytest.fixture(scope="module")
def desk(good: Case, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    source, _, digest = sample_bundle(models={"int8-static": good.variant})
    np.savez(folder / "records.npz", x=good.data.x, y=good.data.y, member=good.data.member)
    (folder / "original.onnx").write_bytes(good.original)
    (folder / "policy.toml").write_text(SMALL_POLICY, encoding="utf-8")
    return Desk(folder, write_layout(folder / "bundle", source, digest))


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    def last() -> dict[str, Any]:
        value: dict[str, Any] = json.loads(capsys.readouterr().out)
        return value

    return last


def test_an_audit_is_run_reported_attested_and_verified(
    desk: Desk, good: Case, printed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEALIFT_PASSPHRASE", PASSPHRASE.decode())
    new_key_file(desk.folder / "audit.key", passphrase=PASSPHRASE)

    assert desk.run("audit", "--require", "PASSED") == 0
    result = printed()
    assert [subject["verdict"] for subject in result["subjects"]] == ["PASSED", "PASSED"]
    assert result["subjects"][1]["digest"] == str(Digest.of(good.variant))

    assert desk.call("report", str(desk.folder / "audit")) == 0
    assert Path(printed()["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")

    out = desk.folder / "statements"
    options = ["--key", f"file:{desk.folder / 'audit.key'}", "--bundle", str(desk.bundle), "--out", str(out)]
    assert desk.call("attest", str(desk.folder / "audit"), *options) == 0
    (entry,) = printed()["attestations"]

    keys = ["--public-key", str(desk.folder / "audit.key.pub")]
    assert desk.call("verify", entry["file"], *keys, "--subject", str(Digest.of(good.variant)), "--require", "PASSED") == 0
    assert printed()["verdict"] == "PASSED"
    assert desk.call("verify", entry["file"], *keys, "--subject", str(Digest.of(good.original))) == 1
    assert printed()["code"] == "attestation_subject"
    assert desk.call("verify", entry["file"], *keys, "--require", "FAILED") == 1
    assert printed()["code"] == "verdict_not_accepted"

    policy, bundle = ["--policy", str(desk.folder / "policy.toml")], ["--bundle", str(desk.bundle)]
    assert desk.call("verify", entry["file"], *keys, *bundle, *policy, "--tier", "quick", "--require", "PASSED") == 0
    found = printed()
    assert [test["id"] for test in found["tests"]] == ["inversion.instance"]
    assert (found["gradient"], found["controls"][0]["held"]) == ("straight_through", True)
    assert desk.call("verify", entry["file"], *keys, *bundle, "--tier", "quick") == 1
    assert printed()["code"] == "attestation_policy"  # the built-in policy has other numbers
    assert desk.call("verify", entry["file"], *keys, "--tier", "deep") == 1
    assert printed()["code"] == "attestation_policy"

    again = ["--reissue", entry["file"], "--bundle", str(desk.bundle), "--out", str(desk.folder / "again")]
    key = ["--key", f"file:{desk.folder / 'audit.key'}"]
    assert desk.call("attest", *again, *key, *keys) == 0
    (carried,) = printed()["attestations"]
    assert desk.call("verify", carried["file"], *keys, *bundle, *policy) == 0
    found = printed()
    assert found["reissue_of"] == str(Digest.of(Path(entry["file"]).read_bytes()))
    assert found["evidence"] == entry["evidence"]


def test_two_auditors_waive_a_bundle_one_after_the_other(desk: Desk, printed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALIFT_PASSPHRASE", PASSPHRASE.decode())
    for name in ("first", "second"):
        new_key_file(desk.folder / f"{name}.key", passphrase=PASSPHRASE)
    out = desk.folder / "waivers"

    def waive(name: str, *more: str, reason: str = "public data") -> int:
        key = ["--key", f"file:{desk.folder / name}.key"]
        return desk.call("waive", str(desk.bundle), "--reason", reason, "--expires-days", "7", *key, "--out", str(out), *more)

    assert waive("first") == 0
    (entry,) = printed()["attestations"]
    assert entry["verdict"] == "WAIVED"
    keys = [part for name in ("first", "second") for part in ("--public-key", str(desk.folder / f"{name}.key.pub"))]
    assert desk.call("verify", entry["file"], *keys, "--threshold", "2") == 1
    assert printed()["code"] == "signature_threshold"
    assert waive("second", reason="no time") == 1
    assert printed()["code"] == "waiver_differs"
    assert waive("second", "--tier", "deep") == 1
    assert printed()["code"] == "waiver_differs"
    for _ in range(2):  # signing again adds nothing
        assert waive("second") == 0
        assert printed()["attestations"][0]["file"] == entry["file"]
    assert desk.call("verify", entry["file"], *keys, "--threshold", "2", "--bundle", str(desk.bundle), "--require", "WAIVED") == 0
    found = printed()
    assert (found["verdict"], found["reason"], len(found["keyids"])) == ("WAIVED", "public data", 2)
    assert found["not_tested"] == {"inversion.instance": "waived"}


@pytest.mark.parametrize(("reason", "days"), [("", "7"), ("  ", "7"), ("a\nb", "7"), ("r" * 513, "7"), ("why", "0"), ("why", "91")])
def test_a_waiver_without_a_reason_or_without_an_end_is_refused(
    reason: str, days: str, desk: Desk, printed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEALIFT_PASSPHRASE", PASSPHRASE.decode())
    key = desk.folder / "waiver.key"
    if not key.exists():
        new_key_file(key, passphrase=PASSPHRASE)
    options = ["--reason", reason, "--expires-days", days, "--key", f"file:{key}", "--out", str(desk.folder / "never")]
    assert desk.call("waive", str(desk.bundle), *options) == 2
    assert printed()["code"] == "waiver_reason"
    assert not (desk.folder / "never").exists()


def test_options_that_do_not_go_together_are_refused(desk: Desk, printed: Any) -> None:
    rest = ["--key", "file:x", "--bundle", str(desk.bundle), "--out", str(desk.folder / "never")]
    for arguments in ([], ["folder", "--reissue", "a"], ["--reissue", "a"], ["folder", "--public-key", "a"]):
        assert desk.call("attest", *arguments, *rest) == 2
        assert printed()["code"] == "usage"


def test_one_wrong_statement_among_several_is_named(desk: Desk, printed: Any) -> None:
    (desk.folder / "junk.json").write_text("{}")
    new_key_file(desk.folder / "some.key", passphrase=PASSPHRASE)
    assert desk.call("verify", str(desk.folder / "junk.json"), "--public-key", str(desk.folder / "some.key.pub")) == 1
    assert "junk.json" in printed()["where"]


@pytest.mark.parametrize("tier", TIERS)
def test_a_signer_without_the_audits_reads_the_policy_that_auditors_wrote(tier: str, desk: Desk, printed: Any) -> None:
    path = desk.folder / f"{tier}.json"
    assert desk.call("policy", "--tier", tier, "--out", str(path)) == 0
    told, policy = printed(), load_policy(tier=tier)
    assert told["digest"] == str(policy.digest)
    assert read_expected_policy(path.read_bytes(), where=tier) == expected_policy(policy)
    assert load_policy(path) == policy, "what a signer reads, an auditor reads, too"
    assert desk.call("policy", "--tier", tier, "--out", str(path)) == 2
    assert printed()["code"] == "file_exists"


def test_an_existing_output_folder_is_refused_before_any_work(desk: Desk, printed: Any) -> None:
    (desk.folder / "taken").mkdir()
    assert desk.run("taken") == 2
    assert printed()["code"] == "file_exists"


def test_a_required_verdict_that_is_not_reached_exits_one_and_keeps_the_evidence(desk: Desk, printed: Any) -> None:
    few = desk.folder / "few.npz"
    with np.load(desk.folder / "records.npz") as found:
        np.savez(few, x=found["x"][:60], y=found["y"][:60], member=found["member"][:60])
    out = desk.folder / "few"
    options = ["--data", str(few), "--original", str(desk.folder / "original.onnx"), "--out", str(out)]
    status = run_main(audit, prog_name="audit", args=["run", str(desk.bundle), *options, "--require", "PASSED"])
    assert status == 1
    assert json.loads((out / "audit.json").read_bytes())["subjects"][1]["verdict"] == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("option", "file", "code"),
    [
        ("--original", "absent.onnx", "original_missing"),
        ("--data", "absent.npz", "audit_data"),
        ("--policy", "absent.toml", "policy_missing"),
        ("--recipe", "absent.toml", "recipe_missing"),
    ],
)
def test_a_missing_file_is_named_and_nothing_is_made(option: str, file: str, code: str, desk: Desk, printed: Any) -> None:
    assert desk.run("never", option, str(desk.folder / file)) == 2
    assert printed()["code"] == code
    assert not (desk.folder / "never").exists()


def test_a_damaged_bundle_is_refused(desk: Desk, printed: Any, good: Case, tmp_path: Path) -> None:
    source, _, digest = sample_bundle(models={"int8-static": good.variant})
    layout = write_layout(tmp_path / "bundle", source, digest)
    blob = layout / "blobs" / "sha256" / Digest.of(good.variant).hex
    data = bytearray(blob.read_bytes())
    data[100] ^= 1
    blob.write_bytes(bytes(data))
    assert Desk(desk.folder, layout).run("never") == 1
    assert printed()["code"] == "blob_digest_mismatch"
