"""One file may carry several models: a device takes those that it follows, each judged alone, and says what is not for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from device_client.bundle import Digest, ModelPath
from device_client.commands import device
from device_client.console import run_main
from device_client.errors import UsageError
from device_client.install.folder import Device, init_device
from device_client.install.import_offline import open_import
from tests.unit.device.offline_files import list_model, live_world, members_of, release, write_file
from tests.unit.device.test_import import never, passes
from tests.unit.device.world import THE_MODEL, World, bundle

ASR, NONE = ModelPath("digits", "asr"), ModelPath("digits", "none")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return live_world(tmp_path / "world", monkeypatch)


@pytest.fixture
def members(world: World) -> dict[str, bytes]:
    """A good file with two models."""
    first, second = bundle("1.0.0", counter=1), bundle("1.0.0", counter=1, scale=5.0, model="asr")
    release(world, first)
    more = list_model(world, ASR, second)
    return {**members_of(world, first), **more}


@pytest.fixture
def file(tmp_path: Path, members: dict[str, bytes]) -> Path:
    return write_file(tmp_path / "F.tar", members)


def follower(world: World, folder: Path, *models: ModelPath) -> Device:
    root = world.sim.bootstrap
    return init_device(folder, root=root, root_sha256=Digest.of(root), server=world.server.base_url, models=models)


def by_command(made: Device, file: Path, *more: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object], str]:
    arguments = ["import", str(file), "--dir", str(made.folder.path), *more, "--json"]
    status = run_main(device, prog_name="sealift device", args=arguments)
    captured = capsys.readouterr()
    return status, json.loads(captured.out), captured.err


def test_each_model_that_is_in_the_file_is_imported_and_the_others_are_named(world: World, file: Path, tmp_path: Path) -> None:
    made = follower(world, tmp_path / "both", THE_MODEL, NONE, ASR)
    with open_import(made, file) as found:
        assert (found.models, found.missing) == ((THE_MODEL, ASR), (NONE,))
        results = [found.run(model, clock=world.clock, uptime=world.uptime, selftest=passes) for model in found.models]
        again = [found.run(model, clock=world.clock, uptime=world.uptime, selftest=never) for model in found.models]
    assert [(each.model, each.result) for each in results] == [(THE_MODEL, "installed"), (ASR, "installed")]
    assert [each.result for each in again] == ["current", "current"]


def test_one_model_s_refusal_does_not_keep_the_other_from_its_update(
    world: World, members: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = bundle("1.0.0", counter=1)
    del members[f"blobs/sha256/{Digest.of(broken.contract.to_bytes()).hex}"]
    made = follower(world, tmp_path / "both", THE_MODEL, ASR)
    status, told, _ = by_command(made, write_file(tmp_path / "F.tar", members), capsys=capsys)
    results = told["results"]
    assert isinstance(results, list)
    assert (status, told["ok"]) == (1, False)
    assert [(each["model"], each["ok"], each.get("code"), each.get("result")) for each in results] == [
        ("digits/ocr", False, "blob_missing", None),
        ("digits/asr", True, None, "installed"),
    ]


def test_one_model_may_be_chosen(world: World, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = follower(world, tmp_path / "both", THE_MODEL, NONE, ASR)
    status, told, _ = by_command(made, file, "--model", "digits/asr", capsys=capsys)
    assert (status, told["model"], told["result"]) == (0, "digits/asr", "installed")
    for name, code in (("digits/none", "import_models"), ("digits", "name_syntax"), ("x/y", "import_models")):
        status, told, _ = by_command(made, file, "--model", name, capsys=capsys)
        assert (status, told["code"]) == (2, code)


def test_what_is_not_in_the_file_is_said(world: World, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = follower(world, tmp_path / "both", NONE, ASR)
    status, told, said = by_command(made, file, capsys=capsys)
    assert (status, told["result"]) == (0, "installed")
    assert "digits/none: not in the file" in said


def test_a_model_that_the_roles_list_and_the_file_does_not_hold_is_not_in_the_file(
    world: World, members: dict[str, bytes], tmp_path: Path
) -> None:
    """The channels of both are the same bytes: what tells is the manifest."""
    del members[f"blobs/sha256/{bundle('1.0.0', counter=1, scale=5.0, model='asr').digest.hex}"]
    made = follower(world, tmp_path / "both", THE_MODEL, ASR)
    with open_import(made, write_file(tmp_path / "F.tar", members)) as found:
        assert (found.models, found.missing) == ((THE_MODEL,), (ASR,))
    channel = world.sim.delegated["release-digits"].targets[ASR.channel_target].hashes["sha256"]
    del members[f"blobs/sha256/{channel}"]
    with pytest.raises(UsageError) as refused, open_import(made, write_file(tmp_path / "F.tar", members)):
        pass
    assert (refused.value.code, refused.value.actual) == ("import_models", "no model")


def test_a_file_for_other_models_says_what_it_holds_and_what_was_wanted(world: World, file: Path) -> None:
    made = replace(world.device, config=replace(world.device.config, models=(NONE,)))
    with pytest.raises(UsageError) as refused, open_import(made, file):
        pass
    assert (refused.value.code, refused.value.actual, refused.value.expected) == (
        "import_models",
        "digits/asr, digits/ocr",
        "digits/none",
    )
