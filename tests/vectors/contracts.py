"""Vectors of contracts."""

from __future__ import annotations

from .documents import (
    MODEL_A,
    MODEL_B,
    Edit,
    append,
    both,
    canonical,
    contract,
    digest,
    drop,
    edited,
    put,
    small_contract,
    variant,
    vector,
)


def contract_vectors() -> dict[str, bytes]:
    base = small_contract()
    found = {
        "ok-two-variants": vector("ok", "two variants, every optional field", canonical(contract())),
        "duplicate-key": vector("json_syntax", "a key occurs twice", canonical(base)[:-1] + b',"features":[]}'),
        "huge-integer": vector("json_syntax", "beyond 2^53-1, readers would round differently", b'{"schema":9007199254740993}'),
        "deep-nesting": vector("too_deep", "nested 33 levels", b'{"a":' + b"[" * 32 + b"]" * 32 + b"}"),
    }
    second = variant("fp32", MODEL_B, "float32")
    tolerance = {"kind": "absolute", "value": 0.0001}
    two = both(append("variants", item=second), put("golden", "tolerances", "fp32", to=tolerance))
    edits: dict[str, tuple[str, str, Edit]] = {
        "ok": ("ok", "one variant, every optional field", lambda value: None),
        "ok-minor": ("ok", "a later minor version", put("schema", to="1.7")),
        "ok-unknown-optional": (
            "ok",
            "unknown fields where the contract describes",
            both(
                put("homepage", to="x"),
                put("variants", 0, "note", to="x"),
                put("budget", "energy_mj", to=1),
                put("lineage", "git", to="x"),
                put("inputs", 0, "unit", to="1"),
                put("variants", 0, "expected", "n", to=360),
            ),
        ),
        "ok-features": ("ok", "features that version 1.0 knows", put("features", to=["domain:com.microsoft", "control-flow:If"])),
        "ok-least": (
            "ok",
            "one variant, every optional field absent",
            both(
                put("preprocessing", to=[]),
                drop("inputs", 0, "range"),
                drop("budget", "latency_ms"),
                put("variants", 0, "requires", to={"arch": [], "cpu_features": [], "ram_bytes": 0, "providers": []}),
                put("lineage", "datasets", to={}),
                put("lineage", "tools", to={}),
            ),
        ),
        "ok-normalise": (
            "ok",
            "normalisation by channel",
            put("preprocessing", to=[{"op": "normalise", "input": "x", "axis": 1, "mean": [0.5], "std": [0.25]}]),
        ),
        "ok-epoch": ("ok", "the largest counter", put("counter", to=[2**31 - 1, 2**31 - 1])),
        "major-2": ("schema_unknown", "another major version", put("schema", to="2.0")),
        "major-0": ("schema_unknown", "another major version", put("schema", to="0.9")),
        "schema-number": ("field_type", "schema is a number", put("schema", to=1.0)),
        "schema-patch": ("schema_unknown", "three parts", put("schema", to="1.0.0")),
        "no-schema": ("field_missing", "schema is absent", drop("schema")),
        "feature-unknown": ("feature_unknown", "a feature that nobody defined", put("features", to=["sandbox:strict"])),
        "feature-encoding": ("feature_unknown", "the feature of a reserved encoding", put("features", to=["encoding:zstd"])),
        "feature-twice": ("entry_duplicate", "a feature listed twice", put("features", to=["control-flow:If", "control-flow:If"])),
        "feature-number": ("feature_unknown", "a feature that is no string", put("features", to=[1])),
        "no-features": ("field_missing", "features are absent", drop("features")),
        "counter-equals-limit": ("counter_syntax", "n is 2^31", put("counter", to=[0, 2**31])),
        "counter-negative": ("counter_syntax", "n is negative", put("counter", to=[0, -1])),
        "counter-number": ("counter_syntax", "a plain number", put("counter", to=7)),
        "counter-fraction": ("counter_syntax", "n has a fraction", put("counter", to=[0, 7.0])),
        "counter-true": ("counter_syntax", "a boolean as epoch", put("counter", to=[True, 7])),
        "counter-three": ("counter_syntax", "three parts", put("counter", to=[0, 7, 0])),
        "version-channel": ("name_syntax", "the reserved word channel as version", put("version", to="channel")),
        "version-climbs": ("name_syntax", "two dots in a row", put("version", to="1..2")),
        "model-upper-case": ("name_syntax", "upper case, which some file systems fold", put("model", to="Digits")),
        "model-slash": ("name_syntax", "a path separator", put("model", to="a/b")),
        "line-long": ("name_syntax", "65 characters", put("line", to="a" * 65)),
        "line-empty": ("name_syntax", "an empty name", put("line", to="")),
        "no-inputs": ("field_value", "no input", put("inputs", to=[])),
        "input-twice": ("entry_duplicate", "two inputs of one name", lambda value: value["inputs"].append(value["inputs"][0])),
        "input-control-character": ("field_value", "a terminal escape in a tensor name", put("inputs", 0, "name", to="x\x1b[2J")),
        "dtype-unknown": ("field_value", "an element type that the format does not have", put("inputs", 0, "dtype", to="object")),
        "shape-zero": ("field_value", "an empty dimension", put("inputs", 0, "shape", to=["batch", 0])),
        "shape-negative": ("field_value", "a dimension of -1 instead of a name", put("inputs", 0, "shape", to=[-1, 64])),
        "shape-huge": ("field_value", "a dimension of 2^31", put("inputs", 0, "shape", to=[2**31])),
        "shape-rank": ("too_many", "33 dimensions", put("inputs", 0, "shape", to=[1] * 33)),
        "range-reversed": ("field_value", "low above high", put("inputs", 0, "range", to=[1.0, 0.0])),
        "range-one-sided": ("field_value", "one bound", put("inputs", 0, "range", to=[0.0])),
        "preprocessing-unknown": (
            "field_value",
            "an operation that the format does not have",
            put("preprocessing", 0, "op", to="python"),
        ),
        "preprocessing-extra-field": (
            "field_unknown",
            "a parameter that a reader would skip",
            put("preprocessing", 0, "clamp", to=True),
        ),
        "preprocessing-other-input": ("field_value", "names no input", put("preprocessing", 0, "input", to="y")),
        "preprocessing-std-zero": (
            "field_value",
            "division by zero",
            put("preprocessing", to=[{"op": "normalise", "input": "x", "axis": 1, "mean": [0.5], "std": [0.0]}]),
        ),
        "no-variants": ("field_value", "no variant", put("variants", to=[])),
        "variant-twice": ("entry_duplicate", "two variants of one id", both(two, put("variants", 1, "id", to="int8-static"))),
        "variant-same-layer": (
            "entry_duplicate",
            "two variants of one layer",
            both(two, put("variants", 1, "layer", to=digest(MODEL_A))),
        ),
        "variant-same-model": (
            "entry_duplicate",
            "two variants of the same bytes, which one verdict would cover",
            both(two, put("variants", 1, "model", to={"digest": digest(MODEL_A), "size": len(MODEL_A)})),
        ),
        "model-size-missing": ("field_missing", "the size of the runtime's bytes is absent", drop("variants", 0, "model", "size")),
        "model-too-large": ("too_large", "a model beyond 2 GiB", put("variants", 0, "model", "size", to=2**31 + 1)),
        "model-extra-field": ("field_unknown", "an unknown field in a closed object", put("variants", 0, "model", "url", to="x")),
        "requires-unknown": (
            "field_unknown",
            "a requirement that this reader would ignore",
            put("variants", 0, "requires", "npu", to="v2"),
        ),
        "requires-missing": ("field_missing", "a variant without requirements", drop("variants", 0, "requires")),
        "requires-number": ("field_type", "a list instead of a number", put("variants", 0, "requires", "ram_bytes", to=[])),
        "expected-interval-reversed": ("field_value", "low above high", put("variants", 0, "expected", "interval", to=[0.9, 0.8])),
        "golden-missing": ("field_missing", "no golden probes", drop("golden")),
        "golden-no-probes": ("field_value", "zero probes", put("golden", "count", to=0)),
        "golden-tolerance-missing": ("golden_mismatch", "a variant without tolerance", drop("golden", "tolerances", "int8-static")),
        "golden-tolerance-stray": (
            "golden_mismatch",
            "a tolerance of no variant",
            put("golden", "tolerances", "fp16", to={"kind": "exact", "value": 0.0}),
        ),
        "golden-tolerance-unknown": (
            "field_value",
            "a kind that the format does not have",
            put("golden", "tolerances", "int8-static", "kind", to="relative"),
        ),
        "golden-tolerance-exact-nonzero": (
            "field_value",
            "exact, yet with a difference",
            put("golden", "tolerances", "int8-static", to={"kind": "exact", "value": 0.5}),
        ),
        "golden-tolerance-zero": (
            "field_value",
            "absolute with no difference",
            put("golden", "tolerances", "int8-static", "value", to=0),
        ),
        "golden-extra-field": ("field_unknown", "an unknown field in a closed object", put("golden", "skip", to=True)),
        "budget-drop-above-one": ("field_value", "more than all of the accuracy", put("budget", "accuracy_drop", to=1.5)),
        "budget-no-latency": (
            "field_missing",
            "neither milliseconds nor a ratio",
            both(drop("budget", "latency_ms"), drop("budget", "latency_ratio")),
        ),
        "budget-latency-zero": ("field_value", "zero milliseconds", put("budget", "latency_ms", "pi4", to=0)),
        "lineage-no-source": ("field_missing", "no source digest", drop("lineage", "source")),
        "lineage-source-text": ("digest_syntax", "a name instead of a digest", put("lineage", "source", to="model.onnx")),
        "lineage-tool-control-character": (
            "field_value",
            "a terminal escape in a version",
            put("lineage", "tools", to={"x": "1\x1b[2J"}),
        ),
    }
    return found | {name: vector(expect, about, edited(base, edit)) for name, (expect, about, edit) in edits.items()}
