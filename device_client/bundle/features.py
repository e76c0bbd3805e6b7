"""What this reader understands: features, encodings and layer types. Anything else in a bundle is refused.

A feature is how a bundle says "do not run me unless you know this". New restrictions of later versions arrive as
features, never as optional fields, so that an old reader refuses instead of ignoring them (DESIGN 3).
"""

from __future__ import annotations

from typing import Final

from device_client.bundle import media_types

KNOWN_ENCODINGS: Final = frozenset({"codebook", "zstd"})
"""Values of ``org.sealift.encoding`` that this reader decodes, each with a feature ``encoding:<name>`` that permits it."""

RESERVED_ENCODINGS: Final = frozenset({"delta"})
"""Names that later versions give a meaning; until then they are refused like any unknown name."""

KNOWN_FEATURES: Final = frozenset(
    {
        "control-flow:If",
        "control-flow:Loop",
        "control-flow:Scan",
        "control-flow:SequenceMap",
        "domain:ai.onnx.ml",
        "domain:com.microsoft",
    }
)
"""Entries of the contract's ``features`` that this reader understands, besides ``encoding:<name>`` of each encoding that the caller
decodes. What each one permits is checked where the model is read: ``inference.walker`` for operator domains and control flow."""

KNOWN_LAYER_TYPES: Final = frozenset(
    {
        media_types.CONTRACT,
        media_types.WEIGHT,
        media_types.GOLDEN,
        media_types.WEIGHT_CONFIG,
        media_types.DOC,
        media_types.SBOM,
        media_types.REPORT,
    }
)
"""Media types that a layer may have. A nested index or a foreign archive is not among them."""
