"""The bill of materials: a CycloneDX 1.6 ML-BOM of the variants, the original, the data and the tools.

Deterministic: no time, and a serial number derived from the content. No version or counter, so that a re-issue keeps
it. Data sets are named by digest only; nothing of their content is here.
"""

from __future__ import annotations

import hashlib

from device_client.bundle.digest import Digest
from device_client.bundle.strict_json import canonical_json
from packager.facts import Candidate, PackFacts
from packager.measure.device_model import model_all
from packager.measure.workload import Workload
from packager.tools import tool_versions

_MICROJOULES_PER_KWH = 3.6e12


def build_sbom(facts: PackFacts) -> bytes:
    """The CycloneDX document as canonical JSON."""
    path, recipe, loaded, datasets = facts.path, facts.recipe, facts.loaded, facts.parts.digests()
    data_refs = [f"data:{name}" for name, _ in datasets]
    components = [
        *(_variant(facts, candidate, data_refs=data_refs) for candidate in facts.shipped),
        _original(facts),
        *(_dataset(name, digest) for name, digest in datasets),
    ]
    model: dict[str, object] = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "group": path.line,
        "name": path.model,
        "properties": [{"name": "sealift:recipe", "value": str(recipe.digest())}],
    }
    if recipe.card.description:
        model["description"] = recipe.card.description
    if recipe.card.licence:
        model["licenses"] = [{"license": {"name": recipe.card.licence}}]
    document: dict[str, object] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": model,
            "tools": {
                "components": [
                    {"type": "application", "name": name, "version": version} for name, version in tool_versions(loaded.tools)
                ]
            },
        },
        "components": components,
        "dependencies": [
            {"ref": "model", "dependsOn": sorted(f"variant:{candidate.id}" for candidate in facts.shipped)},
            *({"ref": f"variant:{candidate.id}", "dependsOn": ["original", *data_refs]} for candidate in facts.shipped),
        ],
    }
    return canonical_json({**document, "serialNumber": serial_number(canonical_json(document))})


def serial_number(content: bytes) -> str:
    """A UUID of version 8 (RFC 9562: free use of the bits) made from the digest of ``content``."""
    digits = list(hashlib.sha256(content).hexdigest()[:32])
    digits[12] = "8"
    digits[16] = "89ab"[int(digits[16], 16) % 4]
    text = "".join(digits)
    return f"urn:uuid:{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _variant(facts: PackFacts, candidate: Candidate, *, data_refs: list[str]) -> dict[str, object]:
    judged = candidate.evaluation
    workload = facts.workloads[candidate.id]
    techniques = [str(evidence.get("technique", "?")) for evidence in candidate.evidence]
    properties = {
        "sealift:precision": candidate.precision,
        "sealift:techniques": ", ".join(techniques) or "none",
        "sealift:bytes": str(candidate.size_bytes),
        "sealift:stored-bytes": str(facts.stored_bytes(candidate)),
        "sealift:macs": str(workload.macs.total),
        **{f"sealift:macs-{kind}": str(count) for kind, count in workload.macs.by_arithmetic.items()},
        "sealift:peak-activation-bytes": str(workload.memory.peak_bytes),
        "sealift:budget": judged.budget.verdict.value,
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": f"variant:{candidate.id}",
        "group": facts.path.line,
        "name": f"{facts.path.model}:{candidate.id}",
        "hashes": [{"alg": "SHA-256", "content": candidate.model.digest.hex}],
        "modelCard": {
            "modelParameters": {"task": facts.task, "datasets": [{"ref": ref} for ref in data_refs]},
            "quantitativeAnalysis": {
                "performanceMetrics": [
                    {
                        "type": judged.metric,
                        "value": f"{judged.estimate.value:.6f}",
                        "slice": "test",
                        "confidenceInterval": {
                            "lowerBound": f"{judged.estimate.low:.6f}",
                            "upperBound": f"{judged.estimate.high:.6f}",
                        },
                    }
                ]
            },
            "considerations": {
                **_stated(facts),
                "environmentalConsiderations": {"energyConsumptions": _energy(workload)},
            },
        },
        "properties": [{"name": name, "value": value} for name, value in properties.items()],
    }


def _stated(facts: PackFacts) -> dict[str, object]:
    """What only a person knows, where the recipe says it."""
    card = facts.recipe.card
    stated = {"useCases": card.intended_use, "technicalLimitations": card.limitations}
    return {name: [text] for name, text in stated.items() if text}


def _energy(workload: Workload) -> list[dict[str, object]]:
    """One inference on each device profile. The unit is the format's; the source of the electricity is not known."""
    return [
        {
            "activity": "inference",
            "energyProviders": [],
            "activityEnergyCost": {"value": float(f"{figures.energy.value / _MICROJOULES_PER_KWH:.4g}"), "unit": "kWh"},
            "properties": [
                {"name": "sealift:kind", "value": figures.energy.kind},
                {"name": "sealift:profile", "value": figures.profile.name},
                {"name": "sealift:per", "value": "one inference of one row, above idle"},
            ],
        }
        for figures in model_all(workload)
        if figures.energy.value is not None
    ]


def _original(facts: PackFacts) -> dict[str, object]:
    return {
        "type": "machine-learning-model",
        "bom-ref": "original",
        "group": facts.path.line,
        "name": f"{facts.path.model}:original",
        "description": f"{facts.loaded.source_name}; not part of the bundle",
        "hashes": [{"alg": "SHA-256", "content": facts.loaded.source_digest.hex}],
    }


def _dataset(name: str, digest: Digest) -> dict[str, object]:
    return {
        "type": "data",
        "bom-ref": f"data:{name}",
        "name": name,
        "data": [{"type": "dataset", "name": name}],
        "properties": [{"name": "sealift:rows-digest", "value": str(digest)}],
    }
