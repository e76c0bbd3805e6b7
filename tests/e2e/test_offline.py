"""A release travels to a device on a disk, through the command line: export from a folder or a server, import, infer."""

from __future__ import annotations

import functools
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_client.bundle.digest import Digest
from device_client.console import run_main
from device_client.install.folder import DeviceFolder
from device_client.install.state import open_state
from sealift import cli
from tests.unit.device.offline_files import live_world, release
from tests.unit.device.world import THE_MODEL, Bundle, World, bundle
from tests.unit.packager.published import publish_to, write_layout

pytestmark = pytest.mark.e2e

UNREAD = ("metadata/1.root.json", "oci-layout", "index.json")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return live_world(tmp_path / "device", monkeypatch)


@pytest.fixture
def made() -> Bundle:
    return bundle("1.0.0", counter=1, scale=3.0)


@pytest.fixture
def repo(tmp_path: Path, world: World, made: Bundle) -> Path:
    release(world, made)
    return publish_to(tmp_path / "repo", world, made)


def sealift(*args: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    """Status, the JSON object on stdout, and stderr."""
    status = run_main(cli, prog_name="sealift", args=[*map(str, args), "--json"])
    captured = capsys.readouterr()
    return status, json.loads(captured.out), captured.err


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing: stderr is looked at."""


@contextmanager
def static_host(folder: Path) -> Iterator[str]:
    """Any web server that has a copy of what the update server serves."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_release_travels_on_a_disk_and_runs(
    tmp_path: Path, world: World, made: Bundle, repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out, device = write_layout(tmp_path / "bundle", made), tmp_path / "F.tar", world.device.folder.path
    root = Digest.of(world.sim.bootstrap).hex
    status, told, steps = sealift("export", folder, "--repo", repo, "--out", out, "--root-sha256", root, capsys=capsys)
    assert (status, told["sha256"], told["root"]) == (0, Digest.of(out.read_bytes()).hex, root)
    assert told["releases"] == [
        {"path": "digits/ocr/1.0.0", "counter": "0.1", "manifest": str(made.digest), "variants": ["int8"], "status": "active"}
    ]
    assert told["import_before"] == told["expires"]["timestamp"]
    assert "done" in steps
    status, told, _ = sealift("device", "import", out, "--dir", device, capsys=capsys)
    assert (status, told["result"], told["version"], told["reports_waiting"]) == (0, "installed", "1.0.0", 1)
    np.savez(tmp_path / "in.npz", x=np.ones((1, 3), np.float32))
    status, told, _ = sealift("device", "infer", "--dir", device, "--input", tmp_path / "in.npz", capsys=capsys)
    assert (status, told["outputs"]) == (0, {"y": [[3.0, 3.0, 3.0]]})
    status, told, _ = sealift("device", "import", out, "--dir", device, capsys=capsys)
    assert (status, told["result"], told["bytes_downloaded"]) == (0, "current", 0)


def test_a_server_gives_the_same_file_as_a_copy_of_its_folder(
    tmp_path: Path, repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, from_folder, _ = sealift("export", "digits/ocr", "--repo", repo, "--out", tmp_path / "F.tar", capsys=capsys)
    with static_host(repo) as url:
        status, from_server, _ = sealift("export", "digits/ocr", "--repo", url, "--out", tmp_path / "G.tar", capsys=capsys)
    assert (status, from_server["sha256"]) == (0, from_folder["sha256"])
    assert (tmp_path / "F.tar").read_bytes() == (tmp_path / "G.tar").read_bytes()


def test_an_older_file_after_an_update_is_refused_and_the_newer_model_stays(
    tmp_path: Path, world: World, made: Bundle, repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = world.device.folder.path
    sealift("export", "digits/ocr", "--repo", repo, "--out", tmp_path / "old.tar", capsys=capsys)
    second = bundle("1.1.0", counter=2, scale=5.0)
    release(world, second, seq=2)
    publish_to(repo, world, made, second)
    sealift("export", "digits/ocr", "--repo", repo, "--out", tmp_path / "new.tar", capsys=capsys)
    assert sealift("device", "import", tmp_path / "new.tar", "--dir", device, capsys=capsys)[0] == 0
    status, told, said = sealift("device", "import", tmp_path / "old.tar", "--dir", device, capsys=capsys)
    assert (status, told["code"]) == (1, "metadata_rollback")
    assert "hint:" in said
    assert world.running() == 5.0


def test_another_root_than_the_one_that_people_know_is_not_exported(
    tmp_path: Path, repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("export", "digits/ocr", "--repo", repo, "--out", tmp_path / "F.tar", "--root-sha256", "0" * 64)
    status, told, _ = sealift(*arguments, capsys=capsys)
    assert (status, told["code"], (tmp_path / "F.tar").exists()) == (2, "root_digest", False)


def test_a_copy_of_the_file_with_one_damaged_byte_installs_nothing(
    tmp_path: Path, world: World, repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, device = tmp_path / "F.tar", world.device.folder.path
    sealift("export", "digits/ocr", "--repo", repo, "--out", out, capsys=capsys)
    whole = out.read_bytes()
    with tarfile.open(out) as tar:  # a device has its own first root, and needs neither layout nor index
        places = [(tar.getmember(name).offset_data, tar.getmember(name).size) for name in UNREAD]
    unread = {start + at for start, size in places for at in range(size)}
    # The lowest bit: another case of a hexadecimal digit in a signature would be the same signature.
    for at in sorted(set(range(0, len(whole), 701)) - unread):
        out.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        tried = shutil.copytree(device, tmp_path / f"tried-{at}")
        status, told, _ = sealift("device", "import", out, "--dir", tried, capsys=capsys)
        assert (status, told["ok"]) == (1, False), at
        with open_state(DeviceFolder(tried).state) as state:
            assert state.active(THE_MODEL) is None
    out.write_bytes(whole)
    assert sealift("device", "import", out, "--dir", device, capsys=capsys)[0] == 0


def test_a_file_for_another_device_says_which_models_it_holds(
    tmp_path: Path, world: World, repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sealift("export", "digits/ocr", "--repo", repo, "--out", tmp_path / "F.tar", capsys=capsys)
    (tmp_path / "root.json").write_bytes(world.sim.bootstrap)
    other = tmp_path / "other"
    made = ("device", "init", "--dir", other, "--root", tmp_path / "root.json", "--root-sha256", Digest.of(world.sim.bootstrap).hex)
    assert sealift(*made, "--server", "http://127.0.0.1:9", "--model", "digits/other", capsys=capsys)[0] == 0
    status, told, said = sealift("device", "import", tmp_path / "F.tar", "--dir", other, capsys=capsys)
    assert (status, told["code"], told["expected"], told["actual"]) == (2, "import_models", "digits/other", "digits/ocr")
    assert "digits/ocr" in said


def test_a_device_is_born_with_its_factory_bundle_or_not_at_all(
    tmp_path: Path, world: World, repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, root = tmp_path / "factory.tar", tmp_path / "root.json"
    sealift("export", "digits/ocr", "--repo", repo, "--out", out, capsys=capsys)
    root.write_bytes(world.sim.bootstrap)
    arguments = ("--root", root, "--root-sha256", Digest.of(world.sim.bootstrap).hex, "--server", "http://127.0.0.1:9")
    made = ("device", "init", "--model", "digits/ocr", *arguments, "--factory", out, "--dir")
    status, told, _ = sealift(*made, tmp_path / "born", capsys=capsys)
    assert (status, told["factory"]) == (0, {"digits/ocr": "1.0.0"})
    np.savez(tmp_path / "in.npz", x=np.ones((1, 3), np.float32))
    status, told, _ = sealift("device", "infer", "--dir", tmp_path / "born", "--input", tmp_path / "in.npz", capsys=capsys)
    assert (status, told["outputs"]) == (0, {"y": [[3.0, 3.0, 3.0]]})
    out.write_bytes(out.read_bytes()[:-1])
    before = sorted(tmp_path.iterdir())
    status, told, _ = sealift(*made, tmp_path / "stillborn", capsys=capsys)
    assert (status, told["code"], sorted(tmp_path.iterdir())) == (1, "offline_truncated", before)
