"""How things are on this device when a release is wanted: asked once per poll, just before its download.

Finds out what ``policy/local.py`` decides on: how long the release has been waiting, and what the owner's own program says.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from device_client.bundle.digest import Digest
from device_client.install.cycle import Cycle
from device_client.install.state_probation import Stretch
from device_client.policy.local import Conditions, check_conditions

READY_TIMEOUT_S = 10.0
_NOT_STARTED = 127
_TOO_SLOW = 124


def check_ready(cycle: Cycle, manifest: Digest) -> None:
    """Whether the owner lets this device take a release now; counts how long it has been waiting.

    Raises:
        PolicyError: ``deferred_window`` or ``deferred_not_ready``.
        StateError: the state cannot be written.
    """
    policy, state, at = cycle.device.policy.install, cycle.state, cycle.uptime()
    if not policy.windows and not policy.ready_command:
        return
    waiting = (state.waiting(cycle.model, manifest) or Stretch.beginning(at)).until(at)
    with state.transaction():
        state.set_waiting(cycle.model, manifest, waiting)
    status = ask_owner(policy.ready_command) if policy.ready_command else None
    check_conditions(policy, Conditions(cycle.clock(), waiting.elapsed_s, status))


def ask_owner(command: Sequence[str]) -> int:
    """The exit status of the owner's program; a program that does not start or does not end says no."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=READY_TIMEOUT_S,
            check=False,
        )
    except OSError:
        return _NOT_STARTED
    except subprocess.TimeoutExpired:
        return _TOO_SLOW
    return done.returncode
