"""What probation is told about a running model: counts from the inference service, votes from applications.

Called by ``service``. Both functions check what they are given and do nothing more yet: the rest follows with probation, which
judges the counts and rolls back.
"""

from __future__ import annotations

from dataclasses import dataclass

from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.install.folder import DeviceFolder


@dataclass(frozen=True)
class Health:
    """What happened since the last hand-over.

    ``runs``: inferences that the runtime ended, well or not. ``failures``: those of them that ended with an error of the
    runtime. ``non_finite``: those of them with NaN or infinity in an output. ``crashes``: workers that died, hung, ran out of
    memory or could not load the model; not part of ``runs``.
    """

    runs: int = 0
    failures: int = 0
    non_finite: int = 0
    crashes: int = 0

    def __post_init__(self) -> None:
        counts = (self.runs, self.failures, self.non_finite, self.crashes)
        if min(counts) < 0 or max(self.failures, self.non_finite) > self.runs:
            raise ValueError(f"impossible counts: {self}")


def record_health(folder: DeviceFolder, model: ModelPath, manifest: Digest, health: Health) -> None:
    """Adds counts to a bundle on probation; does nothing for any other."""
    _check(folder, model, manifest)
    if not isinstance(health, Health):
        raise TypeError("health is a Health")


def record_vote(folder: DeviceFolder, model: ModelPath, manifest: Digest, *, good: bool) -> None:
    """Counts what an allowed application says of a bundle on probation; does nothing for any other."""
    _check(folder, model, manifest)
    if not isinstance(good, bool):
        raise TypeError("good is a bool")


def _check(folder: DeviceFolder, model: ModelPath, manifest: Digest) -> None:
    if not (isinstance(folder, DeviceFolder) and isinstance(model, ModelPath) and isinstance(manifest, Digest)):
        raise TypeError("a device's folder, a model and a manifest's digest")
