from __future__ import annotations

import json
import re
from typing import Any

import pytest

from device_client.bundle import media_types
from packager.pack import PackResult
from packager.sbom import serial_number

from .test_pack import layer


@pytest.fixture
def document(packed: PackResult) -> Any:
    return json.loads(layer(packed.out, media_types.SBOM))


def test_it_is_a_cyclonedx_ml_bom(document: Any) -> None:
    assert (document["bomFormat"], document["specVersion"], document["version"]) == ("CycloneDX", "1.6", 1)
    assert document["metadata"]["component"]["type"] == "machine-learning-model"
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", document["serialNumber"])


def test_every_variant_is_there_by_the_digest_of_its_bytes(document: Any, packed: PackResult) -> None:
    hashes = {item["content"] for component in document["components"] for item in component.get("hashes", [])}
    assert {variant.model.digest.hex for variant in packed.bundle.contract.variants} <= hashes
    assert packed.bundle.contract.lineage.source.hex in hashes


def test_every_reference_leads_to_a_component(document: Any) -> None:
    known = {document["metadata"]["component"]["bom-ref"], *(component["bom-ref"] for component in document["components"])}
    for entry in document["dependencies"]:
        assert {entry["ref"], *entry["dependsOn"]} <= known
    for component in document["components"]:
        for dataset in component.get("modelCard", {}).get("modelParameters", {}).get("datasets", []):
            assert dataset["ref"] in known


def test_it_holds_no_time_and_its_serial_follows_from_its_content(document: Any) -> None:
    assert "timestamp" not in document["metadata"]
    assert serial_number(b"a") == serial_number(b"a") != serial_number(b"b")


def test_each_variant_has_its_metric_quantisation_and_modelled_energy(document: Any, packed: PackResult) -> None:
    variant = next(component for component in document["components"] if component["bom-ref"] == "variant:int8-static")
    metric = variant["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]
    assert set(metric["confidenceInterval"]) == {"lowerBound", "upperBound"}
    properties = {item["name"]: item["value"] for item in variant["properties"]}
    assert (properties["sealift:precision"], properties["sealift:techniques"]) == ("int8", "int8-static")
    assert properties["sealift:macs-int8"] == properties["sealift:macs"]
    energies = variant["modelCard"]["considerations"]["environmentalConsiderations"]["energyConsumptions"]
    assert len(energies) == 6
    for entry in energies:
        assert set(entry) == {"activity", "energyProviders", "activityEnergyCost", "properties"}
        assert entry["activity"] == "inference"
        assert entry["activityEnergyCost"]["unit"] == "kWh"
        assert 0 < entry["activityEnergyCost"]["value"] < 1e-6
        assert {"name": "sealift:kind", "value": "modelled"} in entry["properties"]


def test_the_licence_is_the_one_that_the_recipe_states(document: Any) -> None:
    assert document["metadata"]["component"]["licenses"] == [{"license": {"name": "BSD-3-Clause"}}]
