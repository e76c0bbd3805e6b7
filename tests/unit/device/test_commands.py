"""The commands: one JSON object each, refusals with a code and status 1, and a model that runs from hashed bytes only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_client.bundle import Digest
from device_client.commands import device
from device_client.console import run_main
from device_client.install import enroll as enroll_module
from device_client.install import poll as poll_module
from device_client.install.http import Answer
from tests.unit.device.world import THE_MODEL, FakeServer, World, bundle


def run(*args: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    status = run_main(device, prog_name="sealift device", args=[*args, "--json"])
    out = capsys.readouterr().out.strip()
    assert "\n" not in out
    found: dict[str, Any] = json.loads(out)
    return status, found


@pytest.fixture
def inputs(tmp_path: Path) -> str:
    np.savez(tmp_path / "in.npz", x=np.array([[1, 2, 3]], np.float32))
    return str(tmp_path / "in.npz")


@pytest.fixture
def folder(world: World) -> str:
    return str(world.device.folder.path)


def test_init_prints_the_device_id_and_refuses_a_second_time(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "root.json").write_bytes(world.sim.bootstrap)
    args = ["init", "--dir", str(tmp_path / "new"), "--root", str(tmp_path / "root.json"), "--server", "http://localhost:1"]
    args += ["--model", "digits/ocr", "--root-sha256", Digest.of(world.sim.bootstrap).hex]
    status, result = run(*args, capsys=capsys)
    assert (status, result["models"], len(result["device_id"])) == (0, ["digits/ocr"], 64)
    status, result = run(*args, capsys=capsys)
    assert (status, result["ok"], result["code"]) == (1, False, "state_exists")


def test_init_with_a_wrong_digest_or_a_bad_name_is_a_usage_error(tmp_path: Path, world: World) -> None:
    (tmp_path / "root.json").write_bytes(world.sim.bootstrap)
    args = ["init", "--dir", str(tmp_path / "new"), "--root", str(tmp_path / "root.json"), "--server", "http://localhost:1"]
    for more in (["--model", "digits/ocr", "--root-sha256", "0" * 64], ["--model", "digits", "--root-sha256", "0" * 64],
                 ["--model", "digits/ocr", "--root-sha256", "xyz"]):  # fmt: skip
        assert run_main(device, prog_name="device", args=args + more) == 2
    assert not (tmp_path / "new").exists()


def test_enroll_keeps_the_token_of_this_device_only(
    world: World, folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: list[dict[str, Any]] = []

    class Enrolling(FakeServer):
        def request(self, method: str, path: str, **kwargs: Any) -> Answer:
            assert (method, path) == ("POST", "/v1/enroll")
            return Answer(201, {}, json.dumps(answers.pop(0)).encode())

    monkeypatch.setattr(enroll_module, "HttpClient", lambda _: Enrolling())
    answers.append({"schema": 1, "device_id": world.device.identity.device_id, "token": "t2", "state": "pending"})
    status, result = run("enroll", "--dir", folder, capsys=capsys)
    assert (status, result["state"]) == (0, "pending")
    with world.state() as state:
        assert state.enrolment() == ("t2", "pending")
    answers.append({"schema": 1, "device_id": "0" * 64, "token": "t3", "state": "accepted"})
    status, result = run("enroll", "--dir", folder, capsys=capsys)
    assert (status, result["code"]) == (1, "enroll_answer")
    with world.state() as state:
        assert state.enrolment() == ("t2", "pending")


@pytest.fixture
def wired(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The command's poll, over the world's network and clock."""
    real = poll_module.poll
    monkeypatch.setattr(
        poll_module, "poll", lambda opened, model: real(opened, model, clock=world.clock, http=world.server, fetcher=world.sim)
    )
    return world


