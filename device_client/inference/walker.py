"""Reads an ONNX file's structure before any runtime does, and refuses what could run more than the hashed bytes.

Sits in front of every session: at pack, audit, admission, install and load. onnxruntime follows references to
other files even when it is given bytes, takes an ``ORTM`` file for a model of its own format, merges a repeated
``graph``, and of two weights with one name takes the last (DESIGN 4, "Load path"); none of that gets past here.
Standard library only, no onnx package; touches tensor data by its length alone.

    model = check_model(data, features=contract.features)   # CheckedModel, or a VerificationError
    session = open_session(model)

It deliberately does *not* check that the graph is a valid or a harmless computation: types, shapes and cost show in
the self-test's child process, which has limits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import InitVar, dataclass
from itertools import pairwise
from typing import Any

from device_client.bundle.digest import Digest
from device_client.bundle.fields import shown
from device_client.errors import FormatError, LimitError
from device_client.inference.onnx_schema import ATTRIBUTE_FIELDS, CONTROL_FLOW, DTYPES, SCHEMA
from device_client.inference.protobuf import Reader, Values
from device_client.limits import DEFAULT_LIMITS, Limits

_SEAL = object()
_STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
_ORT_FORMAT = b"ORTM"  # flatbuffer file identifier, bytes 4 to 8
_DATA_FIELDS = frozenset({"raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"})
_VALUE_FIELDS = frozenset(ATTRIBUTE_FIELDS.values())
_SUBGRAPHS = frozenset({"g", "graphs"})


@dataclass(frozen=True, slots=True)
class ValueSpec:
    """An input or output as the file declares it.

    ``dtype`` is a numpy-style name, or ``None`` where the value is not a dense tensor. ``shape`` has an integer per
    fixed dimension and a name (or ``""``) per dynamic one, and is ``None`` where the file gives no rank.
    """

    name: str
    dtype: str | None
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True)
class CheckedModel:
    """An ONNX file that the walker accepts. Made by ``check_model`` only; ``data`` is what the session gets."""

    data: bytes
    digest: Digest
    opset: int
    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("a CheckedModel comes from check_model()")


def check_model(
    data: bytes,
    *,
    features: Collection[str] = (),
    hashed: Digest | None = None,
    where: str = "model",
    limits: Limits = DEFAULT_LIMITS,
) -> CheckedModel:
    """Returns the model if its structure is on the allow-list.

    Args:
        data: the very bytes that the runtime will get; immutable, so that nothing changes after the check.
        features: what the signed contract names: ``domain:<operator domain>`` and ``control-flow:<operator>``.
        hashed: the digest of ``data`` where the caller had it from ``BlobStore.read``, which has just hashed these very bytes;
            otherwise they are hashed here. Large models: a second hash would cost as much as half the load.
        where: file or digest, for errors.
        limits: bounds on size, depth, number of fields, rank and dimension.

    Raises:
        FormatError: anything that the tables of ``onnx_schema.py`` do not list, or a rule of DESIGN 4 (codes ``model_*``).
        LimitError: beyond a bound.
    """
    if type(data) is not bytes:
        raise TypeError("check_model needs bytes")
    if len(data) > limits.max_model_bytes:
        raise LimitError(
            "model too large", code="model_too_large", where=where, expected=f"at most {limits.max_model_bytes}", actual=len(data)
        )
    if data[4:8] == _ORT_FORMAT:
        raise FormatError(
            "the file is also an ONNX Runtime (ORTM) model",
            code="model_ortm",
            where=where,
            hint="treat the publisher of this file as hostile",
        )
    rules = _Rules(data, features=features, where=where, limits=limits)
    inputs, outputs, opset = rules.read()
    return CheckedModel(data, hashed or Digest.of(data), opset, inputs, outputs, seal=_SEAL)


class _Rules:
    """One method per message that has a rule. Each returns, as a tuple, what the parent message needs to know."""

    def __init__(self, data: bytes, *, features: Collection[str], where: str, limits: Limits) -> None:
        self._size = len(data)
        self._features = frozenset(features)
        self._limits = limits
        self._inputs: tuple[ValueSpec, ...] = ()
        self._outputs: tuple[ValueSpec, ...] = ()
        self._standard_opset = 0
        checks = {
            "Model": self._model,
            "OperatorSet": self._operator_set,
            "Function": self._function,
            "Graph": self._graph,
            "Node": self._node,
            "Attribute": self._attribute,
            "Tensor": self._tensor,
            "SparseTensor": self._sparse_tensor,
            "ValueInfo": self._value_info,
            "Type": self._type,
            "TensorType": self._tensor_type,
            "Shape": self._shape,
            "Dimension": self._dimension,
        }
        self._reader = Reader(data, schema=SCHEMA, checks=checks, where=where, limits=limits)

    def read(self) -> tuple[tuple[ValueSpec, ...], tuple[ValueSpec, ...], int]:
        """Walks the whole file: inputs, outputs, version of the standard operator set."""
        self._reader.read("Model", 0, self._size)
        return self._inputs, self._outputs, self._standard_opset

    def _model(self, values: Values) -> tuple[()]:
        self._version(values, "ir_version")
        opset = self._opset(values)
        if "graph" not in values or opset is None:
            missing = "opset_import of the standard domain" if "graph" in values else "graph"
            raise self._reader.refusal("not a complete ONNX model", code="model_incomplete", expected=missing)
        self._standard_opset = opset
        return ()

    def _function(self, values: Values) -> tuple[()]:
        """A function may not take a standard operator's place: one reader would run it and another the operator."""
        domain = values.get("domain", "")
        if domain in _STANDARD_DOMAINS:
            raise self._reader.refusal("a function in the domain of the standard operators", code="model_domain")
        self._allow_domain(domain)
        self._opset(values)
        self._each_once([*values.get("input", ()), *values.get("node", ())])
        return ()

    def _opset(self, values: Values) -> int | None:
        """Version of the standard operator set; each domain is imported at most once."""
        # An import alone runs nothing, so a foreign domain is refused where a node or function uses it, not here.
        versions: dict[str, int] = {}
        for domain, version in values.get("opset_import", ()):
            name = "" if domain in _STANDARD_DOMAINS else domain
            if name in versions:
                raise self._reader.refusal(f"operator set '{shown(name)[:60]}' is imported twice", code="model_field_repeated")
            versions[name] = version
        return versions.get("")

    def _operator_set(self, values: Values) -> tuple[tuple[str, int]]:
        return ((values.get("domain", ""), self._version(values, "version")),)

    def _version(self, values: Values, name: str) -> int:
        """A version; a negative one, which readers compare in different ways, reads as a huge one here."""
        version: int = values.get(name, 0)
        if version >= 1 << 31:
            raise self._reader.limit(f"{name} out of range", code="model_syntax", actual=version)
        return version

    def _graph(self, values: Values) -> tuple[()]:
        """Each value has one origin. The main graph gives the model's outputs, and the inputs that a caller must give."""
        given = values.get("initializer", ())
        self._each_once([*given, *values.get("node", ())])
        if self._reader.path == ["graph"]:
            inputs, outputs = values.get("input", ()), values.get("output", ())
            for specs in (inputs, outputs):
                self._each_once([hash(spec.name) for spec in specs])
            asked = {hash(spec.name.encode()) for spec in inputs}
            asked.difference_update(given)
            self._inputs = tuple(spec for spec in inputs if hash(spec.name.encode()) in asked)
            self._outputs = tuple(outputs)
        return ()

    def _each_once(self, names: list[int]) -> None:
        """No two of a graph's weights and node outputs have one name, which readers would settle in different ways.

        The names are hashes of 64 bits under the process' random key: two that differ are taken for one another in less
        than one of 10^9 graphs of a hundred thousand names, and then the model is refused, never accepted.
        """
        names.sort()  # a set would take four times the memory
        if any(one == other != 0 for one, other in pairwise(names)):
            raise self._reader.refusal(
                "two values of one graph have the same name", code="model_ambiguous", hint="export the model again"
            )

    def _node(self, values: Values) -> tuple[int, ...]:
        """Operator domains and control flow must be on the signed list. Returns the names of the outputs."""
        domain, op_type = values.get("domain", ""), values.get("op_type", "")
        if domain:
            self._allow_domain(domain)
        attributes = values.get("attribute", ())
        is_standard = domain in _STANDARD_DOMAINS
        if is_standard and op_type == "Constant" and len(attributes) != 1:
            raise self._reader.refusal(
                "a Constant without exactly one value", code="model_ambiguous", expected=1, actual=len(attributes)
            )
        is_control_flow = True in attributes or (is_standard and op_type in CONTROL_FLOW)
        if is_control_flow and f"control-flow:{op_type}" not in self._features:
            raise self._reader.refusal(
                f"control flow '{shown(op_type)[:60]}' is not named in features",
                code="model_control_flow",
                hint="export the model without control flow, or name it in the contract's features",
            )
        return tuple(values.get("output", ()))

    def _allow_domain(self, domain: str) -> None:
        if domain not in _STANDARD_DOMAINS and f"domain:{domain}" not in self._features:
            raise self._reader.refusal(
                f"operator domain '{shown(domain)[:60]}' is not named in features",
                code="model_domain",
                hint="use standard ONNX operators, or name the domain in the contract's features",
            )

    def _attribute(self, values: Values) -> tuple[bool]:
        """One value, of the type that the attribute says. True if it is a subgraph."""
        present = _VALUE_FIELDS.intersection(values)
        named = ATTRIBUTE_FIELDS.get(values.get("type", 0))
        if present and (present != {named} or "ref_attr_name" in values):
            raise self._reader.refusal(
                "an attribute's value is not of its type, or not the only one",
                code="model_ambiguous",
                expected=named or "a type",
                actual=", ".join(sorted(present)),
            )
        return (not _SUBGRAPHS.isdisjoint(present),)

    def _tensor(self, values: Values) -> tuple[int]:
        """Data is inside the file, of a known type, and exactly as long as the dimensions say. Returns the name."""
        if values.get("data_location") or "external_data" in values:
            raise self._reader.refusal(
                "a tensor's data is in another file",
                code="model_external_data",
                hint="save the model with its weights inside (onnx.save_model(..., save_as_external_data=False))",
            )
        number = values.get("data_type", 0)
        dtype = DTYPES.get(number)
        if dtype is None:
            raise self._reader.refusal("unknown element type", code="model_dtype", actual=number)
        elements = self._elements(values.get("dims", ()), bits=dtype.bits)
        used = _DATA_FIELDS.intersection(values)
        if used == {"raw_data"} and dtype.name != "string":
            needed, found = -(-elements * dtype.bits // 8), values["raw_data"]
        elif used <= {dtype.field}:
            needed, found = -(-elements * dtype.entry_quarters // 4), values.get(dtype.field, 0)
        else:
            fields = ", ".join(sorted(used))
            raise self._reader.refusal("data in the wrong field", code="model_data_length", expected=dtype.field, actual=fields)
        if needed != found:
            raise self._reader.refusal(
                "data does not match its dimensions", code="model_data_length", expected=needed, actual=found
            )
        return (values.get("name", 0),)

    def _sparse_tensor(self, values: Values) -> tuple[()]:
        """Refused: of two entries for one place a runtime takes the last, and others add them up. No part of Sealift reads any."""
        del values
        raise self._reader.refusal("a sparse tensor", code="model_sparse", hint="save the model with dense tensors")

    def _value_info(self, values: Values) -> tuple[ValueSpec, ...]:
        """Kept for the main graph's inputs and outputs only."""
        if self._reader.path not in (["graph", "input"], ["graph", "output"]):
            return ()
        dtype, shape = values.get("type") or (None, None)
        return (ValueSpec(values.get("name", ""), dtype, shape),)

    def _type(self, values: Values) -> tuple[Any, ...]:
        """Passes a dense tensor's type on; other kinds have none. Two kinds at once are a broken ``oneof``."""
        if len(values.keys() - {"denotation"}) > 1:
            raise self._reader.refusal("a type of two kinds", code="model_field_repeated")
        kind: tuple[Any, ...] = values.get("tensor_type", ())
        return kind

    def _tensor_type(self, values: Values) -> tuple[str | None, tuple[int | str, ...] | None]:
        number = values.get("elem_type", 0)
        dtype = DTYPES.get(number)
        if dtype is None and number:
            raise self._reader.refusal("unknown element type", code="model_dtype", actual=number)
        shape = values.get("shape")
        self._elements((size for size in shape or () if isinstance(size, int)), bits=dtype.bits if dtype else 8)
        return (dtype.name if dtype else None), shape

    def _shape(self, values: Values) -> tuple[int | str, ...]:
        dims = values.get("dim", ())
        if len(dims) > self._limits.max_model_rank:
            raise self._reader.limit("too many dimensions", code="model_dims", expected=f"at most {self._limits.max_model_rank}")
        return tuple(dims)

    def _dimension(self, values: Values) -> tuple[int | str]:
        """A size, or the name of a dynamic dimension; both is a broken ``oneof``."""
        if "dim_value" in values and "dim_param" in values:
            raise self._reader.refusal("a dimension has a size and a name", code="model_field_repeated")
        return (values["dim_value"] if "dim_value" in values else values.get("dim_param", ""),)

    def _elements(self, dims: Iterable[int], *, bits: int) -> int:
        """Number of elements. A negative size reads as a huge one here; products are bounded by the model's bound."""
        product, empty = 1, False
        most = self._limits.max_model_bytes * 8 // max(bits, 8)
        for size in dims:
            if size > self._limits.max_model_dim:
                raise self._reader.limit(
                    "dimension out of range",
                    code="model_dims",
                    expected=f"0..{self._limits.max_model_dim}",
                    actual=size,
                    hint="give a dynamic dimension a name instead of a negative size",
                )
            if size == 0:  # left out of the product, so that [2^31, 2^31, 0] cannot hide an overflow in a parser
                empty = True
            else:
                product *= size
            if product > most:
                raise self._reader.limit(
                    "tensor too large", code="model_dims", expected=f"at most {self._limits.max_model_bytes} bytes"
                )
        return 0 if empty else product
