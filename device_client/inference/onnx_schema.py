"""The part of the ONNX file format that Sealift takes, as tables: field number to name, wire form and meaning.

Read by ``walker.py``. What is not in a table is refused, so the tables are the allow-list: tensor segments, training
graphs, device placement and opaque types are left out on purpose. ``external_data`` is listed, to be refused by a name
of its own. Field numbers: onnx.proto of ONNX 1.23.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.Enum):
    """How a field's content is read."""

    INTEGER = "integer"  # varint, kept
    FIXED32 = "fixed32"
    FIXED64 = "fixed64"
    TEXT = "text"  # UTF-8, kept
    NAME = "name"  # UTF-8, kept as a hash, to find names that are used twice
    SKIP = "skip"  # bytes whose content decides nothing
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message. Repeated integers and fixed values are taken packed and unpacked."""

    name: str
    kind: Kind
    repeated: bool = False
    message: str = ""
    keep: bool = False  # repeated numbers: keep the values, else count them
    memo: bool = False  # short ones recur: the same bytes are walked once
    hashes: bool = False  # repeated messages: their checks return hashes of names, kept in eight bytes each


def _integer(name: str) -> Field:
    return Field(name, Kind.INTEGER)


def _text(name: str) -> Field:
    return Field(name, Kind.TEXT)


def _skip(name: str, *, repeated: bool = False) -> Field:
    return Field(name, Kind.SKIP, repeated)


def _name(name: str, *, repeated: bool = False) -> Field:
    return Field(name, Kind.NAME, repeated)


def _one(name: str, message: str) -> Field:
    return Field(name, Kind.MESSAGE, message=message)


def _many(name: str, message: str, *, hashes: bool = False) -> Field:
    return Field(name, Kind.MESSAGE, repeated=True, message=message, hashes=hashes)


def _numbers(name: str, kind: Kind = Kind.INTEGER, *, keep: bool = False) -> Field:
    return Field(name, kind, repeated=True, keep=keep)


SCHEMA: dict[str, dict[int, Field]] = {
    "Model": {
        1: _integer("ir_version"),
        2: _skip("producer_name"),
        3: _skip("producer_version"),
        4: _skip("domain"),
        5: _integer("model_version"),
        6: _skip("doc_string"),
        7: _one("graph", "Graph"),
        8: _many("opset_import", "OperatorSet"),
        14: _many("metadata_props", "Entry"),
        25: _many("functions", "Function"),
    },
    "OperatorSet": {1: _text("domain"), 2: _integer("version")},
    "Entry": {1: _skip("key"), 2: _skip("value")},
    "Graph": {
        1: _many("node", "Node", hashes=True),
        2: _skip("name"),
        5: _many("initializer", "Tensor", hashes=True),
        10: _skip("doc_string"),
        11: _many("input", "ValueInfo"),
        12: _many("output", "ValueInfo"),
        13: _many("value_info", "ValueInfo"),
        14: _many("quantization_annotation", "TensorAnnotation"),
        15: _many("sparse_initializer", "SparseTensor"),
        16: _many("metadata_props", "Entry"),
    },
    "TensorAnnotation": {1: _skip("tensor_name"), 2: _many("quant_parameter_tensor_names", "Entry")},
    "Node": {
        1: _skip("input", repeated=True),
        2: _name("output", repeated=True),
        3: _skip("name"),
        4: _text("op_type"),
        5: Field("attribute", Kind.MESSAGE, repeated=True, message="Attribute", memo=True),
        6: _skip("doc_string"),
        7: _text("domain"),
        8: _skip("overload"),
        9: _many("metadata_props", "Entry"),
    },
    "Attribute": {
        1: _skip("name"),
        2: Field("f", Kind.FIXED32),
        3: _integer("i"),
        4: _skip("s"),
        5: _one("t", "Tensor"),
        6: _one("g", "Graph"),
        7: _numbers("floats", Kind.FIXED32),
        8: _numbers("ints"),
        9: _skip("strings", repeated=True),
        10: _many("tensors", "Tensor"),
        11: _many("graphs", "Graph"),
        13: _skip("doc_string"),
        14: _one("tp", "Type"),
        15: _many("type_protos", "Type"),
        20: _integer("type"),
        21: _skip("ref_attr_name"),
        22: _one("sparse_tensor", "SparseTensor"),
        23: _many("sparse_tensors", "SparseTensor"),
    },
    "Function": {
        1: _skip("name"),
        4: _name("input", repeated=True),
        5: _skip("output", repeated=True),
        6: _skip("attribute", repeated=True),
        7: _many("node", "Node", hashes=True),
        8: _skip("doc_string"),
        9: _many("opset_import", "OperatorSet"),
        10: _text("domain"),
        11: _many("attribute_proto", "Attribute"),
        12: _many("value_info", "ValueInfo"),
        13: _skip("overload"),
        14: _many("metadata_props", "Entry"),
    },
    "Tensor": {
        1: _numbers("dims", keep=True),
        2: _integer("data_type"),
        4: _numbers("float_data", Kind.FIXED32),
        5: _numbers("int32_data"),
        6: _skip("string_data", repeated=True),
        7: _numbers("int64_data"),
        8: _name("name"),
        9: _skip("raw_data"),
        10: _numbers("double_data", Kind.FIXED64),
        11: _numbers("uint64_data"),
        12: _skip("doc_string"),
        13: _skip("external_data", repeated=True),
        14: _integer("data_location"),
        16: _many("metadata_props", "Entry"),
    },
    "SparseTensor": {1: _one("values", "Tensor"), 2: _one("indices", "Tensor"), 3: _numbers("dims", keep=True)},
    "ValueInfo": {1: _text("name"), 2: _one("type", "Type"), 3: _skip("doc_string"), 4: _many("metadata_props", "Entry")},
    "Type": {
        1: _one("tensor_type", "TensorType"),
        4: _one("sequence_type", "SequenceType"),
        5: _one("map_type", "MapType"),
        6: _skip("denotation"),
        8: _one("sparse_tensor_type", "TensorType"),
        9: _one("optional_type", "SequenceType"),
    },
    "TensorType": {1: _integer("elem_type"), 2: _one("shape", "Shape")},
    "SequenceType": {1: _one("elem_type", "Type")},
    "MapType": {1: _integer("key_type"), 2: _one("value_type", "Type")},
    "Shape": {1: _many("dim", "Dimension")},
    "Dimension": {1: _integer("dim_value"), 2: _text("dim_param"), 3: _skip("denotation")},
}


ATTRIBUTE_FIELDS = {
    1: "f",
    2: "i",
    3: "s",
    4: "t",
    5: "g",
    6: "floats",
    7: "ints",
    8: "strings",
    9: "tensors",
    10: "graphs",
    11: "sparse_tensor",
    12: "sparse_tensors",
    13: "tp",
    14: "type_protos",
}
"""An attribute's type to the one field that holds its value."""


