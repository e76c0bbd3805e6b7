"""What is inside a bundle folder, for people: identity, variants, layers, lineage, and the model card.

Verifies that the folder is one whole bundle (``verify_bundle``, closed) under the digest that its own ``index.json``
names. That says the parts fit together; it says nothing about who made them, and the result says so. Every string
that comes from the bundle is shown with control characters escaped, so that a model card cannot drive a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from device_client.bundle import media_types
from device_client.bundle.contract import TensorSpec, Variant
from device_client.bundle.descriptor import Descriptor
from device_client.bundle.layout import LayoutDirectory, read_blob
from device_client.bundle.verified import VerifiedBundle, verify_bundle
from device_client.limits import DEFAULT_LIMITS, KIB, Limits
from device_client.text import printable

NOT_SIGNED = "not signed by anyone: this looked only at a folder"
MAX_CARD_BYTES = 64 * KIB
_PREVIEW_LINES = 12
_LAYER_NAMES = {
    media_types.CONTRACT: "contract",
    media_types.WEIGHT: "model",
    media_types.GOLDEN: "golden probes",
    media_types.WEIGHT_CONFIG: "labels, tokenizer or preprocessing",
    media_types.DOC: "model card",
    media_types.SBOM: "bill of materials",
    media_types.REPORT: "compression report",
}


@dataclass(frozen=True)
class Inspection:
    """A whole bundle and its model card; ``card`` is untrusted text, ``None`` if there is none or it is not text."""

    bundle: VerifiedBundle
    card: str | None

    def to_json(self) -> dict[str, object]:
        """Everything that was found, in the field names of the contract; free text is escaped as on a terminal."""
        contract, manifest = self.bundle.contract, self.bundle.manifest
        return {
            "ok": True,
            "manifest": {"digest": str(self.bundle.digest), "size": len(self.bundle.manifest_bytes)},
            "path": str(self.bundle.path),
            "counter": contract.counter.to_json(),
            "integrity": "verified",
            "signed_by": [],
            "note": NOT_SIGNED,
            "task": contract.task,
            "inputs": [_tensor_json(spec) for spec in contract.inputs],
            "outputs": [_tensor_json(spec) for spec in contract.outputs],
            "preprocessing": [step.to_json() for step in contract.preprocessing],
            "variants": [variant.to_json() for variant in contract.variants],
            "layers": [_layer_json(layer) for layer in manifest.layers],
            "total_bytes": sum(blob.size for blob in manifest.blobs) + len(self.bundle.manifest_bytes),
            "golden": contract.golden.to_json(),
            "budget": contract.budget.to_json(),
            "lineage": contract.lineage.to_json(),
            "features": list(contract.features),
            "model_card": None if self.card is None else printable(self.card, keep_lines=True),
        }

    def to_text(self, *, whole_card: bool = False) -> str:
        """The same for a terminal; the card is cut to its first lines unless ``whole_card``."""
        return "\n".join([*_head(self), *_variants(self), *_layers(self), *_lineage(self), *_card(self, whole=whole_card)])


def inspect_layout(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> Inspection:
    """Reads the whole bundle once.

    Raises:
        UsageError: no such folder.
        VerificationError: it is not one whole, well-formed bundle.
    """
    layout = LayoutDirectory(path, limits=limits)
    named = layout.manifest_descriptor()
    bundle = verify_bundle(layout, named.digest, manifest_size=named.size, closed=True, limits=limits)
    cards = bundle.manifest.layers_of(media_types.DOC)
    return Inspection(bundle, _read_card(layout, cards[0]) if cards else None)


def _tensor_json(spec: TensorSpec) -> dict[str, object]:
    return {**spec.to_json(), "meaning": printable(spec.meaning)}


def _layer_json(layer: Descriptor) -> dict[str, object]:
    annotations = {name: printable(value) for name, value in layer.annotations}
    return {**layer.to_json(), "annotations": annotations, "holds": _LAYER_NAMES[layer.media_type]}


def _read_card(layout: LayoutDirectory, card: Descriptor) -> str | None:
    if card.size > MAX_CARD_BYTES:
        return None
    try:
        return read_blob(layout, card.digest, card.size, where="model card").decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None


def _head(found: Inspection) -> Iterator[str]:
    contract = found.bundle.contract
    yield f"bundle     {found.bundle.path}"
    yield f"counter    {contract.counter}"
    yield f"manifest   {found.bundle.digest}"
    yield "integrity  verified: every blob is what the manifest says, and nothing else is in the folder"
    yield f"signed     {NOT_SIGNED}"
    yield f"task       {contract.task}"
    for label, specs in (("input", contract.inputs), ("output", contract.outputs)):
        for spec in specs:
            yield f"{label:10} {_tensor(spec)}"
    if contract.features:
        yield f"features   {' '.join(contract.features)}"


def _tensor(spec: TensorSpec) -> str:
    shape = " x ".join(str(dimension) for dimension in spec.shape) or "scalar"
    bounds = f", in [{spec.range[0]:g}, {spec.range[1]:g}]" if spec.range else ""
    return printable(f"{spec.name}: {spec.dtype}, {shape}{bounds}; {spec.meaning}")


def _variants(found: Inspection) -> Iterator[str]:
    yield "variants"
    for variant in found.bundle.contract.variants:
        expected, tolerance = variant.expected, found.bundle.contract.golden.tolerance(variant.id)
        low, high = expected.interval
        form = f"{variant.runtime} {variant.format} opset {variant.opset}, {variant.precision}"
        yield f"  {variant.id}: {form}, {variant.model.size:,} bytes"
        yield f"    model    {variant.model.digest}"
        yield f"    needs    {_needs(variant)}"
        yield f"    claims   {expected.metric} {expected.value:.4g}, interval [{low:.4g}, {high:.4g}]"
        yield f"    golden   {tolerance.kind}, within {tolerance.value:g}"


def _needs(variant: Variant) -> str:
    needs = variant.requires
    return "; ".join(
        (
            " or ".join(needs.arch) or "any CPU",
            f"features {' '.join(needs.cpu_features)}" if needs.cpu_features else "no CPU feature",
            f"{needs.ram_bytes:,} bytes of memory",
            " or ".join(needs.providers) or "any provider",
        )
    )


def _layers(found: Inspection) -> Iterator[str]:
    yield "layers"
    for layer in found.bundle.manifest.layers:
        variant = layer.annotation(media_types.ANNOTATION_VARIANT)
        encoding = layer.annotation(media_types.ANNOTATION_ENCODING)
        name = _LAYER_NAMES[layer.media_type] + (f" {variant}" if variant else "") + (f", encoded ({encoding})" if encoding else "")
        yield f"  {layer.digest.hex[:16]}  {layer.size:>13,} bytes  {name}"
    yield f"  golden probes: {found.bundle.contract.golden.count}"


def _lineage(found: Inspection) -> Iterator[str]:
    contract = found.bundle.contract
    budget, lineage = contract.budget, contract.lineage
    latency = [f"{name} {value:g} ms" for name, value in budget.latency_ms]
    if budget.latency_ratio is not None:
        latency.append(f"{budget.latency_ratio:g} times the active model")
    yield f"budget     accuracy drop {budget.accuracy_drop:g}; {budget.ram_bytes:,} bytes of memory; latency {', '.join(latency)}"
    yield f"source     {lineage.source}"
    yield f"recipe     {lineage.recipe}"
    for name, digest in lineage.datasets:
        yield f"data       {digest}  {name}"
    yield f"tools      {', '.join(f'{name} {version}' for name, version in lineage.tools) or 'none named'}"


def _card(found: Inspection, *, whole: bool) -> Iterator[str]:
    if found.card is None:
        return
    lines = printable(found.card, keep_lines=True).rstrip("\n").split("\n")
    shown = lines if whole else lines[:_PREVIEW_LINES]
    yield "model card (text of the publisher, not checked by anybody)"
    for line in shown:
        yield f"  | {line}"
    if len(shown) < len(lines):
        yield f"  | ... {len(lines) - len(shown)} more lines: --card"
