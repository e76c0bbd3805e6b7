"""Multiply-accumulates of each operator for one row, and in all by the arithmetic that does them.

Counted: Conv, ConvTranspose, Gemm, MatMul, Einsum, Attention, their integer and n-bit forms, and the gate products of LSTM,
GRU and RNN. Not counted: element-wise work, pooling, normalisation, biases; their cost is in the bytes they move.
An operator that multiplies matrices but has no formula here, or whose sizes are unknown, is listed, not guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from packager.measure.fusion import ARITHMETICS, Op
from packager.measure.shaped import Tensor

Shape = tuple[int, ...]
Shapes = Callable[[int], Shape]

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "DynamicQuantizeLSTM": 4}
_HEAVY_WITHOUT_FORMULA = frozenset(
    {
        "DeformConv",
        "DFT",
        "QAttention",
        "MultiHeadAttention",
        "GroupQueryAttention",
        "DecoderMaskedMultiHeadAttention",
        "FusedGemm",
        "FusedMatMul",
        "FusedConv",
        "GatherBlockQuantized",
        "QMoE",
        "MoE",
    }
)
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclass(frozen=True)
class MacRow:
    """One operator: how many multiply-accumulates for one row, done in which arithmetic."""

    node: str
    op_type: str
    macs: int
    arithmetic: str


@dataclass(frozen=True)
class MacTable:
    """All operators that multiply and accumulate; ``uncounted``: those whose number is not known."""

    rows: tuple[MacRow, ...]
    uncounted: tuple[str, ...]

    @property
    def total(self) -> int:
        """Multiply-accumulates of one row."""
        return sum(row.macs for row in self.rows)

    @property
    def by_arithmetic(self) -> dict[str, int]:
        """The same by ``int8``, ``fp16`` and ``fp32``."""
        return {kind: sum(row.macs for row in self.rows if row.arithmetic == kind) for kind in ARITHMETICS}


def count_macs(ops: Iterable[Op], tensors: Mapping[str, Tensor]) -> MacTable:
    """Counts one graph's operators; inner graphs are the caller's."""
    rows, uncounted = [], []
    for op in ops:
        try:
            macs = _macs_of(op.node, tensors)
        except (KeyError, IndexError, ZeroDivisionError):
            uncounted.append(op.name)
            continue
        if macs:
            rows.append(MacRow(op.name, op.op_type, macs, op.arithmetic))
        elif op.op_type in _HEAVY_WITHOUT_FORMULA:
            uncounted.append(op.name)
    return MacTable(tuple(rows), tuple(uncounted))


def _macs_of(node: Any, tensors: Mapping[str, Tensor]) -> int:
    """Zero for an operator that does none.

    Raises:
        KeyError: a size that is not known.
    """

    def read(index: int) -> Shape:
        return tensors[node.input[index]].shape

    def written() -> Shape:
        return tensors[node.output[0]].shape

    formula = _FORMULAS.get(node.op_type)
    if formula is not None:
        return formula(node, read, written)
    if node.op_type in _GATES:
        return _recurrent(node, read)
    return 0


def _convolution(weight: int) -> Callable[[Any, Shapes, Callable[[], Shape]], int]:
    """Each output value is a sum over (C_in / groups) x kernel: the weights (C_out, C_in / groups, ...) over C_out."""

    def count(node: Any, read: Shapes, written: Callable[[], Shape]) -> int:
        kernel = read(weight)
        return math.prod(written()) * (math.prod(kernel) // kernel[0])

    return count


def _transposed(node: Any, read: Shapes, written: Callable[[], Shape]) -> int:
    """Each input value is spread over (C_out / groups) x kernel: weights (C_in, C_out / groups, ...) over C_in."""
    kernel = read(1)
    return math.prod(read(0)) * (math.prod(kernel) // kernel[0])


def _matrix(left: int) -> Callable[[Any, Shapes, Callable[[], Shape]], int]:
    """The output's values times the length of the sum, the last axis of the left factor."""

    def count(node: Any, read: Shapes, written: Callable[[], Shape]) -> int:
        return math.prod(written()) * (read(left) or (1,))[-1]

    return count


def _gemm(node: Any, read: Shapes, written: Callable[[], Shape]) -> int:
    transposed = any(item.name == "transA" and item.i for item in node.attribute)
    return math.prod(written()) * read(0)[0 if transposed else 1]


def _recurrent(node: Any, read: Shapes) -> int:
    """Gate products per step: W (directions, gates x hidden, input) or, dynamically quantised, its transpose, and R."""
    steps, rows, features = read(0)
    directions = read(1)[0]
    hidden = math.prod(read(1)) // (directions * features * _GATES[node.op_type])
    return steps * rows * directions * _GATES[node.op_type] * hidden * (features + hidden)


def _attention(node: Any, read: Shapes, written: Callable[[], Shape]) -> int:
    """Scores and weighted values: rows x queries x keys x (width of keys + width of values), over all heads.

    Operator ``Attention`` of the standard domain, opset 23: Q, K, V of (rows, heads, length, width) or (rows, length, all widths).
    """
    query, key, value = read(0), read(1), read(2)
    if len(query) == 3:
        return query[0] * query[1] * key[1] * (query[2] + written()[2])
    return query[0] * query[1] * query[2] * key[2] * (query[3] + value[3])


def _einsum(node: Any, read: Shapes, written: Callable[[], Shape]) -> int:
    """The product of all named axes; an ellipsis has no formula here."""
    equation = next(item.s.decode("ascii", "replace") for item in node.attribute if item.name == "equation").replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if not all(_LETTERS.issuperset(term) for term in terms):
        raise KeyError(equation)
    sizes = {letter: size for index, term in enumerate(terms) for letter, size in zip(term, read(index), strict=True)}
    return math.prod(sizes.values())


def _standard_attention(node: Any, read: Shapes, written: Callable[[], Shape]) -> int:
    if node.domain not in ("", "ai.onnx"):  # the runtime's own operator of that name takes one packed weight
        raise KeyError(node.op_type)
    return _attention(node, read, written)


_FORMULAS: dict[str, Callable[[Any, Shapes, Callable[[], Shape]], int]] = {
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "QGemm": _gemm,
    "MatMul": _matrix(0),
    "MatMulInteger": _matrix(0),
    "QLinearMatMul": _matrix(0),
    "MatMulNBits": _matrix(0),
    "DynamicQuantizeMatMul": _matrix(0),
    "MatMulIntegerToFloat": _matrix(0),
    "Einsum": _einsum,
    "Attention": _standard_attention,
}
