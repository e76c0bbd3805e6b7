"""Reads an ONNX file's structure before any runtime does, and refuses what could run more than the hashed bytes.

Sits in front of every session: at pack, audit, admission, install and load. onnxruntime follows references to
other files even when it is given bytes, takes an ``ORTM`` file for a model of its own format, and merges a repeated
``graph`` (DESIGN 4, "Load path"); none of that gets past here. Standard library only, no onnx package; touches
tensor data by its length alone.

    model = check_model(data, features=contract.features)   # CheckedModel, or a VerificationError
    session = open_session(model)

It deliberately does *not* check that the graph is a valid or a harmless computation: types, shapes and cost show in
the self-test's child process, which has limits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import InitVar, dataclass

from device_client.bundle.digest import Digest
from device_client.errors import FormatError, LimitError
from device_client.inference.onnx_schema import CONTROL_FLOW, DTYPES, SCHEMA
from device_client.inference.protobuf import Reader, Values
from device_client.limits import DEFAULT_LIMITS, Limits

_SEAL = object()
_STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
_ORT_FORMAT = b"ORTM"  # flatbuffer file identifier, bytes 4 to 8
_DATA_FIELDS = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


@dataclass(frozen=True)
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
    data: bytes, *, features: Collection[str] = (), where: str = "model", limits: Limits = DEFAULT_LIMITS
) -> CheckedModel:
    """Returns the model if its structure is on the allow-list.

    Args:
        data: the very bytes that the runtime will get; immutable, so that nothing changes after the check.
        features: what the signed contract names: ``domain:<operator domain>`` and ``control-flow:<operator>``.
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
    return CheckedModel(data, Digest.of(data), opset, inputs, outputs, seal=_SEAL)


@dataclass(frozen=True)
class _Tensor:
    """What a sparse tensor needs to know of its parts, and a graph of its initialisers."""

    name: str
    bits: int
    elements: int


@dataclass(frozen=True)
class _OperatorSet:
    domain: str
    version: int


