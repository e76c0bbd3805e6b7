"""Vectors of whole folders."""

from __future__ import annotations

import json

from .documents import (
    CARD,
    GOLDEN,
    MODEL_A,
    MODEL_B,
    REPORT,
    Edit,
    Json,
    append,
    both,
    canonical,
    config,
    contract,
    descriptor,
    digest,
    drop,
    edited,
    manifest,
    put,
    vector,
)

DECODED = b"what the first model layer holds, decoded\n"
EXTRA = b"a blob that no manifest lists\n"


def bundle(
    *,
    contract_edit: Edit = lambda value: None,
    config_edit: Edit = lambda value: None,
    manifest_edit: Edit = lambda value: None,
    index_edit: Edit = lambda value: None,
    files_edit: Edit = lambda value: None,
    call: Json | None = None,
) -> Json:
    """A folder with one defect; everything that is built on the defect is consistent with it."""
    contract_bytes = edited(contract(), contract_edit)
    config_bytes = edited(config(contract_bytes), config_edit)
    manifest_bytes = edited(manifest(contract_bytes, config_bytes), manifest_edit)
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor("application/vnd.oci.image.manifest.v1+json", manifest_bytes)],
    }
    files: Json = {
        "oci-layout": {"text": '{"imageLayoutVersion":"1.0.0"}'},
        "index.json": {"text": edited(index, index_edit).decode()},
    }
    for data in (contract_bytes, config_bytes, manifest_bytes, MODEL_A, MODEL_B, GOLDEN, CARD, REPORT):
        files[blob_name(data)] = {"text": data.decode()}
    files_edit(files)
    return {"digest": digest(manifest_bytes), "closed": True, "files": files, **(call or {})}


def encoded(
    *,
    encoding: str = "zstd",
    contract_edit: Edit = lambda value: None,
    config_edit: Edit = lambda value: None,
    manifest_edit: Edit = lambda value: None,
) -> Json:
    """A folder whose first variant is encoded. Nobody decodes it here, so that its bytes need not be a frame."""
    model = {"digest": digest(DECODED), "size": len(DECODED)}
    return bundle(
        contract_edit=both(
            both(put("features", to=[f"encoding:{encoding}"]), put("variants", 0, "model", to=model)), contract_edit
        ),
        config_edit=both(put("modelfs", "diffIds", 1, to=digest(DECODED)), config_edit),
        manifest_edit=both(put("layers", 1, "annotations", "org.sealift.encoding", to=encoding), manifest_edit),
    )


def body(found: Json, *, base: Json) -> bytes:
    """The vector's body: only what differs from the folder of ``ok``."""
    if found["files"] != base["files"]:
        names = sorted(found["files"].keys() | base["files"].keys())
        changed = {name: found["files"].get(name) for name in names if found["files"].get(name) != base["files"].get(name)}
        found = {**found, "base": "ok", "files": changed}
    elif found is not base:
        found = {**found, "base": "ok", "files": {}}
    return json.dumps(found, sort_keys=True, indent=1).encode() + b"\n"


def remove_blobs(files: Json) -> None:
    """An edit that removes every blob."""
    for name in list(files):
        if name.startswith("blobs/"):
            del files[name]


def blob_name(data: bytes) -> str:
    return "blobs/sha256/" + digest(data)[7:]


def manifest_bytes() -> bytes:
    """The manifest of ``ok``."""
    contract_bytes = canonical(contract())
    return canonical(manifest(contract_bytes, canonical(config(contract_bytes))))


