"""Builds the contract from the facts of a pack; ``device_client.bundle.contract`` owns its format."""

from __future__ import annotations

from device_client.bundle.contract import Contract, Expected, Golden, Lineage, ModelRef, Requires, Variant
from device_client.bundle.digest import Digest
from device_client.inference.walker import CheckedModel
from packager.facts import Candidate, PackFacts
from packager.features import features_of_all
from packager.footprint import process_bytes
from packager.measure.workload import Workload, count_workload
from packager.ptq.saturation import is_saturation_safe
from packager.tensors import describe_tensors
from packager.tools import tool_versions

PROVIDER = "CPUExecutionProvider"


def build_contract(facts: PackFacts) -> Contract:
    """The contract of the bundle."""
    loaded, recipe = facts.loaded, facts.recipe
    return Contract(
        line=facts.path.line,
        model=facts.path.model,
        version=facts.path.version,
        counter=facts.counter,
        task=facts.task,
        inputs=facts.inputs,
        outputs=describe_tensors(loaded.model.outputs, recipe.outputs, kind="outputs"),
        preprocessing=recipe.preprocessing,
        variants=tuple(
            _variant(candidate, facts.stored(candidate).digest, facts.workloads[candidate.id]) for candidate in facts.shipped
        ),
        golden=Golden(Digest.of(facts.golden.data), facts.golden.count, facts.golden.tolerances),
        budget=recipe.budget,
        lineage=Lineage(loaded.source_digest, recipe.digest(), facts.parts.digests(), tool_versions(loaded.tools)),
        features=tuple(sorted({*features_of_all(item.model for item in facts.shipped), *_encoding_features(facts)})),
    )


def requirements(model: CheckedModel, workload: Workload | None = None) -> Requires:
    """What a device must have, read from the bytes: weights that could saturate need the instructions that do not.

    Args:
        model: the variant.
        workload: of the model, where it was counted already (with an example of its dynamic axes).
    """
    safe = is_saturation_safe(model.data)
    return Requires(
        arch=() if safe else ("x86_64",),
        cpu_features=() if safe else ("avx512_vnni",),
        ram_bytes=process_bytes(workload or count_workload(model.data)),
        providers=(PROVIDER,),
    )


def _encoding_features(facts: PackFacts) -> tuple[str, ...]:
    """What a reader must decode."""
    return tuple(
        sorted({f"encoding:{name}" for candidate in facts.shipped if (name := facts.stored(candidate).encoding) is not None})
    )


def _variant(candidate: Candidate, layer: Digest, workload: Workload) -> Variant:
    estimate = candidate.evaluation.estimate
    return Variant(
        id=candidate.id,
        runtime="onnxruntime",
        format="onnx",
        opset=candidate.model.opset,
        precision=candidate.precision,
        layer=layer,
        model=ModelRef(candidate.model.digest, candidate.size_bytes),
        requires=requirements(candidate.model, workload),
        expected=Expected(candidate.evaluation.metric, round(estimate.value, 6), (round(estimate.low, 6), round(estimate.high, 6))),
    )
