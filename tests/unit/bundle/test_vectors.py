"""Runs every file of ``tests/vectors`` through the reader; the files are the specification for other readers, too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from device_client.bundle import (
    KNOWN_FEATURES,
    KNOWN_LAYER_TYPES,
    BundlePath,
    Counter,
    Digest,
    LayoutDirectory,
    parse_config,
    parse_contract,
    parse_manifest,
    verify_bundle,
)
from device_client.errors import VerificationError
from device_client.install.codebook_decoder import CodebookDecoder
from tests.vectors.generate import HERE, all_vectors

VECTORS = sorted(HERE.glob("*/*.vec"))
READERS = {"manifest": parse_manifest, "contract": parse_contract, "config": parse_config}


def test_regenerating_gives_the_same_files() -> None:
    assert {str(path.relative_to(HERE)): path.read_bytes() for path in VECTORS} == all_vectors()


def test_vectors_stay_small() -> None:
    assert sum(path.stat().st_size for path in VECTORS) < 400 * 1024


def test_the_document_explains_every_code_and_feature() -> None:
    text = (HERE.parent.parent / "docs" / "bundle-format.md").read_text(encoding="utf-8")
    codes = {path.read_bytes().split(b"\n", 1)[0].decode().removeprefix("expect: ") for path in VECTORS} - {"ok"}
    assert not {word for word in codes | KNOWN_FEATURES | KNOWN_LAYER_TYPES if f"`{word}`" not in text}


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_vector_is_read_as_it_says(path: Path, tmp_path: Path) -> None:
    header, body = path.read_bytes().split(b"\n\n", 1)
    expect = header.decode().splitlines()[0].removeprefix("expect: ")
    assert (expect == "ok") == path.stem.startswith("ok")
    assert _read(path.parent.name, body, tmp_path) == expect


def _read(kind: str, body: bytes, folder: Path) -> str:
    try:
        if kind == "bundle":
            _read_bundle(json.loads(body), folder / "bundle")
        elif kind == "codebook":
            _read_layer(json.loads(body))
        else:
            READERS[kind](body)
    except VerificationError as refusal:
        return refusal.code
    return "ok"


def _read_layer(vector: dict[str, Any]) -> None:
    found: list[bytes] = []
    decoder = CodebookDecoder(found.append, size=vector["size"])
    decoder.write(bytes.fromhex(vector["layer"]))
    decoder.finish()
    assert b"".join(found).hex() == vector["content"]


def _read_bundle(vector: dict[str, Any], folder: Path) -> None:
    files = dict(vector["files"])
    if vector.get("base") == "ok":
        base = json.loads((HERE / "bundle" / "ok.vec").read_bytes().split(b"\n\n", 1)[1])
        files = {**base["files"], **files}
    for name, content in files.items():
        if content is not None:
            _write(folder / name, content)
    layout = LayoutDirectory(folder)
    layout.manifest_descriptor()
    bundle = verify_bundle(
        layout,
        Digest.parse(vector["digest"]),
        manifest_size=vector.get("size"),
        path=BundlePath(*vector["path"].split("/")) if "path" in vector else None,
        counter=Counter(*vector["counter"]) if "counter" in vector else None,
        variants=vector.get("variants"),
        closed=vector["closed"],
    )
    assert str(bundle.digest) == vector["digest"]


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if "link" in content:
        path.symlink_to(content["link"])
    elif "fifo" in content:
        os.mkfifo(path)
    else:
        path.write_text(content["text"], encoding="utf-8")
