"""Finished trials on disk, so that a search that was cut off goes on where it ended, and a second one is fast.

Each trial is two files named by the digest of everything that decides its result: the model's bytes, the chain with every
setting, the digests of the parts, the seed, the training plan, the versions of the tools and the packager's own sources. The
model is written first and the record last, both under a temporary name and renamed, so that a kill leaves a whole trial or
none. A record whose model does not have the recorded digest is not used. Failures of a technique are kept too: they are as
repeatable as results. The oldest trials go where the folder is larger than ``MAX_CACHE_BYTES``.

Latency is not kept: it belongs to a machine and a moment.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from device_client.bundle.digest import Digest
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import SealiftError
from device_client.limits import GIB, MIB
from packager.auto.trial import Chain
from packager.technique import Compressed, TechniqueContext
from packager.tools import tool_versions

MAX_CACHE_BYTES = 2 * GIB
_MAX_RECORD_BYTES = MIB
_PACKAGER = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Made:
    """What a chain made: a model, or the reason why not. ``is_repeatable``: false where it lay in the machine's state."""

    model: Compressed | None
    failure: str | None = None
    is_repeatable: bool = True


class TrialCache:
    """A folder of finished trials; ``None`` as the folder keeps nothing."""

    def __init__(self, folder: Path | None, *, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _remove_oldest(folder, max_bytes=max_bytes)

    def load(self, key: Digest) -> Made | None:
        """The trial of that key, or ``None`` if there is none that can be trusted."""
        if self._folder is None:
            return None
        try:
            with (self._folder / f"{key.hex}.json").open("rb") as file:
                record = parse_strict(file.read(_MAX_RECORD_BYTES + 1), max_bytes=_MAX_RECORD_BYTES, where="cached trial")
            if not isinstance(record, dict):
                return None
            if record["failure"] is not None:
                return Made(None, str(record["failure"]))
            data = (self._folder / f"{key.hex}.onnx").read_bytes()
            if str(Digest.of(data)) != record["digest"]:
                return None
            return Made(Compressed(data, str(record["precision"]), tuple(record["evidence"])))
        except (OSError, SealiftError, KeyError, TypeError):
            return None

    def store(self, key: Digest, made: Made) -> None:
        """Keeps a trial. A disk that is full or read-only costs the next search time and this one nothing."""
        if self._folder is None:
            return
        model = made.model
        record: dict[str, object] = {"failure": made.failure}
        if model is not None:
            record |= {"digest": str(Digest.of(model.data)), "precision": model.precision, "evidence": list(model.evidence)}
        try:
            if model is not None:
                _write(self._folder / f"{key.hex}.onnx", model.data)
            _write(self._folder / f"{key.hex}.json", json.dumps(record, sort_keys=True).encode())
        except OSError:
            return


def trial_key(model: Digest, chain: Chain, context: TechniqueContext, *, data: dict[str, str]) -> Digest:
    """The digest of all that decides what a chain makes.

    Args:
        model: digest of the original in its normal form.
        chain: the techniques.
        context: for seed, task and training plan.
        data: digest of each part that techniques may look at, by name.
    """
    return Digest.of(
        canonical_json(
            {
                "model": str(model),
                "chain": [step.to_json() for step in chain],
                "task": context.task,
                "seed": context.seed,
                "training": dict(vars(context.training)),
                "data": data,
                "tools": [list(pair) for pair in tool_versions(("torch",) if context.train is not None else ())],
                "sources": _sources_digest(),
            }
        )
    )


def default_cache_folder() -> Path:
    """``$XDG_CACHE_HOME/sealift/trials``, or the same under ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sealift" / "trials"


@functools.cache
def _sources_digest() -> str:
    """Of the packager itself: what a technique makes depends on its code, whatever the version says."""
    state = hashlib.sha256()
    for path in sorted(_PACKAGER.rglob("*.py")):
        state.update(hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


def _remove_oldest(folder: Path, *, max_bytes: int) -> None:
    """Keeps the folder within its bound; another process may be removing the same files."""
    found = []
    for path in folder.glob("*.*"):
        try:
            found.append((path.stat().st_mtime, path.stat().st_size, path))
        except FileNotFoundError:
            continue
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= max_bytes:
            return
        path.unlink(missing_ok=True)
        total -= size


def _write(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
