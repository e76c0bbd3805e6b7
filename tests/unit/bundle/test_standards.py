"""The bundle as others see it: an OCI 1.1 image manifest and layout, and a CNCF ModelPack artifact.

The schemas of manifest and index and the layout check are those of the ``oras`` package. ModelPack publishes no Python
package; its rules for the config (https://github.com/modelpack/model-spec, ``docs/config.md``) are stated here.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import oras.schemas
import pytest
from oras.layout import NewLayout

from device_client.bundle import canonical_json

from .samples import MemorySource, sample_bundle, write_layout

MODELPACK_DESCRIPTOR = {
    *("createdAt", "authors", "family", "name", "docURL", "sourceURL", "datasetsURL", "version"),
    *("revision", "vendor", "licenses", "title", "description"),
}
MODELPACK_CONFIG = {"architecture", "format", "paramSize", "precision", "quantization", "capabilities"}
MODELPACK_LAYER = re.compile(r"application/vnd\.cncf\.model\.(weight|weight\.config|doc)\.v1\.raw")
MODELPACK_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def _manifest() -> tuple[MemorySource, dict[str, Any]]:
    source, _, digest = sample_bundle()
    return source, json.loads(source.blobs[digest])


def test_manifest_fits_the_oci_schema_of_oras() -> None:
    jsonschema.validate(_manifest()[1], oras.schemas.manifest)


DEFECTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no layers": lambda manifest: manifest.pop("layers"),
    "no config": lambda manifest: manifest.pop("config"),
    "size as text": lambda manifest: manifest["layers"][0].update(size="12"),
    "version as text": lambda manifest: manifest.update(schemaVersion="2"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_schema_of_oras_would_notice(defect: str) -> None:
    damaged = copy.deepcopy(_manifest()[1])
    DEFECTS[defect](damaged)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(damaged, oras.schemas.manifest)


def test_folder_is_a_layout_that_oras_reads(tmp_path: Path) -> None:
    source, _, digest = sample_bundle()
    folder = write_layout(tmp_path / "bundle", source, digest)
    NewLayout(str(folder), validate=True)
    jsonschema.validate(json.loads((folder / "index.json").read_bytes()), oras.schemas.index)
    (folder / "oci-layout").write_text("{}")
    with pytest.raises(ValueError, match="imageLayoutVersion"):
        NewLayout(str(folder), validate=True)


def test_manifest_follows_modelpack() -> None:
    _, manifest = _manifest()
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert any(MODELPACK_LAYER.fullmatch(layer["mediaType"]) for layer in manifest["layers"])


def test_config_follows_modelpack() -> None:
    source, manifest = _manifest()
    data = next(data for digest, data in source.blobs.items() if str(digest) == manifest["config"]["digest"])
    config = json.loads(data)
    assert config.keys() == {"descriptor", "config", "modelfs"}
    assert config["descriptor"].keys() <= MODELPACK_DESCRIPTOR
    assert config["config"].keys() <= MODELPACK_CONFIG
    assert all(isinstance(value, str) and value for part in ("descriptor", "config") for value in config[part].values())
    assert config["modelfs"].keys() == {"type", "diffIds"}
    assert config["modelfs"]["type"] == "layers"
    assert all(MODELPACK_DIGEST.fullmatch(digest) for digest in config["modelfs"]["diffIds"])
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]
    assert data == canonical_json(config)


def test_config_holds_no_time() -> None:
    source, manifest = _manifest()
    assert b"createdAt" not in b"".join(source.blobs.values())
    assert "org.opencontainers.image.created" not in json.dumps(manifest)
