"""The whole chain through the command line, in processes of its own, as a newcomer would run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")]
DEMO = [sys.executable, "-m", "sealift", "demo"]


def _processes_in(folder: Path) -> list[str]:
    """Command lines of the processes whose working folder is ``folder`` or below."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").resolve().is_relative_to(folder):
                    found.append((entry / "cmdline").read_bytes().decode().replace("\0", " "))
            except OSError:
                continue  # ended meanwhile
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("demo") / "kept"
    done = subprocess.run([*DEMO, "--dir", str(folder), "--json"], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout), done.stderr


def test_every_attack_is_refused_with_a_code_of_its_own_and_every_control_installs(
    finished: tuple[Path, dict[str, Any], str],
) -> None:
    _, report, _ = finished
    codes = {attack["name"]: attack["code"] for attack in report["attacks"]}
    assert codes == {
        "a byte flipped in the model blob": "blob_digest_mismatch",
        "an old timestamp replayed": "metadata_rollback",
        "signed by the release role alone": "audit_entry_missing",
        "the audit covers another variant": "variant_not_audited",
        "signed by keys outside the role": "signature_threshold",
        "a lower release counter": "counter_rollback",
        "both paths listed by top-level targets": "targets_lists_targets",
    }
    assert report["attacks_refused"] == report["controls_installed"] == 7
    assert all(attack["still_inferring"] for attack in report["attacks"])


def test_compression_is_measured_on_held_out_digits(finished: tuple[Path, dict[str, Any], str]) -> None:
    _, report, _ = finished
    assert report["accuracy"]["before"]["value"] > 0.9  # the network learned: guessing gives 0.1
    assert report["accuracy"]["drop"]["value"] <= 0.01
    assert report["accuracy"]["drop"]["interval"][0] <= report["accuracy"]["drop"]["value"]
    assert report["size"]["ratio"] > 3
    assert set(report["audit"]["verdicts"].values()) == {"PASSED"}


def test_the_device_agrees_with_the_packager_on_accuracy(finished: tuple[Path, dict[str, Any], str]) -> None:
    _, report, _ = finished
    assert abs(report["device"]["accuracy"] - report["accuracy"]["after"]["value"]) < 1e-5  # the report rounds to 6 digits


def test_what_is_kept_works_by_hand(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, _, _ = finished
    assert _processes_in(folder) == []
    status = subprocess.run(
        [sys.executable, "-m", "sealift", "device", "status", "--dir", "device", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(status.stdout)["models"]["digits/mlp"]["active"]["version"] == "1.7.0"


def test_ctrl_c_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    child = subprocess.Popen(
        DEMO,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # test processes ignore it, and so would it
    )
    end = time.monotonic() + 60
    while not _processes_in(tmp_path):
        assert time.monotonic() < end
        assert child.poll() is None
        time.sleep(0.05)
    time.sleep(3)  # somewhere in the middle of the first steps
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=300)  # a busy machine finishes a training first
    assert child.returncode == 130
    assert "interrupted" in err
    assert _processes_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    done = subprocess.run([*DEMO, "--dir", str(tmp_path), "--json"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout)["code"] == "folder_not_empty"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