def test_poll_installs_then_is_current_then_refuses_with_a_code(
    wired: World, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = bundle("1.0.0", counter=5)
    wired.publish(made)
    status, result = run("poll", "--dir", folder, capsys=capsys)
    assert (status, result["result"], result["version"], result["manifest"]) == (0, "installed", "1.0.0", str(made.digest))
    assert run("poll", "--dir", folder, capsys=capsys)[1]["result"] == "current"
    wired.publish(bundle("0.9.0", counter=4), seq=2)
    status, result = run("poll", "--dir", folder, "--model", str(THE_MODEL), capsys=capsys)
    assert (status, result["ok"], result["code"]) == (1, False, "counter_rollback")
    status, result = run("poll", "--dir", folder, "--model", "digits/other", capsys=capsys)
    assert (status, result["code"]) == (2, "model_unknown")


def test_status_shows_what_runs_what_waits_and_what_protects_the_blobs(
    world: World, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world.install("1.0.0", counter=1)
    status, result = run("status", "--dir", folder, capsys=capsys)
    assert status == 0
    assert result["models"][str(THE_MODEL)]["active"]["version"] == "1.0.0"
    assert result["protection"]["blobs"].startswith("encrypted under")
    assert "not encrypted" in result["protection"]["identity"]
    assert result["reports_waiting"] == 0
    assert run_main(device, prog_name="device", args=["status", "--dir", folder]) == 0
    assert "no protection against a stolen card" in capsys.readouterr().out


def test_infer_prints_outputs_or_writes_them(
    world: World, folder: str, inputs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.install("1.0.0", counter=1, scale=2.0)
    monkeypatch.chdir(tmp_path)
    status, result = run("infer", "--dir", folder, "--input", inputs, capsys=capsys)
    assert (status, result["outputs"]) == (0, {"y": [[2.0, 4.0, 6.0]]})
    monkeypatch.chdir(tmp_path)
    status, result = run("infer", "--dir", folder, "--input", inputs, "--output", "out.npz", capsys=capsys)
    assert status == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["y"], [[2.0, 4.0, 6.0]])


def test_infer_refuses_a_swapped_model_file_and_unfit_inputs(
    world: World, folder: str, inputs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = world.install("1.0.0", counter=1)
    for name, array in {"shape": np.zeros((1, 4), np.float32), "range": np.full((1, 3), 1e6, np.float32)}.items():
        np.savez(tmp_path / name, x=array)
        status, result = run("infer", "--dir", folder, "--input", str(tmp_path / f"{name}.npz"), capsys=capsys)
        assert (status, result["code"]) == (2, "input_mismatch"), name
    (tmp_path / "pickle.npz").write_bytes(b"\x80\x04junk")
    status, result = run("infer", "--dir", folder, "--input", str(tmp_path / "pickle.npz"), capsys=capsys)
    assert (status, result["code"]) == (2, "input_file")
    blob = world.device.folder.blobs / "sha256" / made.model().hex
    blob.chmod(0o600)
    blob.write_bytes((data := blob.read_bytes())[:-1] + bytes([data[-1] ^ 1]))
    status, result = run("infer", "--dir", folder, "--input", inputs, capsys=capsys)
    assert (status, result["code"]) == (1, "blob_damaged")


def test_infer_without_a_model_says_so(folder: str, inputs: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, result = run("infer", "--dir", folder, "--input", inputs, capsys=capsys)
    assert (status, result["code"]) == (1, "not_installed")


BLOCKED = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {"numpy", "onnxruntime", "safetensors", "onnx", "torch"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
import device_client.commands, device_client.install.poll, device_client.inference.session, device_client.inference.golden
import device_client.inference.model, device_client.policy.selection, device_client.install.selftest_child
from device_client.inference.walker import check_model
from device_client.inference.session import open_session
from device_client.errors import MissingExtraError
from pathlib import Path
model = check_model(Path(sys.argv[1]).read_bytes())
try:
    open_session(model)
except MissingExtraError as error:
    print(error.hint)
"""


def test_everything_imports_and_walks_without_numpy_or_the_runtime(tmp_path: Path) -> None:
    from tests.unit.inference import models

    (tmp_path / "m.onnx").write_bytes(models.linear().SerializeToString())
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCKED, str(tmp_path / "m.onnx")],
        capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "pip install 'sealift[device]'", done.stderr
