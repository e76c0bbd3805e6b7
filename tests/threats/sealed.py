"""Tiny bundles that are real: ONNX files that compute, golden probes of the packager, sealed by the packager's own writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from demo.names import LINE, MODEL
from device_client.bundle import media_types
from device_client.bundle.contract import Budget, Contract, Expected, Golden, Lineage, ModelRef, TensorSpec, Variant
from device_client.bundle.counter import Counter
from device_client.bundle.descriptor import Descriptor
from device_client.bundle.digest import Digest
from device_client.bundle.verified import VerifiedBundle
from device_client.inference.golden import GoldenProbes, encode_golden, parse_golden
from device_client.inference.walker import check_model
from device_client.trust.refs import BlobRef
from packager.contract_writer import requirements
from packager.golden import GoldenResult, GoldenVariant, build_golden
from packager.golden_plan import GoldenPlan
from packager.measurements import measurements_path, write_measurements
from packager.probes import ProbeSpec
from packager.reissue import compose_manifest
from packager.writer import write_layout
from tests.unit.inference import models

VARIANT = "fp32"
_PLAN = GoldenPlan(probes=4, max_probes=8, mutants=6)
_PROBE = ProbeSpec("x", "float32", (3,), -10.0, 10.0)
_INPUT = TensorSpec("x", "float32", ("batch", 3), "three numbers", (-10.0, 10.0))
_OUTPUT = TensorSpec("y", "float32", ("batch", 3), "three others")


@dataclass(frozen=True)
class Sealed:
    """A bundle folder and what the verifier made of it."""

    folder: Path
    bundle: VerifiedBundle

    @property
    def manifest(self) -> BlobRef:
        return BlobRef(self.bundle.digest, len(self.bundle.manifest_bytes))

    @property
    def model(self) -> Digest:
        """The bytes that the runtime gets."""
        return self.bundle.contract.variants[0].model.digest

    @property
    def measurements(self) -> bytes:
        return measurements_path(self.folder).read_bytes()


def dense(seed: int) -> onnx.ModelProto:
    """y = x @ w + b, x: float32 (N, 3); another seed computes something else."""
    rng = np.random.default_rng(seed)
    tensors = {"w": rng.standard_normal((3, 3)), "b": rng.standard_normal(3)}
    return models.model(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        initializers=[numpy_helper.from_array(array.astype(np.float32), name) for name, array in tensors.items()],
    )


def seal(
    folder: Path,
    *,
    version: str,
    counter: int,
    seed: int = 0,
    model: bytes | None = None,
    spoil_golden: Callable[[bytes], bytes] = lambda data: data,
) -> Sealed:
    """Seals a version of the demo's model.

    Args:
        folder: where the bundle folder ``<version>`` is made.
        version: its name.
        counter: release counter within epoch 0.
        seed: which weights.
        model: other bytes in the place of the model that the probes were made from.
        spoil_golden: what somebody does to the golden file before it is sealed.
    """
    honest = check_model(dense(seed).SerializeToString())
    golden = build_golden([GoldenVariant(VARIANT, honest, "fp32")], [_PROBE], plan=_PLAN, seed=honest.digest)
    probes = spoil_golden(golden.data)
    data = honest.data if model is None else model
    digest = Digest.of(data)
    variant = Variant(
        id=VARIANT,
        runtime="onnxruntime",
        format="onnx",
        opset=honest.opset,
        precision="fp32",
        layer=digest,
        model=ModelRef(digest, len(data)),
        requires=requirements(honest),
        expected=Expected("accuracy", 0.9, (0.8, 1.0)),
    )
    contract = _contract(version, counter, variant, golden, Digest.of(probes))
    blobs: dict[Digest, bytes] = {}

    def layer(media_type: str, content: bytes, *marks: tuple[str, str]) -> Descriptor:
        blobs[Digest.of(content)] = content
        return Descriptor(media_type, Digest.of(content), len(content), marks)

    layers = (
        layer(media_types.WEIGHT, data, (media_types.ANNOTATION_VARIANT, VARIANT)),
        layer(media_types.GOLDEN, probes),
        layer(media_types.DOC, b"# A model for tests\n"),
    )
    manifest, added = compose_manifest(contract, layers)
    bundle = write_layout(folder / version, blobs={**blobs, **added}, manifest=manifest)
    write_measurements(folder / version, manifest=bundle.digest, latency={}, durations_s={})
    return Sealed(folder / version, bundle)


def wrong_outputs(golden: bytes) -> bytes:
    """The same probes with other expected outputs: what a model that computes wrongly looks like to a device."""
    found = parse_golden(golden)
    expected = {VARIANT: {name: array + np.float32(1.0) for name, array in found.expected_for(VARIANT).items()}}
    return encode_golden(GoldenProbes(found.inputs, expected))


def _contract(version: str, counter: int, variant: Variant, golden: GoldenResult, probes: Digest) -> Contract:
    return Contract(
        line=LINE,
        model=MODEL,
        version=version,
        counter=Counter(0, counter),
        task="regression",
        inputs=(_INPUT,),
        outputs=(_OUTPUT,),
        preprocessing=(),
        variants=(variant,),
        golden=Golden(probes, golden.count, golden.tolerances),
        budget=Budget(0.01, 1 << 30, (), 10.0),
        lineage=Lineage(Digest.of(b"source"), Digest.of(b"recipe")),
    )
