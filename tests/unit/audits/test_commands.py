"""The commands, on a real bundle folder: run, report, attest, verify, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audits.commands import audit
from device_client.bundle.digest import Digest
from device_client.console import run_main
from device_client.trust.keys import new_key_file
from tests.unit.audits.conftest import Case
from tests.unit.bundle.samples import sample_bundle, write_layout

PASSPHRASE = b"correct horse battery"
SMALL_POLICY = "[decision]\npermutations = 999\nbootstraps = 300\n"


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