class _Rules:
    """One method per message that has a rule. Each returns what the parent message needs to know."""

    def __init__(self, data: bytes, *, features: Collection[str], where: str, limits: Limits) -> None:
        self._size = len(data)
        self._features = frozenset(features)
        self._limits = limits
        self._inputs: tuple[ValueSpec, ...] = ()
        self._outputs: tuple[ValueSpec, ...] = ()
        self._standard_opset = 0
        self._dense_bytes = 0  # what all sparse tensors become when a runtime densifies them
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

    def _model(self, values: Values) -> None:
        opset = self._opset(values)
        if "graph" not in values.first or opset is None:
            missing = "opset_import of the standard domain" if "graph" in values.first else "graph"
            raise self._reader.refusal("not a complete ONNX model", code="model_incomplete", expected=missing)
        self._standard_opset = opset

    def _function(self, values: Values) -> None:
        """A function may not take a standard operator's place: one reader would run it and another the operator."""
        domain = values.text("domain")
        if domain in _STANDARD_DOMAINS:
            raise self._reader.refusal(
                f"a function named like a standard operator: {values.text('name')[:60]}", code="model_domain"
            )
        self._allow_domain(domain)
        self._opset(values)

    def _opset(self, values: Values) -> int | None:
        """Version of the standard operator set; each domain is imported at most once."""
        # An import alone runs nothing, so a foreign domain is refused where a node or function uses it, not here.
        versions: dict[str, int] = {}
        for item in values.kept.get("opset_import", []):
            if isinstance(item, _OperatorSet):
                name = "" if item.domain in _STANDARD_DOMAINS else item.domain
                if name in versions:
                    raise self._reader.refusal(f"operator set '{name[:60]}' is imported twice", code="model_field_repeated")
                versions[name] = item.version
        return versions.get("")

    def _operator_set(self, values: Values) -> _OperatorSet:
        version = values.integer("version")
        if version >= 1 << 31:
            raise self._reader.limit("operator set version out of range", code="model_syntax", actual=version)
        return _OperatorSet(values.text("domain"), version)

    def _graph(self, values: Values) -> bool:
        """The main graph gives the model's outputs, and the inputs that a caller must give: those without initialiser."""
        if self._reader.path == ["graph"]:
            tensors = values.kept.get("initializer", []) + values.kept.get("sparse_initializer", [])
            initialised = {item.name for item in tensors if isinstance(item, _Tensor)}
            inputs = [item for item in values.kept.get("input", []) if isinstance(item, ValueSpec)]
            self._inputs = tuple(item for item in inputs if item.name not in initialised)
            self._outputs = tuple(item for item in values.kept.get("output", []) if isinstance(item, ValueSpec))
        return True

    def _node(self, values: Values) -> None:
        """Operator domains and control flow must be on the signed list."""
        domain, op_type = values.text("domain"), values.text("op_type")
        self._allow_domain(domain)
        runs_subgraph = True in values.kept.get("attribute", [])
        is_control_flow = runs_subgraph or (domain in _STANDARD_DOMAINS and op_type in CONTROL_FLOW)
        if is_control_flow and f"control-flow:{op_type}" not in self._features:
            raise self._reader.refusal(
                f"control flow '{op_type[:60]}' is not named in features",
                code="model_control_flow",
                hint="export the model without control flow, or name it in the contract's features",
            )

    def _allow_domain(self, domain: str) -> None:
        if domain not in _STANDARD_DOMAINS and f"domain:{domain}" not in self._features:
            raise self._reader.refusal(
                f"operator domain '{domain[:60]}' is not named in features",
                code="model_domain",
                hint="use standard ONNX operators, or name the domain in the contract's features",
            )

    def _attribute(self, values: Values) -> bool:
        """True if the attribute holds a subgraph."""
        return "g" in values.first or values.count.get("graphs", 0) > 0

    def _tensor(self, values: Values) -> _Tensor:
        """Data is inside the file, of a known type, and exactly as long as the dimensions say."""
        if values.integer("data_location") or values.count.get("external_data", 0):
            raise self._reader.refusal(
                "a tensor's data is in another file",
                code="model_external_data",
                hint="save the model with its weights inside (onnx.save_model(..., save_as_external_data=False))",
            )
        number = values.integer("data_type")
        dtype = DTYPES.get(number)
        if dtype is None:
            raise self._reader.refusal("unknown element type", code="model_dtype", actual=number)
        elements = self._elements(values.kept.get("dims", []), bits=dtype.bits)
        used = {name for name in _DATA_FIELDS if values.count.get(name, 0)}
        if used == {"raw_data"} and dtype.name != "string":
            needed, found = -(-elements * dtype.bits // 8), values.count["raw_data"]
        elif used <= {dtype.field}:
            needed, found = -(-elements * dtype.entry_quarters // 4), values.count.get(dtype.field, 0)
        else:
            fields = ", ".join(sorted(used))
            raise self._reader.refusal("data in the wrong field", code="model_data_length", expected=dtype.field, actual=fields)
        if needed != found:
            raise self._reader.refusal(
                "data does not match its dimensions", code="model_data_length", expected=needed, actual=found
            )
        return _Tensor(values.text("name"), dtype.bits, elements)

    def _sparse_tensor(self, values: Values) -> _Tensor:
        """The dense form must fit too: a runtime makes it in memory."""
        content, indices = values.first.get("values"), values.first.get("indices")
        if not isinstance(content, _Tensor) or not isinstance(indices, _Tensor):
            raise self._reader.refusal("sparse tensor without values or indices", code="model_incomplete")
        elements = self._elements(values.kept.get("dims", []), bits=content.bits)
        self._dense_bytes += elements * max(content.bits, 8) // 8
        if self._dense_bytes > self._limits.max_model_bytes:
            raise self._reader.limit("sparse tensors too large once dense", code="model_dims", actual=f"{self._dense_bytes} bytes")
        return _Tensor(content.name, content.bits, elements)

    def _value_info(self, values: Values) -> ValueSpec | None:
        """Kept for the main graph's inputs and outputs only."""
        if self._reader.path not in (["graph", "input"], ["graph", "output"]):
            return None
        found = values.first.get("type")
        dtype, shape = found if isinstance(found, tuple) else (None, None)
        return ValueSpec(values.text("name"), dtype, shape)

    def _type(self, values: Values) -> object:
        """Passes a dense tensor's type on; other kinds have none. Two kinds at once are a broken ``oneof``."""
        if len(values.first.keys() - {"denotation"}) > 1:
            raise self._reader.refusal("a type of two kinds", code="model_field_repeated")
        return values.first.get("tensor_type")

    def _tensor_type(self, values: Values) -> tuple[str | None, tuple[int | str, ...] | None]:
        dtype = DTYPES.get(values.integer("elem_type"))
        shape = values.first.get("shape")
        if not isinstance(shape, tuple):
            return (dtype.name if dtype else None), None
        self._elements((size for size in shape if isinstance(size, int)), bits=dtype.bits if dtype else 8)
        return (dtype.name if dtype else None), shape

    def _shape(self, values: Values) -> tuple[object, ...]:
        if values.count.get("dim", 0) > self._limits.max_model_rank:
            raise self._reader.limit("too many dimensions", code="model_dims", expected=f"at most {self._limits.max_model_rank}")
        return tuple(values.kept.get("dim", []))

    def _dimension(self, values: Values) -> int | str:
        """A size, or the name of a dynamic dimension; both is a broken ``oneof``."""
        if "dim_value" in values.first and "dim_param" in values.first:
            raise self._reader.refusal("a dimension has a size and a name", code="model_field_repeated")
        return values.integer("dim_value") if "dim_value" in values.first else values.text("dim_param")

    def _elements(self, dims: Iterable[object], *, bits: int) -> int:
        """Number of elements. A negative size reads as a huge one here; products are bounded by the model's bound."""
        product, empty = 1, False
        for size in dims:
            if not isinstance(size, int) or size > self._limits.max_model_dim:
                raise self._reader.limit(
                    "dimension out of range",
                    code="model_dims",
                    expected=f"0..{self._limits.max_model_dim}",
                    actual=size,
                    hint="give a dynamic dimension a name instead of a negative size",
                )
            empty = empty or size == 0
            # Zero sizes are left out of the product, so that [2^31, 2^31, 0] cannot hide an overflow in a parser.
            product *= size or 1
            if product * max(bits, 8) // 8 > self._limits.max_model_bytes:
                raise self._reader.limit(
                    "tensor too large", code="model_dims", expected=f"at most {self._limits.max_model_bytes} bytes"
                )
        return 0 if empty else product
