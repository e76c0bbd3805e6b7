"""The rules of reading a contract; ``contract.parse_contract`` is the way in.

Objects whose fields *restrict* (``requires``, ``golden``, tolerances, preprocessing steps, ``model``) are closed: an
unknown field there is refused, because ignoring it could accept what its writer meant to exclude. Objects that
*describe* (the contract itself, tensors, variants, ``expected``, ``budget``, ``lineage``) may carry fields that this
reader does not know. A later version that adds a restriction to those must also add a ``features`` entry.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Final, TypeVar, cast

from device_client.bundle.contract import (
    Budget,
    Contract,
    Expected,
    Golden,
    Lineage,
    ModelRef,
    Requires,
    TensorSpec,
    Tolerance,
    ToleranceKind,
    Variant,
)
from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.bundle.features import KNOWN_FEATURES
from device_client.bundle.fields import Fields, shown
from device_client.bundle.path import BundlePath, check_name
from device_client.bundle.preprocessing import MAX_STEPS, read_number, read_step
from device_client.bundle.strict_json import parse_strict
from device_client.errors import FormatError, LimitError
from device_client.limits import Limits

MAJOR: Final = 1
DTYPES: Final = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"}
)
MAX_TENSORS = 64
MAX_RANK = 32
MAX_VARIANTS = 32
MAX_PROBES = 65_536
_SCHEMA = re.compile(r"(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,4})\Z")
_DIMENSION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_TOOL_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,127}\Z")
T = TypeVar("T")


def read_contract(data: bytes, *, where: str, encodings: Collection[str], limits: Limits) -> Contract:
    """See ``contract.parse_contract``. Schema and features come first: they decide whether the rest means what we think."""
    fields = Fields(parse_strict(data, max_bytes=limits.max_contract_bytes, where=where, limits=limits), where=where)
    _check_schema(fields)
    known = KNOWN_FEATURES | {f"encoding:{name}" for name in encodings}
    features = fields.items("features", partial(_read_feature, known=known), max_items=64)
    _check_unique(features, what="feature", where=f"{where}.features")
    path = BundlePath(*(_name(fields, key) for key in ("line", "model", "version")))
    contract = Contract(
        line=path.line,
        model=path.model,
        version=path.version,
        counter=Counter.from_json(fields.raw("counter"), where=f"{where}.counter"),
        task=_name(fields, "task"),
        inputs=_read_tensors(fields, "inputs"),
        outputs=_read_tensors(fields, "outputs"),
        preprocessing=fields.items("preprocessing", read_step, max_items=MAX_STEPS),
        variants=fields.items("variants", _read_variant, max_items=MAX_VARIANTS),
        golden=_read_golden(fields.fields("golden", known=("layer", "count", "tolerances"))),
        budget=_read_budget(fields.fields("budget")),
        lineage=_read_lineage(fields.fields("lineage")),
        features=features,
    )
    _check_whole(contract, where=where)
    _check_model_sizes(contract, where=where, limits=limits)
    return contract


def _check_schema(fields: Fields) -> None:
    text = fields.text("schema", max_chars=16)
    match = _SCHEMA.match(text)
    if not match or int(match[1]) != MAJOR:
        raise FormatError(
            "unknown schema",
            code="schema_unknown",
            where=f"{fields.where}.schema",
            expected=f"{MAJOR}.<minor>",
            actual=repr(text),
            hint="update the device software, or release the bundle in a schema that the fleet reads",
        )


def _read_feature(value: object, where: str, *, known: Collection[str]) -> str:
    if not isinstance(value, str) or value not in known:
        raise FormatError(
            "unknown feature",
            code="feature_unknown",
            where=where,
            actual=repr(value)[:80],
            hint="update the device software, or release the bundle without this feature",
        )
    return value


def _read_tensors(fields: Fields, key: str) -> tuple[TensorSpec, ...]:
    found = fields.items(key, _read_tensor, max_items=MAX_TENSORS)
    if not found:
        raise FormatError("empty list", code="field_value", where=f"{fields.where}.{key}", expected="at least one tensor")
    _check_unique([spec.name for spec in found], what="tensor name", where=f"{fields.where}.{key}")
    return found


def _read_tensor(value: object, where: str) -> TensorSpec:
    fields = Fields(value, where=where)
    name = fields.text("name", max_chars=128)
    if not name or not name.isprintable():
        raise FormatError("not a tensor name", code="field_value", where=f"{where}.name", actual=ascii(name)[:80])
    return TensorSpec(
        name=name,
        dtype=fields.text("dtype", choices=sorted(DTYPES)),
        shape=fields.items("shape", _read_dimension, max_items=MAX_RANK),
        meaning=fields.text("meaning", max_chars=512),
        range=_read_interval(fields, "range") if "range" in fields else None,
    )


def _read_dimension(value: object, where: str) -> int | str:
    if type(value) is int and 1 <= value < 2**31:
        return value
    if isinstance(value, str) and _DIMENSION.match(value):
        return value
    raise FormatError("not a dimension", code="field_value", where=where, expected="1..2^31-1 or a name", actual=repr(value)[:80])


def _read_interval(fields: Fields, key: str) -> tuple[float, float]:
    values = fields.items(key, read_number, max_items=2)
    if len(values) != 2 or values[0] > values[1]:
        raise FormatError("not an interval", code="field_value", where=f"{fields.where}.{key}", expected="[low, high]")
    return values[0], values[1]


def _read_variant(value: object, where: str) -> Variant:
    fields = Fields(value, where=where)
    return Variant(
        id=_name(fields, "id"),
        runtime=_name(fields, "runtime"),
        format=_name(fields, "format"),
        opset=fields.integer("opset", maximum=10_000),
        precision=_name(fields, "precision"),
        layer=_digest(fields, "layer"),
        model=_read_model(fields.fields("model", known=("digest", "size"))),
        requires=_read_requires(fields.fields("requires", known=("arch", "cpu_features", "ram_bytes", "providers"))),
        expected=_read_expected(fields.fields("expected")),
    )


def _read_model(fields: Fields) -> ModelRef:
    return ModelRef(_digest(fields, "digest"), fields.integer("size", minimum=1))


def _read_requires(fields: Fields) -> Requires:
    lists = {name: fields.items(name, _read_token, max_items=64) for name in ("arch", "cpu_features", "providers")}
    for name, values in lists.items():
        _check_unique(values, what="entry", where=f"{fields.where}.{name}")
    return Requires(ram_bytes=fields.integer("ram_bytes"), **lists)


def _read_expected(fields: Fields) -> Expected:
    return Expected(_name(fields, "metric"), fields.number("value"), _read_interval(fields, "interval"))


def _read_golden(fields: Fields) -> Golden:
    tolerances = fields.mapping("tolerances", _read_tolerance, max_items=MAX_VARIANTS)
    return Golden(_digest(fields, "layer"), fields.integer("count", minimum=1, maximum=MAX_PROBES), _pairs(tolerances))


def _read_tolerance(value: object, where: str) -> Tolerance:
    fields = Fields(value, where=where, known=("kind", "value"))
    kind = cast("ToleranceKind", fields.text("kind", choices=("exact", "one_lsb", "absolute")))
    tolerance = Tolerance(kind, fields.number("value"))
    if tolerance.value < 0 or (tolerance.value == 0) != (kind == "exact"):
        raise FormatError(
            "tolerance does not fit its kind",
            code="field_value",
            where=where,
            expected="0 for exact, above 0 otherwise",
            actual=f"{kind} {tolerance.value}",
        )
    return tolerance


def _read_budget(fields: Fields) -> Budget:
    latency_ms = fields.mapping("latency_ms", _read_positive, max_items=64) if "latency_ms" in fields else {}
    for device_class in latency_ms:
        check_name(device_class, what="device class", where=f"{fields.where}.latency_ms")
    ratio = _read_positive(fields.raw("latency_ratio"), f"{fields.where}.latency_ratio") if "latency_ratio" in fields else None
    budget = Budget(fields.number("accuracy_drop"), fields.integer("ram_bytes"), _pairs(latency_ms), ratio)
    if not 0 <= budget.accuracy_drop <= 1:
        raise FormatError("out of range", code="field_value", where=f"{fields.where}.accuracy_drop", expected="0..1")
    if not budget.latency_ms and budget.latency_ratio is None:
        raise FormatError("no latency budget", code="field_missing", where=fields.where, expected="latency_ms or latency_ratio")
    return budget


def _read_positive(value: object, where: str) -> float:
    number = read_number(value, where)
    if number <= 0:
        raise FormatError("out of range", code="field_value", where=where, expected="above 0", actual=number)
    return number


def _read_lineage(fields: Fields) -> Lineage:
    datasets = fields.mapping("datasets", _read_digest, max_items=64)
    tools = fields.mapping("tools", _read_tool_version, max_items=64)
    for key, names in (("datasets", datasets.keys()), ("tools", tools.keys())):
        for name in names:
            check_name(name, what="name", where=f"{fields.where}.{key}")
    return Lineage(_digest(fields, "source"), _digest(fields, "recipe"), _pairs(datasets), _pairs(tools))


def _read_digest(value: object, where: str) -> Digest:
    return Digest.parse(value, where=where)


def _read_tool_version(value: object, where: str) -> str:
    if not isinstance(value, str) or not _TOOL_VERSION.match(value):
        raise FormatError("not a tool version", code="field_value", where=where, actual=ascii(value)[:80])
    return value


def _read_token(value: object, where: str) -> str:
    if not isinstance(value, str) or not _TOKEN.match(value):
        raise FormatError(
            "not a token", code="field_value", where=where, expected="1 to 64 of [A-Za-z0-9._-]", actual=ascii(value)[:80]
        )
    return value


def _check_whole(contract: Contract, *, where: str) -> None:
    """What holds between fields of one contract."""
    ids = [variant.id for variant in contract.variants]
    if not ids:
        raise FormatError("empty list", code="field_value", where=f"{where}.variants", expected="at least one variant")
    _check_unique(ids, what="variant id", where=f"{where}.variants")
    _check_unique([variant.layer.hex for variant in contract.variants], what="layer", where=f"{where}.variants")
    _check_unique([variant.model.digest.hex for variant in contract.variants], what="model", where=f"{where}.variants")
    if {name for name, _ in contract.golden.tolerances} != set(ids):
        raise FormatError(
            "golden tolerances do not name exactly the variants",
            code="golden_mismatch",
            where=f"{where}.golden.tolerances",
            expected=" ".join(sorted(ids)),
            actual=" ".join(shown(name) for name, _ in contract.golden.tolerances)[:200],
        )
    inputs = {spec.name for spec in contract.inputs}
    for index, step in enumerate(contract.preprocessing):
        if step.input not in inputs:
            raise FormatError(
                "preprocessing of an unknown input",
                code="field_value",
                where=f"{where}.preprocessing[{index}]",
                actual=shown(step.input),
            )


def _check_model_sizes(contract: Contract, *, where: str, limits: Limits) -> None:
    """The signed size bounds what a decoder may write, so it is bounded itself."""
    for variant in contract.variants:
        if variant.model.size > limits.max_model_bytes:
            raise LimitError(
                f"model of variant {variant.id} too large",
                code="too_large",
                where=where,
                expected=f"at most {limits.max_model_bytes} bytes",
                actual=variant.model.size,
            )


def _check_unique(values: Iterable[str], *, what: str, where: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise FormatError(f"{what} listed twice", code="entry_duplicate", where=where, actual=shown(value))
        seen.add(value)


def _name(fields: Fields, key: str) -> str:
    return check_name(fields.raw(key), what=key, where=f"{fields.where}.{key}")


def _digest(fields: Fields, key: str) -> Digest:
    return Digest.parse(fields.raw(key), where=f"{fields.where}.{key}")


def _pairs(values: Mapping[str, T]) -> tuple[tuple[str, T], ...]:
    return tuple(sorted(values.items(), key=lambda item: item[0]))
