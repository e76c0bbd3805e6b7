"""The folder of a run: ``audit.json``, its digest, the images that may be shown, and the page.

Written as a whole (temporary folder, then rename), so a run that fails leaves nothing half made. Reading checks every
digest and rules again. What this does not protect against: whoever may write this folder can put another, complete
audit in its place. Attest on the machine that ran the audit; the signature is what others trust.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from audits.evidence import AUDIT_FILE, IMAGES_FILE, Audit
from audits.evidence_reader import MAX_AUDIT_BYTES, read_audit
from audits.report.images import WAYS, ReportImages, keep, read_images
from audits.report.page import render_report
from audits.run import RunResult
from device_client.bundle.digest import Digest
from device_client.errors import IntegrityError, LimitError, UsageError

DIGEST_FILE = "audit.sha256"
REPORT_FILE = "report.html"
_MAX_IMAGES_BYTES = 512 * 1024 * 1024
_MAX_DIGEST_BYTES = 128


@dataclass(frozen=True)
class StoredAudit:
    """An audit read back: consistent with its digests and with its own numbers."""

    audit: Audit
    evidence: Digest
    images: ReportImages


def write_audit(result: RunResult, out: Path, *, private: bool) -> StoredAudit:
    """Writes a run to the new folder ``out``.

    Args:
        result: of ``run_audit``.
        out: must not exist.
        private: keep full images instead of blurred ones.

    Raises:
        UsageError: ``out`` exists.
    """
    if out.exists():
        raise UsageError("the output folder exists", code="file_exists", where=str(out), hint="choose another --out")
    source = result.images
    images = keep(
        class_means=source.class_means,
        heldouts=source.heldouts,
        reconstructions={key: values for key, values in source.attacks.items() if key[1] in WAYS},
        start=source.start,
        records=source.records,
        private=private,
    )
    image_bytes = images.to_bytes()
    audit = replace(result.audit, images={"digest": str(Digest.of(image_bytes)), "private": private})
    data = audit.to_bytes()
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))  # mode 0700: images are private
    try:
        (work / AUDIT_FILE).write_bytes(data)
        (work / DIGEST_FILE).write_text(f"{Digest.of(data).hex}  {AUDIT_FILE}\n", encoding="ascii")
        (work / IMAGES_FILE).write_bytes(image_bytes)
        (work / REPORT_FILE).write_text(render_report(audit, images), encoding="utf-8")
        work.rename(out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return StoredAudit(audit, Digest.of(data), images)


def read_stored(folder: Path) -> StoredAudit:
    """Reads a run's folder.

    Raises:
        UsageError: a file is missing.
        FormatError, LimitError: a file is not what it should be.
        IntegrityError: a file was changed after the run (``audit_edited``).
    """
    data = _read(folder / AUDIT_FILE, MAX_AUDIT_BYTES)
    evidence = Digest.of(data)
    recorded = _read(folder / DIGEST_FILE, _MAX_DIGEST_BYTES).decode("ascii", "replace").split()[:1]
    if recorded != [evidence.hex]:
        raise _edited(folder / AUDIT_FILE, expected=recorded[0] if recorded else "a digest", actual=evidence.hex)
    audit = read_audit(data, where=str(folder / AUDIT_FILE))
    image_bytes = _read(folder / IMAGES_FILE, _MAX_IMAGES_BYTES)
    if str(Digest.of(image_bytes)) != audit.images.get("digest"):
        raise _edited(folder / IMAGES_FILE, expected=audit.images.get("digest"), actual=Digest.of(image_bytes))
    return StoredAudit(audit, evidence, read_images(image_bytes, where=str(folder / IMAGES_FILE)))


def write_report(stored: StoredAudit, folder: Path) -> Path:
    """Renders the page again, in place of the old one as a whole."""
    path = folder / REPORT_FILE
    page = render_report(stored.audit, stored.images)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=folder, prefix=f".{REPORT_FILE}.", delete=False) as file:
        work = Path(file.name)
    try:
        work.write_text(page, encoding="utf-8")
        work.replace(path)
    except BaseException:
        work.unlink(missing_ok=True)
        raise
    return path


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as e:
        raise UsageError(
            "cannot read the audit",
            code="audit_missing",
            where=str(path),
            hint="give the folder that `sealift audit run --out` wrote",
        ) from e
    if len(data) > max_bytes:
        raise LimitError("file too long", code="too_large", where=str(path), expected=f"at most {max_bytes} bytes")
    return data


def _edited(path: Path, *, expected: object, actual: object) -> IntegrityError:
    return IntegrityError(
        "the file was changed after the run",
        code="audit_edited",
        where=str(path),
        expected=expected,
        actual=actual,
        hint="run the audit again",
    )
