"""What the downloads of one poll share: a limit of rate, a budget of bytes, and whether this connection may be used at all.

One object for each poll, used by all its download threads. Decides when to stop or wait; moves no bytes itself.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from device_client.errors import StateError
from device_client.install.download_config import DownloadConfig

logger = logging.getLogger(__name__)
_HOOK_S = 10.0
_BURST_S = 0.25  # how far ahead of its rate a download may run before it waits


class Transfer:
    """The limits of one poll.

    Args:
        config: what the owner allows.
        clock: monotonic seconds.
        sleep: waits.
        is_metered: asks the owner's command.
    """

    def __init__(
        self,
        config: DownloadConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        is_metered: Callable[[Sequence[str]], bool] | None = None,
    ) -> None:
        self.config = config
        self._clock = clock
        self._sleep = sleep
        self._is_metered = is_metered or ask_command
        self._metered: bool | None = None
        self._lock = threading.Lock()
        self._spent = 0
        self._paid_until = clock()

    def begin(self) -> None:
        """Before anything is asked for.

        Raises:
            StateError: ``metered``, by the owner's policy, or ``byte_budget``.
        """
        if not self.config.may_use_metered:
            if self._metered is None:
                self._metered = self._is_metered(self.config.metered_command)
            if self._metered:
                raise StateError(
                    "the connection is metered, and device.toml says not to download over it",
                    code="metered",
                    where="download.metered",
                    hint="the next poll asks again; the running model is not touched",
                )
        self._check_budget()

    def take(self, count: int) -> None:
        """Accounts for bytes that came; waits as long as the rate asks for.

        Raises:
            StateError: ``byte_budget``: no more in this poll. What is there already is kept for the next one.
        """
        with self._lock:
            self._spent += count
            pause = 0.0
            if self.config.max_bytes_per_s is not None:
                now = self._clock()
                self._paid_until = max(self._paid_until, now - _BURST_S) + count / self.config.max_bytes_per_s
                pause = self._paid_until - now
        self._check_budget()
        if pause > 0:
            self._sleep(pause)

    def _check_budget(self) -> None:
        budget = self.config.max_bytes_per_poll
        if budget is not None and self._spent >= budget:
            raise StateError(
                "this poll has downloaded as much as device.toml allows",
                code="byte_budget",
                where="download.max_bytes_per_poll",
                expected=f"at most {budget} bytes",
                hint="the next poll goes on where this one ended",
            )


def ask_command(command: Sequence[str]) -> bool:
    """True unless the command says with exit status 1 that the connection is not metered."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_HOOK_S,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("download.metered_command does not work, so the connection counts as metered: %s", error)
        return True
    if done.returncode not in {0, 1}:
        logger.warning("download.metered_command exited with %d, so the connection counts as metered", done.returncode)
    return done.returncode != 1