@dataclass(frozen=True, slots=True)
class DType:
    """An element type: its numpy-style name, size, and the typed field that may hold it instead of ``raw_data``.

    ``entry_quarters`` is how many quarters of an entry of that field one element takes: 4 as a rule, 8 for complex
    numbers, 2 and 1 for elements packed into one entry.
    """

    name: str
    bits: int
    field: str
    entry_quarters: int = 4


DTYPES: dict[int, DType] = {
    1: DType("float32", 32, "float_data"),
    2: DType("uint8", 8, "int32_data"),
    3: DType("int8", 8, "int32_data"),
    4: DType("uint16", 16, "int32_data"),
    5: DType("int16", 16, "int32_data"),
    6: DType("int32", 32, "int32_data"),
    7: DType("int64", 64, "int64_data"),
    8: DType("string", 0, "string_data"),
    9: DType("bool", 8, "int32_data"),
    10: DType("float16", 16, "int32_data"),
    11: DType("float64", 64, "double_data"),
    12: DType("uint32", 32, "uint64_data"),
    13: DType("uint64", 64, "uint64_data"),
    14: DType("complex64", 64, "float_data", 8),
    15: DType("complex128", 128, "double_data", 8),
    16: DType("bfloat16", 16, "int32_data"),
    17: DType("float8e4m3fn", 8, "int32_data"),
    18: DType("float8e4m3fnuz", 8, "int32_data"),
    19: DType("float8e5m2", 8, "int32_data"),
    20: DType("float8e5m2fnuz", 8, "int32_data"),
    21: DType("uint4", 4, "int32_data", 2),
    22: DType("int4", 4, "int32_data", 2),
    23: DType("float4e2m1", 4, "int32_data", 2),
    24: DType("float8e8m0", 8, "int32_data"),
    25: DType("uint2", 2, "int32_data", 1),
    26: DType("int2", 2, "int32_data", 1),
}

CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Operators of the standard domain that run a subgraph; each needs ``control-flow:<op>`` in ``features``."""
