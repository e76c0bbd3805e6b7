"""``sealift inspect``: says what it knows, says that nobody signed it, and lets no text drive the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from device_client.bundle import Digest
from device_client.commands_inspect import inspect
from device_client.console import run_main
from device_client.errors import FormatError
from device_client.inspect import NOT_SIGNED, inspect_layout
from device_client.text import printable

from . import samples
from .samples import MODELS, sample_bundle, write_layout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source, _, digest = sample_bundle()
    return write_layout(tmp_path / "bundle", source, digest)


def test_text_says_what_is_inside_and_that_nobody_signed_it(folder: Path) -> None:
    result = CliRunner().invoke(inspect, [str(folder)])
    assert result.exit_code == 0
    for expected in ("clinic/digits/1.0.0", "0.7", str(sample_bundle()[2]), "int8-static", "fp32", "| # Digits", NOT_SIGNED):
        assert expected in result.output
    assert str(Digest.of(MODELS["fp32"])) in result.output


def test_json_says_the_same(folder: Path) -> None:
    result = json.loads(CliRunner().invoke(inspect, [str(folder), "--json"]).output)
    assert result["ok"] is True
    assert result["path"] == "clinic/digits/1.0.0"
    assert result["counter"] == [0, 7]
    assert result["manifest"]["digest"] == str(sample_bundle()[2])
    assert result["signed_by"] == []
    assert result["note"] == NOT_SIGNED
    assert [variant["id"] for variant in result["variants"]] == list(MODELS)
    assert [layer["holds"] for layer in result["layers"]] == ["contract", "model", "model", "golden probes", "model card"]
    assert result["model_card"] == "# Digits\nA card.\n"


def test_a_damaged_bundle_is_refused_with_its_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "blobs" / "sha256" / Digest.of(MODELS["fp32"]).hex).write_bytes(b"x" * len(MODELS["fp32"]))
    assert run_main(inspect, prog_name="sealift", args=[str(folder), "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["code"] == "blob_digest_mismatch"
    assert "hint:" in printed.err


def test_no_such_folder_is_a_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(inspect, prog_name="sealift", args=[str(tmp_path / "nowhere")]) == 2
    assert "hint:" in capsys.readouterr().err


HOSTILE = "line one\r\n\x1b]0;title\x07\x9b2J\u202eevil\u200b\nline three\n"


def test_a_model_card_cannot_drive_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "CARD", HOSTILE.encode())
    source, _, digest = sample_bundle()
    folder = write_layout(tmp_path / "bundle", source, digest)
    for arguments in ([str(folder)], [str(folder), "--card"], [str(folder), "--json"]):
        output = CliRunner().invoke(inspect, arguments).output
        assert output.replace("\n", "").isprintable()
        assert "\\x1b]0;title" in output.replace("\\\\", "\\")


def test_a_long_card_is_cut_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "CARD", b"\n".join(b"line %d" % number for number in range(40)))
    source, _, digest = sample_bundle()
    found = inspect_layout(write_layout(tmp_path / "bundle", source, digest))
    assert "line 39" not in found.to_text()
    assert "28 more lines" in found.to_text()
    assert "line 39" in found.to_text(whole_card=True)


def test_a_card_that_is_no_text_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "CARD", b"\xff\xfe")
    source, _, digest = sample_bundle()
    assert inspect_layout(write_layout(tmp_path / "bundle", source, digest)).card is None


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FormatError) as refusal:
        inspect_layout(tmp_path)
    assert refusal.value.code == "layout_foreign_file"


def test_printable_escapes_everything_that_is_not_plainly_visible() -> None:
    assert printable("a\tb\n\x00é\u202e") == "a\\tb\\n\\x00é\\u202e"
    assert printable("a\nb", keep_lines=True) == "a\nb"
