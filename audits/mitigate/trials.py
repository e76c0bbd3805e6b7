"""One trial of a search, and the folder that keeps finished ones, so that a run which was stopped goes on.

A trial is kept under the digest of everything that decides it: models, records, fix, seeds, judge, trainer, versions. Files are
written whole (temporary name, then rename). They hold trained models: the folder is readable by its owner only. A file that is
not what was written is an error and never repaired.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audits.data import Bools
from audits.mitigate.judge import Judged
from audits.verdict import Verdict
from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import FormatError, IntegrityError
from device_client.limits import DEFAULT_LIMITS

_MAX_TRIAL_BYTES = 4 * 1024 * 1024
_FIELDS = ("key", "verdict", "leak", "unit", "p_value", "reasons", "accuracy_members", "answers", "right", "model")


@dataclass(frozen=True)
class Trial:
    """What one training with one fix, judged once, gave.

    Attributes:
        judged: the worst over the views of the records.
        accuracy_members: share of members that it gets right.
        right: its right answers on the held-outs, (N,).
        model: ONNX bytes.
    """

    judged: Judged
    accuracy_members: float
    right: Bools
    model: bytes

    @property
    def accuracy(self) -> float:
        """Share of held-outs that it gets right."""
        return float(self.right.mean())


def trial_key(parts: Mapping[str, object]) -> Digest:
    """The digest under which a trial is kept; ``parts`` are JSON values."""
    return Digest.of(canonical_json(dict(parts)))


class TrialFolder:
    """Finished trials.

    Args:
        folder: made with mode 0700 when the first trial is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: Digest) -> Trial | None:
        """The trial, or None if it was not finished.

        Raises:
            IntegrityError: its files are not what was written (``trial_edited``).
        """
        path = self._folder / f"{key.hex}.json"
        if not path.exists():
            return None
        try:
            return self._read(path, key)
        except (FormatError, OSError, ValueError) as e:
            raise _edited(path) from e

    def put(self, key: Digest, trial: Trial) -> None:
        """Keeps a trial: the model first, so that a record without its model cannot be."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        model = Digest.of(trial.model)
        record = {
            "key": str(key),
            "verdict": trial.judged.verdict.value,
            "leak": trial.judged.leak,
            "unit": trial.judged.unit,
            "p_value": trial.judged.p_value,
            "reasons": list(trial.judged.reasons),
            "accuracy_members": trial.accuracy_members,
            "answers": len(trial.right),
            "right": np.packbits(trial.right).tobytes().hex(),
            "model": str(model),
        }
        self._write(self._folder / f"{model.hex}.onnx", trial.model)
        self._write(self._folder / f"{key.hex}.json", canonical_json(record))

    def _read(self, path: Path, key: Digest) -> Trial:
        with path.open("rb") as file:
            data = file.read(_MAX_TRIAL_BYTES + 1)
        fields = Fields(parse_strict(data, max_bytes=_MAX_TRIAL_BYTES, where=str(path)), where=str(path), known=_FIELDS)
        answers = fields.integer("answers", minimum=1, maximum=8 * _MAX_TRIAL_BYTES)
        bits = np.frombuffer(bytes.fromhex(fields.text("right", max_chars=_MAX_TRIAL_BYTES)), dtype=np.uint8)
        digest = Digest.parse(fields.text("model"), where=str(path))
        with (self._folder / f"{digest.hex}.onnx").open("rb") as file:
            model = file.read(DEFAULT_LIMITS.max_model_bytes + 1)
        if fields.text("key") != str(key) or Digest.of(model) != digest or len(bits) != (answers + 7) // 8:
            raise _edited(path)
        leak, p_value = (None if fields.raw(name) is None else fields.number(name) for name in ("leak", "p_value"))
        reasons = fields.items("reasons", _text)
        verdict = Verdict(fields.text("verdict", choices=[item.value for item in Verdict]))
        judged = Judged(verdict, leak, fields.text("unit"), p_value, reasons)
        right = np.unpackbits(bits, count=answers).astype(np.bool_)
        return Trial(judged, fields.number("accuracy_members"), right, model)

    def _write(self, path: Path, data: bytes) -> None:
        work = path.with_name(f".{path.name}.{os.getpid()}")
        work.write_bytes(data)
        work.replace(path)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > 4096:
        raise FormatError("not a text", code="trial_edited", where=where)
    return value


def _edited(path: Path) -> IntegrityError:
    return IntegrityError(
        "a finished trial is not what was written",
        code="trial_edited",
        where=str(path),
        hint="remove the file; the trial is then made again",
    )
