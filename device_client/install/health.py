"""How a running model does, as whoever runs it counted: the facts for probation (``policy/probation.py``).

Called by the inference service every so often, by any process that may write the device's state. One small transaction; needs no
lock, since it changes counts only. What is told about a bundle that is not on probation changes nothing. A count that condemns the
bundle is acted upon at once, unless a poll is at work, which judges at its next start.

    record_health(folder, model, manifest, Health(runs=1000, failures=1))
    record_vote(folder, model, manifest, good=False)
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from device_client.bundle.digest import Digest
from device_client.bundle.path import ModelPath
from device_client.errors import SealiftError
from device_client.install.folder import DeviceFolder
from device_client.install.state import open_state
from device_client.policy.probation import Observation

logger = logging.getLogger(__name__)

_MAX_COUNT = 2**53 - 1  # what a row holds and JSON shows


@dataclass(frozen=True)
class Health:
    """What was counted since it was told last.

    Attributes:
        runs: inferences that the runtime ended, well or not.
        failures: those of them that ended with an error of the runtime.
        non_finite: those of them with NaN or infinity in an output.
        crashes: workers that died, hung, ran out of memory or could not load the model; not part of ``runs``.
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
    """Adds to the counts of a bundle, if it is on probation.

    Raises:
        StateError: the state cannot be read or written.
    """
    _add(
        folder,
        model,
        manifest,
        Observation(runs=health.runs, failures=health.failures, non_finite=health.non_finite, crashes=health.crashes),
    )


def record_vote(folder: DeviceFolder, model: ModelPath, manifest: Digest, *, good: bool) -> None:
    """An application says how a bundle does, if it is on probation. Who may vote is decided by the caller.

    Raises:
        StateError: the state cannot be read or written.
    """
    _add(folder, model, manifest, Observation(votes_good=int(good), votes_bad=int(not good)))


def _add(folder: DeviceFolder, model: ModelPath, manifest: Digest, more: Observation) -> None:
    with open_state(folder.state) as state, state.transaction():
        found = state.probation(model)
        if found is None or found.manifest != manifest:
            return
        seen = found.seen
        names = ("runs", "failures", "non_finite", "crashes", "votes_good", "votes_bad")
        sums = {name: min(getattr(seen, name) + getattr(more, name), _MAX_COUNT) for name in names}
        state.set_probation(model, replace(found, seen=replace(seen, **sums)))
    if more.failures or more.non_finite or more.crashes or more.votes_bad:
        _judge_now(folder, model)


def _judge_now(folder: DeviceFolder, model: ModelPath) -> None:
    from device_client.install.boot import judge  # what it needs is not needed to count

    try:
        judge(folder, model)
    except SealiftError as e:  # busy, or a disk that refuses: the next poll judges
        logger.info("%s is judged at the next poll: %s", model, e)
