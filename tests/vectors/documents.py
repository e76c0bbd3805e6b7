"""The good documents that every vector starts from, and edits that give them one defect. Standard library only."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
Edit = Callable[[Json], None]


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


MODEL_A = b"not a real model: the bytes that the runtime would get for variant int8-static\n"
MODEL_B = b"not a real model: the bytes that the runtime would get for variant fp32\n"
GOLDEN = b"not real probes: the reader of the format looks only at digest and size\n"
CARD = b"# Digits\n\nA model card is text that nobody checked.\n"
REPORT = b'{"chosen":"int8-static"}'


def requires() -> Json:
    return {"arch": ["x86_64", "aarch64"], "cpu_features": ["avx2"], "ram_bytes": 50_000_000, "providers": ["CPUExecutionProvider"]}


def variant(name: str, data: bytes, precision: str) -> Json:
    return {
        "id": name,
        "runtime": "onnxruntime",
        "format": "onnx",
        "opset": 21,
        "precision": precision,
        "layer": digest(data),
        "model": {"digest": digest(data), "size": len(data)},
        "requires": requires(),
        "expected": {"metric": "accuracy", "value": 0.97, "interval": [0.95, 0.985]},
    }


def small_contract() -> Json:
    """One variant, every optional field: what most contract vectors start from."""
    found = contract()
    del found["variants"][1], found["golden"]["tolerances"]["fp32"]
    return found


def contract() -> Json:
    """Two variants, every optional field."""
    return {
        "schema": "1.0",
        "line": "clinic",
        "model": "digits",
        "version": "1.4.0",
        "counter": [0, 7],
        "task": "image-classification",
        "inputs": [
            {
                "name": "x",
                "dtype": "float32",
                "shape": ["batch", 1, 8, 8],
                "meaning": "grey levels, row by row",
                "range": [0.0, 1.0],
            }
        ],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 10], "meaning": "one score per digit"}],
        "preprocessing": [
            {"op": "scale", "input": "x", "factor": 0.0625, "offset": 0.0},
            {"op": "clip", "input": "x", "minimum": 0.0, "maximum": 1.0},
        ],
        "variants": [variant("int8-static", MODEL_A, "int8"), variant("fp32", MODEL_B, "float32")],
        "golden": {
            "layer": digest(GOLDEN),
            "count": 16,
            "tolerances": {"int8-static": {"kind": "one_lsb", "value": 0.125}, "fp32": {"kind": "absolute", "value": 0.0001}},
        },
        "budget": {"accuracy_drop": 0.01, "ram_bytes": 50_000_000, "latency_ms": {"pi4": 20.0}, "latency_ratio": 1.0},
        "lineage": {
            "source": digest(b"source model"),
            "recipe": digest(b"recipe"),
            "datasets": {"calibration": digest(b"calibration data")},
            "tools": {"onnxruntime": "1.32.0", "sealift": "0.1.0"},
        },
        "features": [],
    }


def descriptor(media_type: str, data: bytes, **annotations: str) -> Json:
    found: Json = {"mediaType": media_type, "digest": digest(data), "size": len(data)}
    if annotations:
        found["annotations"] = {f"org.sealift.{name}": value for name, value in annotations.items()}
    return found


WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
DOC = "application/vnd.cncf.model.doc.v1.raw"


def layers(contract_bytes: bytes) -> list[Json]:
    return [
        descriptor("application/vnd.sealift.contract.v1+json", contract_bytes),
        descriptor(WEIGHT, MODEL_A, variant="int8-static"),
        descriptor(WEIGHT, MODEL_B, variant="fp32"),
        descriptor("application/vnd.sealift.golden.v1+safetensors", GOLDEN),
        descriptor(DOC, CARD),
        descriptor("application/vnd.sealift.compression-report.v1+json", REPORT),
    ]


def config(contract_bytes: bytes) -> Json:
    return {
        "descriptor": {"name": "digits", "version": "1.4.0", "family": "clinic"},
        "config": {"format": "onnx", "precision": "mixed"},
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers(contract_bytes)]},
    }


def manifest(contract_bytes: bytes, config_bytes: bytes) -> Json:
    return {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.cncf.model.manifest.v1+json",
        "config": descriptor("application/vnd.cncf.model.config.v1+json", config_bytes),
        "layers": layers(contract_bytes),
    }


def edited(value: Json, edit: Edit) -> bytes:
    changed = copy.deepcopy(value)
    edit(changed)
    return canonical(changed)


def put(*path: str | int, to: object) -> Edit:
    """An edit that sets one place."""

    def edit(value: Json) -> None:
        at: Any = value
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = copy.deepcopy(to)

    return edit


def drop(*path: str | int) -> Edit:
    """An edit that removes one place."""

    def edit(value: Json) -> None:
        at: Any = value
        for step in path[:-1]:
            at = at[step]
        del at[path[-1]]

    return edit


def both(*edits: Edit) -> Edit:
    """Several edits in order."""

    def edit(value: Json) -> None:
        for each in edits:
            each(value)

    return edit


def append(*path: str | int, item: object) -> Edit:
    """An edit that appends to an array."""

    def edit(value: Json) -> None:
        at: Any = value
        for step in path:
            at = at[step]
        at.append(copy.deepcopy(item))

    return edit


def vector(expect: str, about: str, body: bytes) -> bytes:
    return f"expect: {expect}\nabout: {about}\n\n".encode() + body
