"""The one way to a ``VerifiedBundle``: the bytes behind a digest are what manifest and contract say they are.

Called by the packager on its own output, by the server at admission and by the device before staging; the same code.
The digest comes from the caller: on a device from signed metadata on which both roles agree (``device_client.trust``).
It deliberately does *not* read the model or the golden probes themselves; ``inference`` does, from checked bytes.

    bundle = verify_bundle(store, agreed.manifest.digest, manifest_size=agreed.manifest.length, path=agreed.path,
                           counter=agreed.release.counter, variants=("int8-static",))
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import InitVar, dataclass

from device_client.bundle import media_types
from device_client.bundle.config import check_config, parse_config
from device_client.bundle.contract import Contract, ModelRef, Variant, parse_contract
from device_client.bundle.counter import Counter
from device_client.bundle.descriptor import Descriptor
from device_client.bundle.digest import Digest
from device_client.bundle.features import KNOWN_ENCODINGS
from device_client.bundle.layout import BlobSource, ClosedBlobSource, check_blob, read_blob, read_blob_up_to
from device_client.bundle.manifest import Manifest, parse_manifest
from device_client.bundle.path import BundlePath
from device_client.errors import FormatError, IntegrityError, LimitError
from device_client.limits import DEFAULT_LIMITS, Limits

_SEAL = object()


@dataclass(frozen=True)
class VerifiedBundle:
    """A bundle whose bytes were checked. Made by ``verify_bundle`` only.

    ``digest`` is the manifest's and names the bundle. ``checked_variants`` are the ids whose layers were read; others
    may be absent from the source.
    """

    digest: Digest
    manifest: Manifest
    contract: Contract
    manifest_bytes: bytes
    contract_bytes: bytes
    checked_variants: frozenset[str]
    seal: InitVar[object] = None

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("a VerifiedBundle comes from verify_bundle()")

    @property
    def path(self) -> BundlePath:
        """``line/model/version`` of the contract."""
        return self.contract.path


def verify_bundle(
    source: BlobSource,
    manifest_digest: Digest,
    *,
    manifest_size: int | None = None,
    path: BundlePath | None = None,
    counter: Counter | None = None,
    variants: Collection[str] | None = None,
    closed: bool = False,
    decoded: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> VerifiedBundle:
    """Checks a bundle, blob by blob.

    Args:
        source: where blobs are opened; not trusted.
        manifest_digest: the digest that the caller trusts.
        manifest_size: its signed length in bytes, if known; without it the manifest is read up to its limit.
        path: what the bundle must call itself, from the signed target path.
        counter: the release counter it must carry, from the signed records.
        variants: ids whose layers are read, besides contract, golden probes and config; ``None`` reads every blob.
        closed: the source belongs to this bundle alone, so a blob that the bundle does not list is refused.
        decoded: the source holds the models of encoded layers as the runtime gets them, instead of the layers: a device's store.
        limits: the bounds of every read.

    Raises:
        LimitError: something is larger than its limit; nothing beyond it was read.
        IntegrityError: a blob is missing or its bytes are others (``blob_*``).
        FormatError: manifest, contract or config break the format or contradict each other.
    """
    # 1. The manifest is the bytes that the digest names.
    manifest_bytes = _read_manifest(source, manifest_digest, manifest_size, limits=limits)
    # 2. It is well formed: known layer types, no foreign references, sizes within their limits.
    manifest = parse_manifest(manifest_bytes, encodings=KNOWN_ENCODINGS, limits=limits)
    _check_not_self(manifest, manifest_digest)
    # 3. The contract is the bytes that the manifest names, and well formed; unknown schema or feature refuses.
    contract_bytes = _read(source, manifest.contract, where="contract")
    contract = parse_contract(contract_bytes, encodings=KNOWN_ENCODINGS, limits=limits)
    # 4. It names the model, version and counter that were signed for this place.
    _check_identity(contract, path=path, counter=counter)
    # 5. Contract and manifest agree about variants and golden probes.
    _check_agreement(manifest, contract)
    # 6. The ModelPack config tells the same story.
    config = parse_config(_read(source, manifest.config, where="config"), limits=limits)
    check_config(config, contract, manifest.layers)
    # 7. The remaining blobs are the bytes that the manifest names.
    ids = frozenset(variant.id for variant in contract.variants) if variants is None else frozenset(variants)
    for blob in _remaining(manifest, contract, ids, everything=variants is None):
        digest, size = _as_held(blob, contract, decoded=decoded)
        check_blob(source, digest, size, where=blob.media_type)
    # 8. A closed source holds nothing else.
    if closed:
        _check_closed(source, manifest, manifest_digest)
    return VerifiedBundle(manifest_digest, manifest, contract, manifest_bytes, contract_bytes, ids, seal=_SEAL)


def _read_manifest(source: BlobSource, digest: Digest, size: int | None, *, limits: Limits) -> bytes:
    bound = limits.max_manifest_bytes
    if size is None:
        return read_blob_up_to(source, digest, bound, where="manifest")
    if size > bound:
        raise LimitError("manifest too large", code="too_large", where="manifest", expected=f"at most {bound} bytes", actual=size)
    return read_blob(source, digest, size, where="manifest")


def _check_not_self(manifest: Manifest, digest: Digest) -> None:
    """No SHA-256 fixed point is known; the rule costs a line and keeps 'a blob has one meaning' complete."""
    if any(blob.digest == digest for blob in manifest.blobs):
        raise FormatError("the manifest lists itself", code="layer_duplicate", where="manifest")


def _read(source: BlobSource, blob: Descriptor, *, where: str) -> bytes:
    return read_blob(source, blob.digest, blob.size, where=where)


def _check_identity(contract: Contract, *, path: BundlePath | None, counter: Counter | None) -> None:
    if path is not None and contract.path != path:
        raise FormatError(
            "the contract names another bundle than its path",
            code="path_mismatch",
            where="contract",
            expected=path,
            actual=contract.path,
            hint="somebody signed or served the wrong bundle; do not install it",
        )
    if counter is not None and contract.counter != counter:
        raise FormatError(
            "the contract carries another counter than was signed",
            code="counter_mismatch",
            where="contract",
            expected=counter,
            actual=contract.counter,
        )


def _check_agreement(manifest: Manifest, contract: Contract) -> None:
    layers = {layer.annotation(media_types.ANNOTATION_VARIANT): layer for layer in manifest.layers_of(media_types.WEIGHT)}
    if set(layers) != {variant.id for variant in contract.variants}:
        raise FormatError(
            "contract and manifest list other variants",
            code="variant_mismatch",
            where="contract",
            expected=" ".join(sorted(filter(None, layers))),
            actual=" ".join(sorted(variant.id for variant in contract.variants)),
        )
    for variant in contract.variants:
        _check_variant(variant, layers[variant.id])
        _check_encoding(contract, variant, manifest)
    if contract.golden.layer != manifest.golden.digest:
        raise FormatError(
            "contract and manifest name other golden probes",
            code="golden_mismatch",
            where="contract",
            expected=manifest.golden.digest,
            actual=contract.golden.layer,
        )


def _check_variant(variant: Variant, layer: Descriptor) -> None:
    """The layer is the one annotated with this id; unencoded, its bytes are those that the runtime gets."""
    if variant.layer != layer.digest:
        raise FormatError(
            f"contract and manifest name other layers for variant {variant.id}",
            code="variant_mismatch",
            where="contract",
            expected=layer.digest,
            actual=variant.layer,
        )
    if layer.annotation(media_types.ANNOTATION_ENCODING) is None and variant.model != ModelRef(layer.digest, layer.size):
        raise FormatError(
            f"the model of variant {variant.id} is not its unencoded layer",
            code="model_mismatch",
            where="contract",
            expected=f"{layer.digest}, {layer.size} bytes",
            actual=f"{variant.model.digest}, {variant.model.size} bytes",
        )


def _check_encoding(contract: Contract, variant: Variant, manifest: Manifest) -> None:
    """An encoding is permitted by its feature, and the model inside is no other blob of the bundle: one digest, one meaning."""
    encoding = manifest.layer(variant.layer).annotation(media_types.ANNOTATION_ENCODING)
    if encoding is None:
        return
    if f"encoding:{encoding}" not in contract.features:
        raise FormatError(
            f"variant {variant.id} is encoded, and the contract does not say so",
            code="encoding_feature",
            where="contract.features",
            expected=f"encoding:{encoding}",
        )
    if any(blob.digest == variant.model.digest for blob in manifest.blobs):
        raise FormatError(
            f"the model of variant {variant.id} is also another blob of the bundle",
            code="model_mismatch",
            where="contract",
            actual=variant.model.digest,
        )


def _as_held(blob: Descriptor, contract: Contract, *, decoded: bool) -> tuple[Digest, int]:
    """Digest and size of what the source has for a layer."""
    if decoded and blob.annotation(media_types.ANNOTATION_ENCODING) is not None:
        model = contract.variant(blob.annotation(media_types.ANNOTATION_VARIANT) or "").model
        return model.digest, model.size
    return blob.digest, blob.size


def _remaining(manifest: Manifest, contract: Contract, ids: frozenset[str], *, everything: bool) -> tuple[Descriptor, ...]:
    """What is still to be read after contract and config."""
    if everything:
        return manifest.layers[1:]
    return (manifest.golden, *(manifest.layer(contract.variant(variant_id).layer) for variant_id in sorted(ids)))


def _check_closed(source: BlobSource, manifest: Manifest, manifest_digest: Digest) -> None:
    if not isinstance(source, ClosedBlobSource):
        raise TypeError("closed=True needs a source that lists its blobs")
    unlisted = source.blob_digests() - {manifest_digest, *(blob.digest for blob in manifest.blobs)}
    if unlisted:
        raise IntegrityError("a blob that the bundle does not list", code="blob_unlisted", where="layout", actual=min(unlisted))