def bundle_vectors() -> dict[str, bytes]:
    a, card = blob_name(MODEL_A), blob_name(CARD)
    extra = put(blob_name(EXTRA), to={"text": EXTRA.decode()})
    second = descriptor("application/vnd.oci.image.manifest.v1+json", b"second")
    cases: dict[str, tuple[str, str, Json]] = {
        "ok": ("ok", "whole, and what was signed", bundle(call={"path": "clinic/digits/1.4.0", "counter": [0, 7]})),
        "ok-open": ("ok", "a shared store may hold other blobs", bundle(files_edit=extra, call={"closed": False})),
        "ok-one-variant": (
            "ok",
            "only the chosen variant was fetched",
            bundle(files_edit=both(drop(blob_name(MODEL_B)), drop(card)), call={"variants": ["int8-static"]}),
        ),
        "ok-index-artifact-type": (
            "ok",
            "the index repeats the artifact type",
            bundle(index_edit=put("manifests", 0, "artifactType", to="application/vnd.cncf.model.manifest.v1+json")),
        ),
        "flipped-byte": (
            "blob_digest_mismatch",
            "one byte of a model differs",
            bundle(files_edit=put(a, "text", to=MODEL_A.decode().replace("not", "nOt"))),
        ),
        "blob-short": (
            "blob_size_mismatch",
            "the last byte is missing",
            bundle(files_edit=put(a, "text", to=MODEL_A.decode()[:-1])),
        ),
        "blob-long": ("blob_size_mismatch", "one byte too many", bundle(files_edit=put(a, "text", to=MODEL_A.decode() + "x"))),
        "blob-missing": ("blob_missing", "a listed model is absent", bundle(files_edit=drop(a))),
        "card-missing": ("blob_missing", "a listed model card is absent", bundle(files_edit=drop(card))),
        "variant-missing": (
            "blob_missing",
            "the chosen variant is absent",
            bundle(files_edit=drop(a), call={"variants": ["int8-static"]}),
        ),
        "variant-unknown": (
            "variant_unknown",
            "a variant that the contract does not have is asked for",
            bundle(call={"variants": ["int4"]}),
        ),
        "blob-unlisted": ("blob_unlisted", "a blob that the bundle does not list", bundle(files_edit=extra)),
        "manifest-other": (
            "blob_digest_mismatch",
            "the file named by the manifest's digest holds something else",
            bundle(files_edit=put(blob_name(manifest_bytes()), to={"text": "{}"})),
        ),
        "manifest-size-lies": ("blob_size_mismatch", "the signed length is not the manifest's", bundle(call={"size": 100})),
        "manifest-size-huge": ("too_large", "a signed length beyond 256 KiB", bundle(call={"size": 262_145})),
        "descriptor-size-lies": (
            "blob_size_mismatch",
            "a descriptor promises more than there is",
            bundle(
                manifest_edit=put("layers", 1, "size", to=len(MODEL_A) + 1),
                contract_edit=put("variants", 0, "model", "size", to=len(MODEL_A) + 1),
            ),
        ),
        "other-path": (
            "path_mismatch",
            "the contract names another version than its path",
            bundle(call={"path": "clinic/digits/1.5.0"}),
        ),
        "other-line": (
            "path_mismatch",
            "the contract names another line than its path",
            bundle(call={"path": "ward/digits/1.4.0"}),
        ),
        "other-counter": (
            "counter_mismatch",
            "the contract carries another counter than was signed",
            bundle(call={"counter": [0, 8]}),
        ),
        "variant-not-in-manifest": ("variant_mismatch", "the contract has a variant more", bundle(manifest_edit=drop("layers", 2))),
        "variant-not-in-contract": (
            "variant_mismatch",
            "the manifest has a variant more",
            bundle(contract_edit=both(drop("variants", 1), drop("golden", "tolerances", "fp32"))),
        ),
        "variants-swapped": (
            "variant_mismatch",
            "the two model layers carry each other's id",
            bundle(
                manifest_edit=both(
                    put("layers", 1, "annotations", "org.sealift.variant", to="fp32"),
                    put("layers", 2, "annotations", "org.sealift.variant", to="int8-static"),
                )
            ),
        ),
        "model-other-digest": (
            "model_mismatch",
            "audited bytes are not the stored bytes",
            bundle(contract_edit=put("variants", 0, "model", "digest", to=digest(b"other"))),
        ),
        "model-other-size": (
            "model_mismatch",
            "the size of the runtime's bytes differs",
            bundle(contract_edit=put("variants", 0, "model", "size", to=1)),
        ),
        "golden-other": (
            "golden_mismatch",
            "the contract names other probes than the manifest",
            bundle(contract_edit=put("golden", "layer", to=digest(b"other"))),
        ),
        "config-other-name": (
            "config_mismatch",
            "other tools would show another model",
            bundle(config_edit=put("descriptor", "name", to="letters")),
        ),
        "config-other-digests": (
            "config_mismatch",
            "other tools would mount other layers",
            bundle(config_edit=lambda value: value["modelfs"]["diffIds"].reverse()),
        ),
        "contract-major-2": (
            "schema_unknown",
            "a contract of another major version",
            bundle(contract_edit=put("schema", to="2.0")),
        ),
        "index-two-manifests": ("index_count", "two manifests", bundle(index_edit=append("manifests", item=second))),
        "index-empty": ("index_count", "no manifest", bundle(index_edit=put("manifests", to=[]))),
        "index-nested": (
            "index_nested",
            "an index in the index",
            bundle(index_edit=put("manifests", 0, "mediaType", to="application/vnd.oci.image.index.v1+json")),
        ),
        "index-missing": ("layout_missing_file", "no index.json", bundle(files_edit=drop("index.json"))),
        "layout-missing": ("layout_missing_file", "no oci-layout", bundle(files_edit=drop("oci-layout"))),
        "layout-version": (
            "field_value",
            "another layout version",
            bundle(files_edit=put("oci-layout", "text", to='{"imageLayoutVersion":"2.0.0"}')),
        ),
        "foreign-file": (
            "layout_foreign_file",
            "a file beside the layout",
            bundle(files_edit=put("README.md", to={"text": "hello"})),
        ),
        "foreign-algorithm": (
            "layout_foreign_file",
            "a folder of another digest algorithm",
            bundle(files_edit=put("blobs/sha512/x", to={"text": "x"})),
        ),
        "foreign-blob-name": (
            "layout_foreign_file",
            "a blob whose name is no digest",
            bundle(files_edit=put("blobs/sha256/model.onnx", to={"text": "x"})),
        ),
        "upper-case-blob-name": (
            "layout_foreign_file",
            "a blob name in upper case",
            bundle(files_edit=put("blobs/sha256/" + "AB" * 32, to={"text": "x"})),
        ),
        "link-blob": ("layout_foreign_file", "a blob is a symbolic link", bundle(files_edit=put(a, to={"link": "/etc/hostname"}))),
        "link-index": (
            "layout_foreign_file",
            "index.json is a symbolic link",
            bundle(files_edit=put("index.json", to={"link": "oci-layout"})),
        ),
        "link-folder": (
            "layout_foreign_file",
            "blobs is a symbolic link",
            bundle(
                files_edit=both(remove_blobs, put("blobs", to={"link": "/tmp"})),
            ),
        ),
        "fifo-blob": (
            "layout_foreign_file",
            "a blob is a pipe, which would block a reader",
            bundle(files_edit=put(a, to={"fifo": True})),
        ),
        "ok-codebook": ("ok", "a model layer in the codebook encoding", encoded(encoding="codebook")),
        "codebook-no-feature": (
            "encoding_feature",
            "a layer in the codebook encoding that only zstd is permitted for",
            encoded(encoding="codebook", contract_edit=put("features", to=["encoding:zstd"])),
        ),
        "ok-zstd": ("ok", "an encoded model layer; the folder holds it as it is served", encoded()),
        "zstd-no-feature": (
            "encoding_feature",
            "an encoded model layer that the contract's features do not permit",
            encoded(contract_edit=put("features", to=[])),
        ),
        "zstd-other-feature": (
            "feature_unknown",
            "the feature of a reserved encoding",
            encoded(contract_edit=put("features", to=["encoding:delta"])),
        ),
        "zstd-on-card": (
            "encoding_layer",
            "the model card is encoded",
            encoded(manifest_edit=put("layers", 4, "annotations", to={"org.sealift.encoding": "zstd"})),
        ),
        "zstd-model-is-its-layer": (
            "model_mismatch",
            "the runtime would get the encoded bytes",
            encoded(contract_edit=put("variants", 0, "model", to={"digest": digest(MODEL_A), "size": len(MODEL_A)})),
        ),
        "zstd-model-is-another-layer": (
            "model_mismatch",
            "one digest would be an encoded model and a model card",
            encoded(contract_edit=put("variants", 0, "model", to={"digest": digest(CARD), "size": len(CARD)})),
        ),
        "zstd-config-of-the-layer": (
            "config_mismatch",
            "the config names the encoded bytes",
            encoded(config_edit=put("modelfs", "diffIds", 1, to=digest(MODEL_A))),
        ),
        "zstd-and-plain": (
            "model_mismatch",
            "a layer without an encoding is not its model, beside one with",
            encoded(contract_edit=put("variants", 1, "model", "size", to=1)),
        ),
    }
    base = cases["ok"][2]
    return {name: vector(expect, about, body(found, base=base)) for name, (expect, about, found) in cases.items()}
