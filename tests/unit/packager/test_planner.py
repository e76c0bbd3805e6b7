from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import sealift
from packager.data import Dataset
from packager.footprint import RUNTIME_BYTES, peak_ram_bytes
from packager.measure.fusion import fuse_graph
from packager.measure.planner import MemoryPlan, plan_memory
from packager.measure.shaped import shape_graph
from packager.measure.workload import count_workload
from packager.ptq.static import Int8Static, quantise_int8_static
from packager.ptq.weight_only import WeightOnly, quantise_weights

from .models import graph, mlp

ROOT = Path(sealift.__file__).parent


def planned(nodes: Sequence[Any], constants: Mapping[str, Any], *, x: Sequence[Any], y: Sequence[Any]) -> MemoryPlan:
    return plan_memory(shape_graph(graph(nodes, constants, x=list(x), y=list(y))))


def convolutions() -> bytes:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["1"], pads=[1, 1, 1, 1], name="first"),
        helper.make_node("Relu", ["1"], ["2"]),
        helper.make_node("Conv", ["2", "b"], ["3"], pads=[1, 1, 1, 1], name="second"),
        helper.make_node("Relu", ["3"], ["4"]),
        helper.make_node("GlobalAveragePool", ["4"], ["y"]),
    ]
    constants = {"a": rng.standard_normal((16, 3, 3, 3)), "b": rng.standard_normal((16, 16, 3, 3))}
    return graph(nodes, constants, x=["N", 3, 20, 20], y=["N", 16, 1, 1])


def test_a_chain_needs_two_neighbours_at_a_time() -> None:
    """x (8 values) -> 32 -> 4: the widest pair is 32 and 8."""
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"], name="wide"), helper.make_node("MatMul", ["h", "b"], ["y"])]
    found = planned(nodes, {"a": np.ones((8, 32)), "b": np.ones((32, 4))}, x=["N", 8], y=["N", 4])
    assert found.peak_bytes == (8 + 32) * 4
    assert found.at == "wide"
    assert found.arena_bytes >= found.peak_bytes


def test_a_shortcut_is_kept_until_it_is_added() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["1"]),
        helper.make_node("MatMul", ["1", "a"], ["2"]),
        helper.make_node("MatMul", ["2", "a"], ["3"], name="third"),
        helper.make_node("Add", ["3", "1"], ["s"]),
        helper.make_node("MatMul", ["s", "b"], ["y"]),
    ]
    found = planned(nodes, {"a": np.ones((10, 10)), "b": np.ones((10, 1))}, x=["N", 10], y=["N", 1])
    assert found.peak_bytes == 3 * 10 * 4
    assert found.at == "third"


def test_an_activation_function_writes_over_what_nobody_reads_again() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["1"]),
        helper.make_node("Relu", ["1"], ["2"]),
        helper.make_node("MatMul", ["2", "b"], ["y"]),
    ]
    found = planned(nodes, {"a": np.ones((2, 100)), "b": np.ones((100, 1))}, x=["N", 2], y=["N", 1])
    assert found.peak_bytes == (100 + 2) * 4


def test_it_does_not_write_over_what_somebody_reads_later_nor_over_an_input_of_the_caller() -> None:
    again = [
        helper.make_node("MatMul", ["x", "a"], ["1"]),
        helper.make_node("Sigmoid", ["1"], ["2"]),
        helper.make_node("Mul", ["1", "2"], ["3"]),
        helper.make_node("MatMul", ["3", "b"], ["y"]),
    ]
    assert planned(again, {"a": np.ones((2, 100)), "b": np.ones((100, 1))}, x=["N", 2], y=["N", 1]).peak_bytes == 200 * 4
    assert planned([helper.make_node("Relu", ["x"], ["y"])], {}, x=["N", 50], y=["N", 50]).peak_bytes == 100 * 4


def test_an_input_of_the_caller_is_kept_even_where_nobody_reads_it_again() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["1"]), helper.make_node("MatMul", ["1", "a"], ["y"])]
    assert planned(nodes, {"a": np.ones((50, 1))}, x=["N", 50], y=["N", 1]).peak_bytes == 100 * 4


