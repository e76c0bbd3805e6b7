"""Vectors of manifests and of the ModelPack config."""

from __future__ import annotations

from .documents import (
    CARD,
    DOC,
    WEIGHT,
    Edit,
    append,
    canonical,
    config,
    contract,
    descriptor,
    drop,
    edited,
    manifest,
    put,
    vector,
)

WEIGHT_CONFIG = "application/vnd.cncf.model.weight.config.v1.raw"


def manifest_vectors() -> dict[str, bytes]:
    contract_bytes = canonical(contract())
    base = manifest(contract_bytes, canonical(config(contract_bytes)))
    found = syntax_vectors(canonical(base))
    index_type = "application/vnd.oci.image.index.v1+json"
    edits: dict[str, tuple[str, str, Edit]] = {
        "ok": ("ok", "contract, two variants, probes, model card, report", lambda value: None),
        "ok-annotations": (
            "ok",
            "annotations of others are ignored",
            put("annotations", to={"org.opencontainers.image.title": "digits"}),
        ),
        "ok-filepath": (
            "ok",
            "a ModelPack annotation on a layer",
            put("layers", 4, "annotations", to={"org.cncf.model.filepath": "README.md"}),
        ),
        "urls": (
            "field_forbidden",
            "a layer names other places to fetch it",
            put("layers", 1, "urls", to=["https://example.org/m"]),
        ),
        "data": ("field_forbidden", "a layer carries bytes inline", put("layers", 0, "data", to="e30=")),
        "platform": (
            "field_forbidden",
            "a layer selects by platform",
            put("layers", 1, "platform", to={"architecture": "arm64", "os": "linux"}),
        ),
        "subject": ("field_forbidden", "refers to another manifest", put("subject", to=descriptor(index_type, b"x"))),
        "nested-index": ("layer_type_unknown", "a layer is an index", put("layers", 1, "mediaType", to=index_type)),
        "is-an-index": ("field_forbidden", "an index in the place of a manifest", put("manifests", to=[])),
        "unknown-field": ("field_unknown", "a field that the format does not have", put("extra", to=1)),
        "unknown-descriptor-field": (
            "field_unknown",
            "a descriptor field that the format does not have",
            put("config", "extra", to=1),
        ),
        "schema-version-1": ("field_value", "schemaVersion is not 2", put("schemaVersion", to=1)),
        "schema-version-text": ("field_type", "schemaVersion is a string", put("schemaVersion", to="2")),
        "other-media-type": (
            "field_value",
            "the manifest of another format",
            put("mediaType", to="application/vnd.docker.distribution.manifest.v2+json"),
        ),
        "no-artifact-type": ("field_missing", "a plain container image", drop("artifactType")),
        "other-artifact-type": ("field_value", "another kind of artifact", put("artifactType", to="application/vnd.example+json")),
        "image-config": (
            "config_type_unknown",
            "the config of a container image",
            put("config", "mediaType", to="application/vnd.oci.image.config.v1+json"),
        ),
        "sha512": ("digest_syntax", "another digest algorithm", put("layers", 1, "digest", to="sha512:" + "a" * 128)),
        "upper-case-digest": (
            "digest_syntax",
            "hexadecimal digits in upper case",
            put("layers", 1, "digest", to="sha256:" + "AB" * 32),
        ),
        "short-digest": ("digest_syntax", "63 hexadecimal digits", put("layers", 1, "digest", to="sha256:" + "a" * 63)),
        "size-zero": ("field_value", "an empty blob", put("layers", 1, "size", to=0)),
        "size-negative": ("field_value", "a negative size", put("layers", 1, "size", to=-1)),
        "size-fraction": ("field_type", "a size with a fraction", put("layers", 1, "size", to=10.5)),
        "size-true": ("field_type", "a boolean as size", put("layers", 1, "size", to=True)),
        "two-sizes": (
            "digest_two_sizes",
            "one digest with two sizes",
            append("layers", item={**descriptor(DOC, CARD), "size": 1, "mediaType": WEIGHT_CONFIG}),
        ),
        "listed-twice": ("layer_duplicate", "one blob in two roles", append("layers", item=descriptor(WEIGHT_CONFIG, CARD))),
        "config-is-layer": (
            "layer_duplicate",
            "the config is also a layer",
            append("layers", item={**base["config"], "mediaType": "application/vnd.cyclonedx+json"}),
        ),
        "no-layers": ("contract_layer", "an empty list of layers", put("layers", to=[])),
        "no-contract": ("contract_layer", "there is no contract", drop("layers", 0)),
        "contract-not-first": (
            "contract_layer",
            "the contract is the last layer",
            lambda value: value["layers"].append(value["layers"].pop(0)),
        ),
        "two-contracts": (
            "contract_layer",
            "a second contract",
            append("layers", item=descriptor("application/vnd.sealift.contract.v1+json", b"{}")),
        ),
        "no-model": (
            "layer_count",
            "no model layer",
            lambda value: value.update(layers=[layer for layer in value["layers"] if layer["mediaType"] != WEIGHT]),
        ),
        "no-golden": ("layer_count", "no golden probes", drop("layers", 3)),
        "two-cards": ("layer_count", "two model cards", append("layers", item=descriptor(DOC, b"another"))),
        "too-many-layers": (
            "too_many",
            "65 layers",
            lambda value: value["layers"].extend(descriptor(WEIGHT_CONFIG, b"%d" % n) for n in range(59)),
        ),
        "unknown-layer-type": (
            "layer_type_unknown",
            "a tar archive as layer",
            put("layers", 1, "mediaType", to="application/vnd.cncf.model.weight.v1.tar"),
        ),
        "encoding-zstd": (
            "encoding_unknown",
            "a reserved encoding that version 1.0 does not decode",
            put("layers", 1, "annotations", "org.sealift.encoding", to="zstd"),
        ),
        "encoding-unknown": (
            "encoding_unknown",
            "an encoding that nobody defined",
            put("layers", 1, "annotations", "org.sealift.encoding", to="rot13"),
        ),
        "encoding-delta": (
            "encoding_unknown",
            "a reserved encoding that no version decodes",
            put("layers", 1, "annotations", "org.sealift.encoding", to="delta"),
        ),
        "annotation-ours-unknown": (
            "annotation_unknown",
            "an unknown name under org.sealift.",
            put("layers", 1, "annotations", "org.sealift.key", to="k1"),
        ),
        "annotation-on-manifest": (
            "annotation_unknown",
            "a layer's annotation on the manifest",
            put("annotations", to={"org.sealift.variant": "fp32"}),
        ),
        "annotation-number": ("field_type", "an annotation that is no string", put("layers", 4, "annotations", to={"a": 1})),
        "variant-missing": ("variant_annotation", "a model layer without a variant", drop("layers", 1, "annotations")),
        "variant-on-card": (
            "variant_annotation",
            "a model card with a variant",
            put("layers", 4, "annotations", to={"org.sealift.variant": "fp32"}),
        ),
        "variant-twice": (
            "variant_duplicate",
            "two model layers for one variant",
            put("layers", 2, "annotations", "org.sealift.variant", to="int8-static"),
        ),
        "variant-path": (
            "name_syntax",
            "a variant id that climbs",
            put("layers", 1, "annotations", "org.sealift.variant", to="../x"),
        ),
        "contract-too-large": ("too_large", "a contract beyond 64 KiB", put("layers", 0, "size", to=65_537)),
        "config-too-large": ("too_large", "a config beyond 64 KiB", put("config", "size", to=65_537)),
        "golden-too-large": ("too_large", "golden probes beyond 64 MiB", put("layers", 3, "size", to=64 * 2**20 + 1)),
        "model-too-large": ("too_large", "a model beyond 2 GiB", put("layers", 1, "size", to=2**31 + 1)),
        "total-too-large": (
            "too_large",
            "each blob within its limit, together beyond 8 GiB",
            lambda value: value["layers"].extend({**descriptor(WEIGHT_CONFIG, b"%d" % n), "size": 2**31} for n in range(4)),
        ),
    }
    return found | {name: vector(expect, about, edited(base, edit)) for name, (expect, about, edit) in edits.items()}


