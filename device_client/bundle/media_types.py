"""The media types and annotations of a bundle: OCI and CNCF ModelPack names where they exist, our own otherwise."""

from __future__ import annotations

from typing import Final

INDEX: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE: Final = "application/vnd.cncf.model.manifest.v1+json"
CONFIG: Final = "application/vnd.cncf.model.config.v1+json"

CONTRACT: Final = "application/vnd.sealift.contract.v1+json"
WEIGHT: Final = "application/vnd.cncf.model.weight.v1.raw"
GOLDEN: Final = "application/vnd.sealift.golden.v1+safetensors"
WEIGHT_CONFIG: Final = "application/vnd.cncf.model.weight.config.v1.raw"
DOC: Final = "application/vnd.cncf.model.doc.v1.raw"
SBOM: Final = "application/vnd.cyclonedx+json"
REPORT: Final = "application/vnd.sealift.compression-report.v1+json"

ANNOTATION_PREFIX: Final = "org.sealift."
"""A name under this prefix is ours: one that a reader does not know is refused, not ignored."""
ANNOTATION_VARIANT: Final = "org.sealift.variant"
ANNOTATION_ENCODING: Final = "org.sealift.encoding"
