"""Reads the accuracy-budget verdict out of a bundle's compression report, for `sign`."""

from __future__ import annotations

from device_client.bundle import media_types
from device_client.bundle.fields import Fields
from device_client.bundle.layout import BlobSource, read_blob
from device_client.bundle.strict_json import parse_strict
from device_client.bundle.verified import VerifiedBundle
from device_client.errors import PolicyError
from device_client.limits import MIB

MAX_REPORT_BYTES = MIB


def require_budget_met(bundle: VerifiedBundle, source: BlobSource, *, accept_unproven: bool) -> None:
    """Refuses to sign a bundle whose accuracy budget was missed, or is unproven unless that was accepted (DESIGN 7).

    Raises:
        PolicyError: ``budget_missed`` or ``budget_unproven``.
        FormatError: there is no readable report.
    """
    for layer in bundle.manifest.layers_of(media_types.REPORT):
        data = read_blob(source, layer.digest, layer.size, where="compression report")
        report = Fields(parse_strict(data, max_bytes=MAX_REPORT_BYTES, where="compression report"), where="compression report")
        verdict = report.fields("budget").text("verdict", choices=("met", "unproven", "missed"))
        if verdict == "missed":
            raise PolicyError(
                "the accuracy budget was missed",
                code="budget_missed",
                where=str(bundle.path),
                hint="pack with another recipe or another budget",
            )
        if verdict == "unproven" and not accept_unproven:
            raise PolicyError(
                "the accuracy budget is unproven",
                code="budget_unproven",
                where=str(bundle.path),
                hint="evaluate on more samples, or sign with --accept-unproven",
            )
        return
    raise PolicyError(
        "the bundle has no compression report",
        code="budget_unproven",
        where=str(bundle.path),
        hint="make bundles with `sealift pack`",
    )
