"""Files made to exhaust whoever reads or loads them: the bare runtime shows that they do, the walker or the child's limits hold."""

from __future__ import annotations

import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_client.bundle import Tolerance
from device_client.errors import SelfTestError, VerificationError
from device_client.inference.golden import GoldenProbes, encode_golden
from device_client.inference.walker import check_model
from device_client.install.selftest import SelfTestLimits, run_selftest
from device_client.limits import MIB, Limits
from tests.unit.inference import models
from tests.unit.inference.bare import bare
from tests.unit.inference.wire import field, number, varint, weight

X = np.array([[1.0, 2.0, 3.0]], np.float32)
GOLDEN = encode_golden(GoldenProbes({"x": X}, {"v": {"y": X}}))
LOCAL = helper.make_opsetid("local", 1)


def endless() -> onnx.ModelProto:
    """A Loop of 2^62 turns."""
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
    return models.model([helper.make_node("Loop", ["m", "", "x"], ["y"], body=body)], initializers=[trips])


def filled(shape: list[int], *nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A tensor of ones of ``shape``, made from eight bytes of file; ``nodes`` go on from 'c' to a scalar 'r'."""
    ones = helper.make_node("ConstantOfShape", ["s"], ["c"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]))
    size = numpy_helper.from_array(np.array(shape, np.int64), "s")
    return models.model([ones, *nodes, helper.make_node("Mul", ["x", "r"], ["y"])], initializers=[size])


def total(name: str = "c") -> onnx.NodeProto:
    return helper.make_node("ReduceSum", [name], ["r"], keepdims=0)


def products() -> onnx.ModelProto:
    """Products of large constants, computed while the session is made."""
    chain = [helper.make_node("MatMul", [a, "c"], [b]) for a, b in (("c", "d"), ("d", "e"), ("e", "f"), ("f", "g"))]
    return filled([4000, 4000], *chain, total("g"))


def doubling() -> onnx.ModelProto:
    """Forty functions that each call the next one twice: 2^40 nodes once a runtime has put them in place."""
    nodes = [
        [helper.make_node(f"F{i + 1}", [a], [b], domain="local") for a, b in (("a", "t"), ("t", "b"))] if i < 40 else
        [helper.make_node("Neg", ["a"], ["b"])]
        for i in range(41)
    ]  # fmt: skip
    opsets = [helper.make_opsetid("", models.OPSET), LOCAL]
    made = [helper.make_function("local", f"F{i}", ["a"], ["b"], body, opsets) for i, body in enumerate(nodes)]
    return models.model([helper.make_node("F0", ["x"], ["y"], domain="local")], opsets=[LOCAL], functions=made)


def product_of_64_gib() -> onnx.ModelProto:
    """A column times a row."""
    flip = helper.make_node("Transpose", ["c"], ["q"], perm=[1, 0])
    return filled([1 << 17, 1], flip, helper.make_node("MatMul", ["c", "q"], ["d"]), total("d"))


@dataclass(frozen=True)
class Bomb:
    """A file that ends a child for ``cause``; ``at_load`` if making the session is enough."""

    make: Callable[[], onnx.ModelProto]
    cause: str
    at_load: bool
    features: tuple[str, ...] = ()
    memory_bytes: int = 1024 * MIB


BOMBS = {
    "a loop of two to the 62": Bomb(endless, "selftest_timeout", at_load=False, features=("control-flow:Loop",)),
    "constants that take minutes to fold": Bomb(products, "selftest_timeout", at_load=True),
    "functions that double forty times": Bomb(doubling, "selftest_timeout", at_load=True, features=("domain:local",)),
    "a tensor of 256 GiB": Bomb(lambda: filled([1 << 36], total()), "selftest_memory", at_load=False),
    "a product of 64 GiB": Bomb(product_of_64_gib, "selftest_memory", at_load=False),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_that_the_bare_runtime_goes_down_with_is_ended_by_the_limits_of_the_child(bomb: Bomb, tmp_path: Path) -> None:
    data = bomb.make().SerializeToString()
    assert len(data) < 100_000, "a small file"
    outcome = bare(data, memory_bytes=bomb.memory_bytes, cpu_s=1)
    assert outcome.output is None
    if bomb.cause == "selftest_timeout":
        assert outcome.status in {-signal.SIGXCPU, -signal.SIGKILL}
        assert outcome.loaded is not bomb.at_load
    else:
        assert "allocate" in outcome.error
    tmp_path.chmod(0o555)
    with pytest.raises(SelfTestError) as caught:
        run_selftest(
            data,
            GOLDEN,
            variant="v",
            probes=1,
            tolerance=Tolerance("exact", 0.0),
            features=bomb.features,
            providers=("CPUExecutionProvider",),
            cwd=tmp_path,
            limits=SelfTestLimits(memory_bytes=bomb.memory_bytes, cpu_s=1, wall_s=60.0),
        )
    assert caught.value.code == bomb.cause
    if bomb.features:
        with pytest.raises(VerificationError):
            check_model(data)


def graph(content: bytes) -> bytes:
    return field(7, content) + field(8, number(2, 17))


# A name of its own for each node or weight: what the walker keeps most of.
def many_nodes(count: int) -> bytes:
    return graph(b"".join(field(1, field(2, b"%d" % index)) for index in range(count)))


def many_weights(count: int) -> bytes:
    return graph(b"".join(field(5, number(1, 0) + number(2, 1) + field(8, b"%d" % index)) for index in range(count)))


def many_inputs(count: int) -> bytes:
    return graph(b"".join(field(11, field(1, b"%d" % index)) for index in range(count)))


def many_attributes(count: int) -> bytes:
    return graph(field(1, b"".join(field(5, field(1, b"%d" % index)) for index in range(count))))


def many_operator_sets(count: int) -> bytes:
    return graph(b"") + b"".join(field(8, field(1, b"%d" % index)) for index in range(count))


CROWDS = {
    "nodes": many_nodes,
    "weights": many_weights,
    "inputs": many_inputs,
    "attributes": many_attributes,
    "operator sets": many_operator_sets,
}
FIELDS = 100_000


@pytest.mark.parametrize("make", CROWDS.values(), ids=CROWDS.keys())
def test_a_crowd_of_tiny_fields_is_cut_off_at_the_limit_in_little_memory(make: Callable[[int], bytes]) -> None:
    data = make(FIELDS)
    tracemalloc.start()
    try:
        with pytest.raises(VerificationError) as caught:
            check_model(data, limits=Limits(max_model_fields=FIELDS))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == "model_too_large"
    assert peak / FIELDS < 90  # the next test bounds those that take the most: there is no more than 32 768 of them


@pytest.mark.parametrize("make", [many_inputs, many_attributes, many_operator_sets], ids=lambda make: make.__name__)
def test_what_is_kept_whole_is_bounded_by_a_number_of_its_own(make: Callable[[int], bytes]) -> None:
    with pytest.raises(VerificationError, match="too many of") as caught:
        check_model(make(32_769))
    assert caught.value.code == "model_too_large"


def test_no_short_message_escapes_the_count_of_fields() -> None:
    # Short attributes are remembered; those that differ, and what is inside them, count all the same.
    attributes = b"".join(field(5, number(3, index) + number(20, 2)) for index in range(1000))
    data = graph(field(1, attributes))
    check_model(data, limits=Limits(max_model_fields=3100))
    with pytest.raises(VerificationError) as caught:
        check_model(data, limits=Limits(max_model_fields=3000))
    assert caught.value.code == "model_too_large"


@pytest.mark.parametrize("at", ["an operator", "a weight", "an output", "a dimension"])
def test_a_name_of_megabytes_is_refused_and_never_copied(at: str) -> None:
    name = b"n" * (64 * MIB)
    places = {
        "an operator": field(1, field(4, name)),
        "a weight": field(5, weight(name=name)),
        "an output": field(1, field(2, name)),
        "a dimension": field(11, field(2, field(1, field(2, field(1, field(2, name)))))),
    }
    data = graph(places[at])
    tracemalloc.start()
    try:
        with pytest.raises(VerificationError) as caught:
            check_model(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == "model_too_large"
    assert peak < MIB


PACKED: dict[str, tuple[bytes, int]] = {
    "ones": (b"\x01", 300_000),
    "two bytes each": (b"\x80\x01", 200_000),
    "negative": (b"\xff" * 9 + b"\x01", 50_000),
    "nine bytes each": (b"\xff" * 8 + b"\x7f", 50_000),
}


@pytest.mark.parametrize(("entry", "count"), PACKED.values(), ids=PACKED.keys())
@pytest.mark.parametrize("shift", [0, 1, 5])
def test_packed_numbers_are_counted_whatever_border_they_lie_on(entry: bytes, count: int, shift: int) -> None:
    content = b"\x01" * shift + entry * count
    tensor = number(1, count + shift) + number(2, 7) + field(8, b"w") + field(7, content)
    check_model(graph(field(5, tensor)))
    for wrong in (count + shift + 1, count + shift - 1):
        bad = number(1, wrong) + tensor[len(number(1, count + shift)) :]
        with pytest.raises(VerificationError) as caught:
            check_model(graph(field(5, bad)))
        assert caught.value.code == "model_data_length"


def test_a_packed_number_of_more_than_ten_bytes_is_found_wherever_it_lies() -> None:
    size = 40_000
    for at in [0, 1, *range(4096 - 12, 4096 + 3), *range(8 * 4096 - 12, 8 * 4096 + 3), size - 12]:
        for length, broken in ((9, False), (10, True), (11, True), (12, True)):
            if at + length >= size:
                continue
            content = b"\x01" * at + b"\x80" * length + b"\x01" * (size - at - length)
            tensor = number(1, size - length) + number(2, 7) + field(8, b"w") + tag_packed(content)
            data = graph(field(5, tensor))
            if not broken:
                check_model(data)
                continue
            with pytest.raises(VerificationError) as caught:
                check_model(data)
            assert caught.value.code == "model_syntax"


def tag_packed(content: bytes) -> bytes:
    return varint(7 << 3 | 2) + varint(len(content)) + content


def test_checking_a_model_of_a_hundred_mebibytes_takes_no_memory_beside_it() -> None:
    script = """
from device_client.inference.walker import check_model
from tests.unit.inference.test_bombs import MIB, large

def peak():  # not ru_maxrss, which begins with the peak of the process that started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

data = large(100 * MIB)
check_model(large(MIB))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = peak()
check_model(data)
print(peak() - before)
"""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    assert int(done.stdout) < 4 * 1024  # KiB


def large(size: int) -> bytes:
    """A model with one weight of ``size`` bytes."""
    return graph(field(5, number(1, size) + number(2, 3) + field(8, b"w") + field(9, bytes(size))))
