"""The bundle format: an OCI artifact that is verified, never unpacked. Standard library only.

The specification is ``docs/bundle-format.md``; vectors for other implementations are in ``tests/vectors``.
"""

from device_client.bundle.config import ModelConfig, parse_config
from device_client.bundle.contract import (
    SCHEMA,
    Budget,
    Contract,
    Expected,
    Golden,
    Lineage,
    ModelRef,
    Requires,
    TensorSpec,
    Tolerance,
    Variant,
    parse_contract,
)
from device_client.bundle.counter import Counter
from device_client.bundle.descriptor import Descriptor
from device_client.bundle.digest import Digest
from device_client.bundle.features import KNOWN_ENCODINGS, KNOWN_FEATURES, KNOWN_LAYER_TYPES, RESERVED_ENCODINGS
from device_client.bundle.layout import BlobSource, ClosedBlobSource, LayoutDirectory, copy_blob, read_blob
from device_client.bundle.manifest import Manifest, parse_manifest
from device_client.bundle.path import BundlePath, ModelPath
from device_client.bundle.preprocessing import Clip, Normalise, PreprocessingStep, Scale
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.bundle.verified import VerifiedBundle, verify_bundle

__all__ = [
    "KNOWN_ENCODINGS",
    "KNOWN_FEATURES",
    "KNOWN_LAYER_TYPES",
    "RESERVED_ENCODINGS",
    "SCHEMA",
    "BlobSource",
    "Budget",
    "BundlePath",
    "Clip",
    "ClosedBlobSource",
    "Contract",
    "Counter",
    "Descriptor",
    "Digest",
    "Expected",
    "Golden",
    "LayoutDirectory",
    "Lineage",
    "Manifest",
    "ModelConfig",
    "ModelPath",
    "ModelRef",
    "Normalise",
    "PreprocessingStep",
    "Requires",
    "Scale",
    "TensorSpec",
    "Tolerance",
    "Variant",
    "VerifiedBundle",
    "canonical_json",
    "copy_blob",
    "parse_config",
    "parse_contract",
    "parse_manifest",
    "parse_strict",
    "read_blob",
    "verify_bundle",
]
