"""The child ends by its own limits whatever the model does, and the parent knows why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_client.bundle import Tolerance
from device_client.errors import SelfTestError, StateError
from device_client.inference.golden import GoldenProbes, encode_golden
from device_client.install import selftest
from device_client.install.selftest import SelfTestLimits, SelfTestReport, run_selftest
from device_client.limits import MIB
from tests.unit.inference import models

X = np.arange(12, dtype=np.float32).reshape(4, 3)
GOLDEN = encode_golden(GoldenProbes({"x": X}, {"int8": {"y": X * 2}}))
GOOD = models.linear().SerializeToString()
SMALL = SelfTestLimits(memory_bytes=256 * MIB, cpu_s=20, wall_s=30.0)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    tmp_path.chmod(0o555)
    return tmp_path


def run(
    model: bytes, cwd: Path, *, limits: SelfTestLimits = SMALL, features: tuple[str, ...] = (), probes: int = 4
) -> SelfTestReport:
    return run_selftest(
        model,
        GOLDEN,
        variant="int8",
        probes=probes,
        tolerance=Tolerance("exact", 0.0),
        features=features,
        providers=("CPUExecutionProvider",),
        cwd=cwd,
        limits=limits,
    )


def failure(model: bytes, cwd: Path, **kwargs: Any) -> str:
    with pytest.raises(SelfTestError) as caught:
        run(model, cwd, **kwargs)
    return caught.value.code


def filled(shape: list[int], *nodes: onnx.NodeProto) -> bytes:
    """A model that makes a tensor of ones of ``shape`` and goes on with ``nodes``, from 'c' to a scalar 'r'."""
    make = helper.make_node("ConstantOfShape", ["s"], ["c"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]))
    size = numpy_helper.from_array(np.array(shape, np.int64), "s")
    return models.model([make, *nodes, helper.make_node("Mul", ["x", "r"], ["y"])], initializers=[size]).SerializeToString()


def endless() -> bytes:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, ["N", 3]),
        ],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, []), helper.make_tensor_value_info("w", TensorProto.FLOAT, ["N", 3])],
    )
    trips = numpy_helper.from_array(np.array(2**62, np.int64), "m")
    return models.model([helper.make_node("Loop", ["m", "", "x"], ["y"], body=body)], initializers=[trips]).SerializeToString()


TOTAL = helper.make_node("ReduceSum", ["c"], ["r"], keepdims=0)


def test_a_good_model_passes_and_says_what_it_took(empty: Path) -> None:
    report = run(GOOD, empty)
    assert 0 < report.seconds < 20
    assert report.peak_bytes > MIB


def test_other_outputs_are_a_mismatch(empty: Path) -> None:
    assert failure(models.linear(scale=2.5).SerializeToString(), empty) == "selftest_mismatch"


@pytest.mark.parametrize(
    "model", [b"junk", models.conditional(models.external_tensor()).SerializeToString()], ids=["junk", "external"]
)
def test_a_file_that_the_walker_refuses_never_reaches_the_runtime(empty: Path, model: bytes) -> None:
    assert failure(model, empty) == "selftest_refused"


def test_a_model_that_the_runtime_refuses_is_refused(empty: Path) -> None:
    assert failure(models.model([helper.make_node("Nonsense", ["x"], ["y"])]).SerializeToString(), empty) == "selftest_refused"


def test_another_number_of_probes_than_the_contract_says_is_refused(empty: Path) -> None:
    assert failure(GOOD, empty, probes=5) == "selftest_refused"


def test_a_memory_bomb_is_stopped(empty: Path) -> None:
    assert failure(filled([1 << 36], TOTAL), empty) == "selftest_memory"


def test_constant_folding_that_burns_cpu_is_stopped(empty: Path) -> None:
    product = helper.make_node("MatMul", ["c", "c"], ["d"])
    total = helper.make_node("ReduceSum", ["d"], ["r"], keepdims=0)
    limits = SelfTestLimits(memory_bytes=2048 * MIB, cpu_s=1, wall_s=30.0)
    assert failure(filled([6000, 6000], product, total), empty, limits=limits) == "selftest_timeout"


def test_a_loop_of_two_to_the_62_is_stopped_by_cpu_time(empty: Path) -> None:
    limits = SelfTestLimits(memory_bytes=512 * MIB, cpu_s=1, wall_s=30.0)
    assert failure(endless(), empty, limits=limits, features=("control-flow:Loop",)) == "selftest_timeout"


def test_a_loop_of_two_to_the_62_is_stopped_by_the_clock(empty: Path) -> None:
    limits = SelfTestLimits(memory_bytes=512 * MIB, cpu_s=60, wall_s=1.0)
    assert failure(endless(), empty, limits=limits, features=("control-flow:Loop",)) == "selftest_timeout"


ENDINGS = {
    "a crash": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "selftest_crashed"),
    "the memory killer": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "selftest_memory"),
    "an abort for memory": (
        "import os, sys; sys.stderr.write('std::bad_alloc'); sys.stderr.flush(); os.abort()",
        "selftest_memory",
    ),
    "an exit without a word": ("pass", "selftest_crashed"),
    "an exit status": ("raise SystemExit(3)", "selftest_crashed"),
    "nonsense on stdout": ("print('passed, believe me')", "selftest_crashed"),
    "an unknown code": ('print(\'{"ok":false,"code":"fine","what":"","where":"","expected":"","actual":""}\')', "selftest_crashed"),
}


@pytest.mark.parametrize(("script", "code"), ENDINGS.values(), ids=ENDINGS.keys())
def test_every_other_end_of_the_child_has_its_code(empty: Path, monkeypatch: pytest.MonkeyPatch, script: str, code: str) -> None:
    monkeypatch.setattr(
        selftest, "_command", lambda: [sys.executable, "-I", "-c", f"import sys; sys.stdin.buffer.read(); {script}"]
    )
    assert failure(GOOD, empty) == code


def test_a_child_that_cannot_start_says_nothing_about_the_model(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_command", lambda: ["/nonexistent/python"])
    with pytest.raises(StateError) as caught:
        run(GOOD, empty)
    assert caught.value.code == "selftest_unavailable"


PROBE = """
import os, resource, sys
from device_client.install import selftest_child as child
from device_client.bundle.fields import Fields
network = child.leave_network()
child._load_runtime()
privileges = child.drop_privileges()
capabilities = [line.split()[1] for line in open("/proc/self/status") if line.startswith("Cap")]
child._limit(Fields({"cpu_s": 5, "wall_s": 5, "open_files": 32, "memory_bytes": 1 << 28}, where="h"))
kinds = ("CORE", "FSIZE", "NOFILE", "NPROC")
found = {kind: resource.getrlimit(getattr(resource, "RLIMIT_" + kind)) for kind in kinds}
environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "ORT_", "OMP_", "OPENBLAS_"))}
print(environment, found, os.getcwd(), network, privileges, set(capabilities[:3]))
"""


def test_the_child_has_an_empty_environment_and_hard_limits(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    command = selftest._command()
    script = command[-1].rsplit("; from", 1)[0] + "\n" + PROBE
    done = subprocess.run([*command[:-1], script], env={}, cwd=empty, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("{} {'CORE': (0, 0), 'FSIZE': (65536, 65536), 'NOFILE': (32, 32), 'NPROC': (0, 0)} " + str(empty))
    assert done.stdout.endswith("none {'0000000000000000'}\n"), "inheritable, permitted and effective capabilities"


def test_limits_follow_the_model_and_the_machine() -> None:
    small = SelfTestLimits.for_model(model_bytes=MIB, ram_bytes=0, device_ram_bytes=1 << 40)
    large = SelfTestLimits.for_model(model_bytes=100 * MIB, ram_bytes=0, device_ram_bytes=1 << 40)
    assert small.memory_bytes < large.memory_bytes
    boast = SelfTestLimits.for_model(model_bytes=MIB, ram_bytes=1 << 50, device_ram_bytes=1 << 30)
    assert boast.memory_bytes == 1 << 30