def test_an_activation_function_between_an_integer_kernel_and_its_quantisation_is_part_of_the_kernel() -> None:
    """x 8 bit -> MatMul -> Relu -> 8 bit: nothing of 200 floats is ever in memory."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"]),
        helper.make_node("MatMul", ["d", "wd"], ["m"]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "s"], ["rq"]),
        helper.make_node("DequantizeLinear", ["rq", "s"], ["rd"]),
        helper.make_node("ReduceMean", ["rd"], ["y"], axes=[1], keepdims=1),
    ]
    constants = {"s": np.float32(0.1), "w": np.ones((4, 200), np.int8)}
    data = graph(nodes, constants, x=["N", 4], y=["N", 1])
    ops = fuse_graph(shape_graph(data))
    assert [op.op_type for op in ops] == ["QuantizeLinear", "MatMul", "DequantizeLinear", "ReduceMean"]
    assert ops[1].arithmetic == "int8"
    assert plan_memory(shape_graph(data)).peak_bytes == 200 * (1 + 4)


def test_a_reshape_needs_no_room_of_its_own() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["1"]),
        helper.make_node("Flatten", ["1"], ["2"]),
        helper.make_node("MatMul", ["2", "b"], ["y"]),
    ]
    found = planned(nodes, {"a": np.ones((2, 100)), "b": np.ones((100, 1))}, x=["N", 2], y=["N", 1])
    assert found.peak_bytes == (100 + 2) * 4


def test_a_quantised_graph_is_counted_in_the_8_bit_tensors_that_run() -> None:
    data = convolutions()
    calibration = Dataset({"x": np.random.default_rng(0).random((8, 3, 20, 20), dtype=np.float32)}, None, None, None, "data")
    quantised = quantise_int8_static(data, Int8Static(), calibration).data
    full, small = plan_memory(shape_graph(data)), plan_memory(shape_graph(quantised))
    assert full.peak_bytes == 2 * 16 * 400 * 4
    assert small.peak_bytes == 2 * 16 * 400


def test_what_is_dequantised_for_a_float_operator_is_counted_in_float() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"]),
        helper.make_node("Erf", ["d"], ["e"]),
        helper.make_node("ReduceMean", ["e"], ["y"], axes=[1]),
    ]
    found = planned(nodes, {"s": np.float32(0.1)}, x=["N", 1000], y=["N", 1])
    assert found.peak_bytes == 8000


def test_two_runs_under_two_hash_seeds_plan_the_same() -> None:
    script = (
        "import sys, hashlib\n"
        "from packager.measure.workload import count_workload\n"
        "from tests.unit.packager.test_planner import convolutions\n"
        "from device_client.bundle.strict_json import canonical_json\n"
        "print(canonical_json(count_workload(convolutions()).to_json()))\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "77")
    }
    assert len(found) == 1


def test_the_contract_s_figure_holds_runtime_weights_and_activations() -> None:
    assert peak_ram_bytes(mlp()) >= RUNTIME_BYTES
    large = mlp(features=1000, hidden=1000)
    assert peak_ram_bytes(large) >= RUNTIME_BYTES + 3 * len(large)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
@pytest.mark.parametrize("quantised", [False, True], ids=["fp32", "int8"])
def test_the_contract_s_figure_is_above_the_measured_peak_of_a_process(tmp_path: Path, quantised: bool) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["h", "v"], ["y"], pads=[1, 1, 1, 1]),
    ]
    constants = {"w": rng.standard_normal((48, 3, 3, 3)), "v": rng.standard_normal((48, 48, 3, 3))}
    data = graph(nodes, constants, x=["N", 3, 96, 96], y=["N", 48, 96, 96])
    if quantised:
        calibration = Dataset({"x": rng.random((2, 3, 96, 96), dtype=np.float32)}, None, None, None, "data")
        data = quantise_int8_static(data, Int8Static(), calibration).data
    (tmp_path / "m.onnx").write_bytes(data)
    script = (
        "import sys, pathlib, numpy as np\n"
        "from device_client.inference.session import open_session\n"
        "from device_client.inference.walker import check_model\n"
        "with open_session(check_model(pathlib.Path(sys.argv[1]).read_bytes())) as session:\n"
        "    for _ in range(3):\n"
        "        session.run({'x': np.zeros((1, 3, 96, 96), np.float32)})\n"
        "status = pathlib.Path('/proc/self/status').read_text().splitlines()\n"
        "print(next(line for line in status if line.startswith('VmHWM')).split()[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "m.onnx")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) * 1024 <= peak_ram_bytes(data)


def test_weights_that_are_widened_at_load_count_as_memory_and_not_as_work() -> None:
    plain = mlp(features=64, hidden=96, classes=10)
    folded = quantise_weights(plain, WeightOnly(), Dataset({"x": np.zeros((2, 64), np.float32)}, None, None, None, "data")).data
    before, after = count_workload(plain), count_workload(folded)
    assert after.kernels == before.kernels
    assert after.memory.peak_bytes == before.memory.peak_bytes
    assert after.macs.by_arithmetic == before.macs.by_arithmetic
    assert after.widened_bytes >= 4 * 64 * 96
    assert peak_ram_bytes(folded) > RUNTIME_BYTES