def syntax_vectors(good: bytes) -> dict[str, bytes]:
    """Defects of JSON itself."""
    bodies: dict[str, tuple[str, str, bytes]] = {
        "duplicate-key": ("json_syntax", "a key occurs twice", good[:-1] + b"," + good[1 : good.index(b":")] + b":1}"),
        "nan": ("json_syntax", "NaN is not JSON", b'{"schema":NaN}'),
        "infinity": ("json_syntax", "-Infinity is not JSON", b'{"schema":-Infinity}'),
        "float-overflow": ("json_syntax", "1e999 is no finite number", b'{"schema":1e999}'),
        "huge-integer": ("json_syntax", "beyond 2^53-1, readers would round differently", b'{"schema":9007199254740993}'),
        "deep-nesting": ("too_deep", "nested 8000 levels", b'{"a":' + b"[" * 8000 + b"]" * 8000 + b"}"),
        "byte-order-mark": ("json_syntax", "begins with a UTF-8 byte order mark", b"\xef\xbb\xbf" + good),
        "trailing-bytes": ("json_syntax", "something follows the document", good + b"{}"),
        "trailing-comma": ("json_syntax", "a comma before the closing brace", good[:-1] + b",}"),
        "not-utf8": ("json_syntax", "a byte that is not UTF-8", b'{"schema":"\xff"}'),
        "lone-surrogate": ("json_syntax", "an escaped half of a surrogate pair", b'{"schema":"\\ud800"}'),
        "empty": ("json_syntax", "no bytes", b""),
        "not-an-object": ("field_type", "an array where an object belongs", b"[" + good + b"]"),
    }
    return {name: vector(*parts) for name, parts in bodies.items()}


def config_vectors() -> dict[str, bytes]:
    base = config(canonical(contract()))
    found = {"duplicate-key": vector("json_syntax", "a key occurs twice", canonical(base)[:-1] + b',"config":{}}')}
    edits: dict[str, tuple[str, str, Edit]] = {
        "ok": ("ok", "derived from the contract", lambda value: None),
        "ok-other-fields": ("ok", "ModelPack fields that Sealift does not write", put("descriptor", "licenses", to=["Apache-2.0"])),
        "no-descriptor": ("field_missing", "descriptor is absent", drop("descriptor")),
        "no-diff-ids": ("field_missing", "modelfs without digests", drop("modelfs", "diffIds")),
        "modelfs-type": ("field_value", "modelfs is not of layers", put("modelfs", "type", to="files")),
        "diff-id-sha512": ("digest_syntax", "another digest algorithm", put("modelfs", "diffIds", 0, to="sha512:" + "a" * 128)),
    }
    return found | {name: vector(expect, about, edited(base, edit)) for name, (expect, about, edit) in edits.items()}
