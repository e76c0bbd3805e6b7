"""A stored audit is whole, private by default, and does not load after any change."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audits.report.images import COARSE, read_images
from audits.run import RunResult
from audits.store import DIGEST_FILE, REPORT_FILE, read_stored, write_audit, write_report
from device_client.bundle.digest import Digest
from device_client.bundle.strict_json import canonical_json
from device_client.errors import SealiftError, UsageError
from tests.unit.audits.conftest import Case


def test_a_stored_audit_reads_back_and_renders_again(good_run: RunResult, out: Path) -> None:
    written = write_audit(good_run, out, private=False)
    read = read_stored(out)
    assert read.evidence == written.evidence
    assert read.audit.to_bytes() == written.audit.to_bytes()
    page = (out / REPORT_FILE).read_text(encoding="utf-8")
    (out / REPORT_FILE).unlink()
    assert write_report(read, out).read_text(encoding="utf-8") == page


def test_nothing_sharper_than_a_coarse_grid_is_stored_by_default(good_run: RunResult, good: Case, out: Path) -> None:
    write_audit(good_run, out, private=False)
    images = read_images((out / "images.npz").read_bytes(), where="images")
    assert not images.private
    for values in (images.class_means, images.heldouts, *images.reconstructions.values()):
        assert values.shape == (10, 1, COARSE, COARSE)
    everything = b"".join(path.read_bytes() for path in out.iterdir())
    assert good.data.x[0].tobytes() not in everything


def test_full_images_are_kept_when_asked_for(good_run: RunResult, out: Path) -> None:
    write_audit(good_run, out, private=True)
    images = read_stored(out).images
    assert images.private
    np.testing.assert_array_equal(images.heldouts.reshape(10, 64), good_run.images.heldouts)


def test_worst_records_are_stored_and_shown_with_full_images_alone(good_run: RunResult, good: Case, tmp_path: Path) -> None:
    named = replace(good_run, images=replace(good_run.images, records={"ab" * 12: good.data.x[3]}))
    write_audit(named, tmp_path / "full", private=True)
    write_audit(named, tmp_path / "coarse", private=False)
    (record,) = read_stored(tmp_path / "full").images.records.values()
    np.testing.assert_array_equal(record.reshape(64), good.data.x[3])
    assert not read_stored(tmp_path / "coarse").images.records


def test_the_folder_is_for_its_owner_only(good_run: RunResult, out: Path) -> None:
    write_audit(good_run, out, private=True)
    assert stat.S_IMODE(out.stat().st_mode) == 0o700


def test_an_existing_folder_is_left_alone(good_run: RunResult, out: Path) -> None:
    out.mkdir()
    (out / "mine").write_text("kept", encoding="utf-8")
    with pytest.raises(UsageError, match="exists"):
        write_audit(good_run, out, private=False)
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_the_images_of_one_run_are_always_the_same_bytes(good_run: RunResult, tmp_path: Path) -> None:
    write_audit(good_run, tmp_path / "a", private=False)
    write_audit(good_run, tmp_path / "b", private=False)
    assert (tmp_path / "a/images.npz").read_bytes() == (tmp_path / "b/images.npz").read_bytes()


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(document: dict[str, Any]) -> None:
        target: Any = document
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = value

    return edit


FINDING = ("families", 0, "findings", "int8-static", 0)
EDITS: dict[str, Callable[[dict[str, Any]], None]] = {
    "a failed verdict made a pass": put("subjects", 1, "verdict", value="FAILED"),
    "an inconclusive verdict made from a pass": put("subjects", 1, "verdict", value="INCONCLUSIVE"),
    "other reasons": put("subjects", 1, "reasons", value=["all is well"]),
    "the result of a test": put("subjects", 1, "tests", 0, "result", value="WARNED"),
    "a test that ran made one that did not": put("subjects", 1, "not_tested", value=[{"test": "x", "reason": "y"}]),
    "a smaller p-value": put(*FINDING, "p_adjusted", value=0.001),
    "parity that did not hold": put(*FINDING, "blind", value=["the bridge does not reproduce the runtime"]),
    "an attack that did not converge": put(*FINDING, "undone", value=["no attack converged"]),
    "a test that did not run": put(*FINDING, "not_run", value="no time"),
    "a p-value that is none": put(*FINDING, "p_value", value=1.5),
    "a tolerated bound": put(*FINDING, "tolerated", value=0.0),
    "a null control that alarmed": put("families", 0, "controls", -1, "held", value=False),
    "a planted leak that was missed": put("families", 0, "controls", 1, "held", value=False),
    "no controls": put("families", 0, "controls", value=[]),
    "a greater power": put("families", 0, "power", value=0.01),
    "no family": put("families", value=[]),
    "random operators": put("subjects", 1, "random_operators", value=["Bernoulli"]),
    "another alpha in the policy": put("policy", "values", "decision", "alpha", value=0.02),
    "another policy digest": put("policy", "digest", value=str(Digest.of(b"other"))),
    "a digest that is none": put("subjects", 1, "digest", value="sha256:00"),
    "an unknown field": put("note", value="hello"),
    "an unknown field of a subject": put("subjects", 0, "note", value="hello"),
    "another schema": put("schema", value="sealift.audit/1"),
    "another suite": put("suite", value="magic/1"),
    "images of another run": put("images", "digest", value=str(Digest.of(b"other"))),
    "a time that is none": put("expires", value="tomorrow"),
    "no subjects": put("subjects", value={}),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_audit_does_not_load_even_with_its_digest_renewed(name: str, good_run: RunResult, out: Path) -> None:
    write_audit(good_run, out, private=False)
    document = json.loads((out / "audit.json").read_bytes())
    EDITS[name](document)
    data = canonical_json(document)
    (out / "audit.json").write_bytes(data)
    (out / DIGEST_FILE).write_text(f"{Digest.of(data).hex}  audit.json\n", encoding="ascii")
    with pytest.raises(SealiftError):
        read_stored(out)


@pytest.mark.parametrize("file", ["audit.json", "images.npz", DIGEST_FILE])
def test_one_changed_byte_is_refused(file: str, good_run: RunResult, out: Path) -> None:
    write_audit(good_run, out, private=False)
    data = bytearray((out / file).read_bytes())
    data[len(data) // 4] ^= 1
    (out / file).write_bytes(bytes(data))
    with pytest.raises(SealiftError) as refused:
        read_stored(out)
    assert refused.value.code == "audit_edited"


def test_a_missing_file_is_named(good_run: RunResult, out: Path) -> None:
    write_audit(good_run, out, private=False)
    (out / "images.npz").unlink()
    with pytest.raises(UsageError, match=r"images\.npz"):
        read_stored(out)
