"""The manifest: an OCI 1.1 image manifest that is also a CNCF ModelPack artifact. Its digest names the bundle.

Read as a closed schema: a field, layer type or annotation of ours that this reader does not know is refused. Says
nothing about the blobs themselves (``layout.py``) nor about whether anybody signed it (``device_client.trust``).
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Collection
from dataclasses import dataclass

from device_client.bundle import media_types
from device_client.bundle.descriptor import Descriptor, read_annotations, refuse_forbidden
from device_client.bundle.digest import Digest
from device_client.bundle.features import KNOWN_ENCODINGS, KNOWN_LAYER_TYPES, RESERVED_ENCODINGS
from device_client.bundle.fields import Fields
from device_client.bundle.path import check_name
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import FormatError, IntegrityError, LimitError
from device_client.limits import DEFAULT_LIMITS, Limits

_KNOWN = ("schemaVersion", "mediaType", "artifactType", "config", "layers", "annotations")
_FORBIDDEN = ("subject", "manifests", "urls", "data")
_AT_MOST_ONE = (media_types.DOC, media_types.SBOM, media_types.REPORT)


@dataclass(frozen=True)
class Manifest:
    """Config and layers of one bundle; the first layer is the contract."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: tuple[tuple[str, str], ...] = ()

    @property
    def contract(self) -> Descriptor:
        """The contract's descriptor."""
        return self.layers[0]

    @property
    def golden(self) -> Descriptor:
        """The golden probes' descriptor."""
        return self.layers_of(media_types.GOLDEN)[0]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers, in order."""
        return (self.config, *self.layers)

    def layers_of(self, media_type: str) -> tuple[Descriptor, ...]:
        """The layers of one media type, in order."""
        return tuple(layer for layer in self.layers if layer.media_type == media_type)

    def layer(self, digest: Digest) -> Descriptor:
        """The layer with this digest.

        Raises:
            IntegrityError: the manifest lists no such layer.
        """
        for layer in self.layers:
            if layer.digest == digest:
                return layer
        raise IntegrityError("the manifest lists no such layer", code="layer_missing", actual=digest)

    def to_bytes(self) -> bytes:
        """The canonical bytes, after reading them back: a manifest that a reader would refuse is never written.

        Raises:
            VerificationError: what ``parse_manifest`` says about them.
        """
        value: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": media_types.MANIFEST,
            "artifactType": media_types.ARTIFACT_TYPE,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        data = canonical_json(value)
        parse_manifest(data, encodings=KNOWN_ENCODINGS)
        return data


def parse_manifest(
    data: bytes, *, where: str = "manifest", encodings: Collection[str] = (), limits: Limits = DEFAULT_LIMITS
) -> Manifest:
    """Reads a manifest and checks everything that can be said without its blobs.

    Args:
        data: its bytes.
        where: for errors.
        encodings: what the caller decodes, or looks after otherwise. None by default: who takes a layer for the model itself
            must not be given an encoded one.
        limits: bounds of sizes and numbers.

    Raises:
        LimitError: the manifest, a layer or their sum is beyond its limit.
        FormatError: syntax, forbidden or unknown fields, layer types and encodings, wrong number or order of layers, more
            than ``max_layers`` of them.
    """
    value = parse_strict(data, max_bytes=limits.max_manifest_bytes, where=where, limits=limits)
    refuse_forbidden(value, _FORBIDDEN, where=where)
    fields = Fields(value, where=where, known=_KNOWN)
    fields.integer("schemaVersion", minimum=2, maximum=2)
    fields.text("mediaType", choices=(media_types.MANIFEST,))
    fields.text("artifactType", choices=(media_types.ARTIFACT_TYPE,))
    manifest = Manifest(
        config=Descriptor.from_json(fields.raw("config"), f"{where}.config"),
        layers=fields.items("layers", Descriptor.from_json, max_items=limits.max_layers),
        annotations=read_annotations(fields),
    )
    if manifest.config.media_type != media_types.CONFIG:
        raise FormatError(
            "unknown config type",
            code="config_type_unknown",
            where=f"{where}.config",
            expected=media_types.CONFIG,
            actual=manifest.config.media_type,
        )
    for index, layer in enumerate(manifest.layers):
        _check_layer(layer, encodings=encodings, where=f"{where}.layers[{index}]")
    _check_annotations_absent(manifest, where=where)
    _check_digests(manifest, where=where)
    _check_composition(manifest, where=where)
    _check_sizes(manifest, where=where, limits=limits)
    return manifest


def _check_layer(layer: Descriptor, *, encodings: Collection[str], where: str) -> None:
    if layer.media_type not in KNOWN_LAYER_TYPES:
        raise FormatError("unknown layer type", code="layer_type_unknown", where=where, actual=layer.media_type)
    encoding = layer.annotation(media_types.ANNOTATION_ENCODING)
    if encoding is not None and encoding not in encodings:
        what = "reserved" if encoding in RESERVED_ENCODINGS | KNOWN_ENCODINGS else "unknown"
        raise FormatError(
            f"{what} encoding",
            code="encoding_unknown",
            where=where,
            actual=repr(encoding)[:80],
            hint="update the device software, or release the bundle without encoded layers",
        )
    if encoding is not None and layer.media_type != media_types.WEIGHT:
        raise FormatError("only a model layer may be encoded", code="encoding_layer", where=where, actual=layer.media_type)
    variant = layer.annotation(media_types.ANNOTATION_VARIANT)
    if layer.media_type == media_types.WEIGHT:
        if variant is None:
            raise FormatError("a model layer names no variant", code="variant_annotation", where=where)
        check_name(variant, what="variant id", where=where)
    elif variant is not None:
        raise FormatError("only a model layer may name a variant", code="variant_annotation", where=where)


def _check_annotations_absent(manifest: Manifest, *, where: str) -> None:
    for what, found in (("manifest", manifest.annotations), ("config", manifest.config.annotations)):
        for name, _ in found:
            if name.startswith(media_types.ANNOTATION_PREFIX):
                raise FormatError(
                    f"annotation of a layer on the {what}", code="annotation_unknown", where=f"{where}.annotations", actual=name
                )


def _check_digests(manifest: Manifest, *, where: str) -> None:
    """One blob, one meaning: audits key their verdicts by digest, so no two entries may share one."""
    seen: dict[Digest, Descriptor] = {}
    for blob in manifest.blobs:
        other = seen.setdefault(blob.digest, blob)
        if other.size != blob.size:
            raise FormatError(
                "one digest with two sizes", code="digest_two_sizes", where=where, expected=other.size, actual=blob.size
            )
        if other is not blob:
            raise FormatError("blob listed twice", code="layer_duplicate", where=where, actual=blob.digest)


def _check_composition(manifest: Manifest, *, where: str) -> None:
    tally = Tally(layer.media_type for layer in manifest.layers)
    if tally[media_types.CONTRACT] != 1 or manifest.layers[0].media_type != media_types.CONTRACT:
        raise FormatError("the first layer, and only it, must be the contract", code="contract_layer", where=where)
    if not tally[media_types.WEIGHT]:
        raise FormatError("no model layer", code="layer_count", where=where, expected=f"at least one {media_types.WEIGHT}")
    if tally[media_types.GOLDEN] != 1:
        raise FormatError(
            "exactly one layer of golden probes is needed", code="layer_count", where=where, actual=tally[media_types.GOLDEN]
        )
    for media_type in _AT_MOST_ONE:
        if tally[media_type] > 1:
            raise FormatError(f"more than one layer of type {media_type}", code="layer_count", where=where)
    variants = Tally(layer.annotation(media_types.ANNOTATION_VARIANT) for layer in manifest.layers_of(media_types.WEIGHT))
    for variant, count in variants.items():
        if count > 1:
            raise FormatError("two model layers for one variant", code="variant_duplicate", where=where, actual=variant)


def _check_sizes(manifest: Manifest, *, where: str, limits: Limits) -> None:
    bounds = {
        media_types.CONFIG: limits.max_config_bytes,
        media_types.CONTRACT: limits.max_contract_bytes,
        media_types.GOLDEN: limits.max_golden_bytes,
        media_types.WEIGHT: min(limits.max_blob_bytes, limits.max_model_bytes),
    }
    for blob in manifest.blobs:
        bound = bounds.get(blob.media_type, limits.max_blob_bytes)
        if blob.size > bound:
            raise LimitError(
                f"{blob.media_type} too large", code="too_large", where=where, expected=f"at most {bound} bytes", actual=blob.size
            )
    total = sum(blob.size for blob in manifest.blobs)
    if total > limits.max_total_bytes:
        raise LimitError(
            "bundle too large", code="too_large", where=where, expected=f"at most {limits.max_total_bytes} bytes", actual=total
        )
