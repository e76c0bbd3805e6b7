"""What `pack` stores is the smallest form that the device's decoder turns back, and the same one every time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import sealift
from device_client.errors import SealiftError, UsageError
from device_client.install.codebook_decoder import CodebookDecoder
from packager.encode import codebook, stored
from packager.encode.regions import find_regions
from packager.encode.stored import MIN_SAVING, store_model
from packager.encode.zstd import encode_zstd

from .models import convnet, graph, mlp

RNG = np.random.default_rng(5)


def holding(*arrays: NDArray[Any]) -> bytes:
    """A file that holds these tensors; nobody runs it."""
    tensors = [numpy_helper.from_array(array, f"tensor {index}") for index, array in enumerate(arrays)]
    made = helper.make_model(helper.make_graph([], "g", [], [], initializer=tensors))
    return bytes(made.SerializeToString(deterministic=True))


def decoded(layer: bytes, size: int) -> bytes:
    found: list[bytes] = []
    decoder = CodebookDecoder(found.append, size=size)
    decoder.write(layer)
    decoder.finish()
    return b"".join(found)


def ternary(shape: tuple[int, ...], scale: float = 0.1) -> NDArray[np.float32]:
    return (RNG.integers(-1, 2, shape) * scale).astype(np.float32)


def in_an_attribute() -> bytes:
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(ternary((8, 40)), "c"))
    then = helper.make_graph([constant], "then", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [8, 40])])
    node = helper.make_node("If", ["x"], ["y"], then_branch=then, else_branch=then)
    made = helper.make_model(helper.make_graph([node], "g", [], []))
    return bytes(made.SerializeToString())


def as_float_data() -> bytes:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [64], [float(value) for value in ternary((64,))])
    return bytes(helper.make_model(helper.make_graph([], "g", [], [], initializer=[tensor])).SerializeToString())


FILES: dict[str, Callable[[], bytes]] = {
    "no tensor": holding,
    "random floats": lambda: holding(RNG.standard_normal((64, 33)).astype(np.float32)),
    "more numbers than a group of planes": lambda: holding(RNG.standard_normal(40_001).astype(np.float32)),
    "ternary floats": lambda: holding(ternary((64, 33))),
    "a scale for each row": lambda: holding(np.stack([ternary((150,), scale=0.01 * (n + 1)) for n in range(20)])),
    "few values in some rows only": lambda: holding(np.concatenate([ternary((9, 99)), RNG.random((9, 99), np.float32)])),
    "256 values": lambda: holding(RNG.integers(0, 256, 5000).astype(np.float32)),
    "halves": lambda: holding(RNG.standard_normal(501).astype(np.float16)),
    "doubles and longs": lambda: holding(RNG.standard_normal(77), RNG.integers(-9, 9, 99)),
    "bytes": lambda: holding(RNG.integers(-64, 64, 999).astype(np.int8)),
    "bytes of five values": lambda: holding(RNG.integers(-2, 3, (9, 111)).astype(np.int8)),
    "one value": lambda: holding(np.full(999, 0.5, np.float32)),
    "not a number": lambda: holding(np.array([np.nan, -0.0, 0.0, np.inf] * 99, np.float32)),
    "the same tensor twice": lambda: holding(*[ternary((40,))] * 2),
    "tensors in branches": in_an_attribute,
    "a list of floats": as_float_data,
    "a network": convnet,
}


@pytest.mark.parametrize("make", FILES.values(), ids=FILES.keys())
def test_every_file_comes_back_byte_for_byte(make: Callable[[], bytes]) -> None:
    data = make()
    layer = codebook.encode_codebook(data)
    assert decoded(layer, len(data)) == data
    assert codebook.encode_codebook(data) == layer


def test_a_ternary_tensor_costs_less_than_its_packed_indices_and_zstd_costs_more() -> None:
    data = holding(ternary((256, 99)))
    packed = 256 * 99 / 5
    assert len(codebook.encode_codebook(data)) < 1.01 * packed + 150
    assert len(encode_zstd(data)) > 1.05 * packed


def test_rows_with_a_scale_each_are_found_to_take_few_values() -> None:
    data = holding(np.stack([ternary((300,), scale=0.01 * (n + 1)) for n in range(100)]))
    assert len(find_regions(data)) == 100
    assert len(codebook.encode_codebook(data)) < 0.08 * len(data)


def test_a_table_that_would_not_pay_is_not_made() -> None:
    tensors = (RNG.integers(0, 200, 999).astype(np.int8), np.arange(40, dtype=np.float32), np.full(99, 1.5, np.float32))
    assert [region.codebook for region in find_regions(holding(*tensors))] == [None] * 3


def test_the_smallest_form_is_stored_and_nothing_that_saves_little() -> None:
    few = holding(ternary((64, 99)))
    assert store_model(few).encoding == "codebook"
    assert store_model(few, encodings=("zstd",)).encoding == "zstd"
    assert store_model(few, encodings=()).data == few
    text = onnx.load_from_string(mlp())
    text.doc_string = "the same words again and again, " * 400
    assert store_model(text.SerializeToString()).encoding == "zstd", "the plainer one, where the other does not win"
    noise = RNG.integers(0, 256, 9000).astype(np.uint8).tobytes()
    stored_noise = store_model(holding(np.frombuffer(noise, np.uint8)))
    assert stored_noise.encoding is None
    assert 0 < MIN_SAVING < 0.1


def test_what_does_not_decode_to_its_model_is_never_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    data = holding(ternary((64, 99)))
    other = codebook.encode_codebook(holding(ternary((64, 99))))
    monkeypatch.setitem(stored.ENCODERS, "codebook", lambda _: other)
    with pytest.raises(SealiftError) as caught:
        store_model(data)
    assert caught.value.code == "encode_wrong"


def test_a_model_that_does_not_fit_the_container_is_stored_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codebook, "MAX_SKELETON_BYTES", 10)
    data = holding(ternary((64, 99)))
    with pytest.raises(UsageError) as caught:
        codebook.encode_codebook(data)
    assert caught.value.code == "encode_unfit"
    assert store_model(data).encoding == "zstd"


def test_the_layer_is_the_same_in_another_process() -> None:
    script = (
        "import hashlib, sys\nfrom packager.encode.stored import ENCODERS\n"
        "data = sys.stdin.buffer.read()\n"
        "print(*(hashlib.sha256(encode(data)).hexdigest() for encode in ENCODERS.values()))\n"
    )
    data = holding(ternary((64, 99)), RNG.standard_normal(999).astype(np.float32))
    found = {
        subprocess.run(
            [sys.executable, "-c", script], input=data, capture_output=True, check=True, env={"PYTHONHASHSEED": seed},
            cwd=Path(sealift.__file__).parent,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1


def test_the_skeleton_holds_no_large_tensor() -> None:
    data = graph([], {"w": RNG.standard_normal((50, 50))}, x=["N", 1], y=["N", 1])
    regions = find_regions(data)
    assert len(data) - sum(region.words.nbytes for region in regions) < 300
