"""When this device takes a new release: its owner's maintenance window and power, not a matter of trust.

A release that is wanted but not now is *deferred*: nothing has failed, and the next poll asks again. After ``window_days`` of
waiting the window no longer holds it back, so that a device whose window never meets its uptime is not left behind for ever;
the waiting is counted by the boot clock over restarts. Pure; ``install/conditions.py`` finds out how things are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time

from device_client.bundle.fields import Fields
from device_client.errors import FormatError, PolicyError

INSTALL_KEYS = ("windows", "local_time", "window_days", "ready_command", "device_class")
_WINDOW = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])\Z")
_MAX_WINDOWS = 16
_MAX_WORDS = 16


@dataclass(frozen=True)
class Window:
    """From ``begin`` up to, not including, ``end``; over midnight where ``end`` is not after ``begin``."""

    begin: time
    end: time

    def holds(self, at: time) -> bool:
        """Whether ``at`` is inside."""
        if self.begin < self.end:
            return self.begin <= at < self.end
        return at >= self.begin or at < self.end

    def __str__(self) -> str:
        return f"{self.begin:%H:%M}-{self.end:%H:%M}"


@dataclass(frozen=True)
class InstallPolicy:
    """The owner's wishes.

    Attributes:
        windows: when new releases may be taken; empty means at any time.
        local_time: whether the windows are by the machine's time zone; UTC otherwise.
        window_days: days of waiting after which the windows no longer count; 0 means never.
        ready_command: a program with its arguments that is asked before every installation: exit status 0 means go on. For
            battery, mains, or whatever else only the owner knows.
        device_class: the class of device by which a release's latency budget may name this one.
    """

    windows: tuple[Window, ...] = ()
    local_time: bool = False
    window_days: int = 14
    ready_command: tuple[str, ...] = ()
    device_class: str = ""


@dataclass(frozen=True)
class Conditions:
    """How things are.

    Attributes:
        now: the wall clock, aware.
        waited_s: how long this release has been waiting, in seconds of uptime.
        ready_status: what ``ready_command`` ended with; None if there is none.
    """

    now: datetime
    waited_s: float = 0.0
    ready_status: int | None = None


def check_conditions(policy: InstallPolicy, conditions: Conditions) -> None:
    """Whether a release may be taken now.

    The rules:
        1. It is inside a window, or has waited so long that windows no longer count.
        2. The owner's own program says that the device is ready.

    Raises:
        PolicyError: ``deferred_window`` or ``deferred_not_ready``: wanted, but not now.
    """
    at = (conditions.now.astimezone() if policy.local_time else conditions.now.astimezone(UTC)).time()
    patience_s = policy.window_days * 24 * 3600
    is_late = policy.window_days > 0 and conditions.waited_s >= patience_s
    if policy.windows and not is_late and not any(window.holds(at) for window in policy.windows):  # 1
        raise PolicyError(
            "outside the maintenance window",
            code="deferred_window",
            where="install.windows",
            expected=", ".join(map(str, policy.windows)) + (" local time" if policy.local_time else " UTC"),
            actual=f"{at:%H:%M}, waiting for {conditions.waited_s / 3600:.1f} hours",
            hint="nothing to do: a poll inside the window takes it",
        )
    if conditions.ready_status not in {None, 0}:  # 2
        raise PolicyError(
            "the device is not ready for an installation",
            code="deferred_not_ready",
            where="install.ready_command",
            expected="exit status 0",
            actual=f"exit status {conditions.ready_status}",
            hint="nothing to do: the next poll asks again",
        )


def read_install_policy(fields: Fields) -> InstallPolicy:
    """The table ``[install]`` of ``policy.toml``; a key that is left out has its default.

    Raises:
        FormatError: a value outside its form or range.
    """
    default = InstallPolicy()
    command = fields.items("ready_command", _read_word, max_items=_MAX_WORDS) if "ready_command" in fields else ()
    if command and not command[0].startswith("/"):
        raise FormatError(
            "a program without its full path",
            code="field_value",
            where=f"{fields.where}.ready_command",
            expected="/path/to/program",
            actual=command[0][:80],
        )
    return InstallPolicy(
        windows=fields.items("windows", _read_window, max_items=_MAX_WINDOWS) if "windows" in fields else default.windows,
        local_time=fields.boolean("local_time") if "local_time" in fields else default.local_time,
        window_days=fields.integer("window_days", maximum=90) if "window_days" in fields else default.window_days,
        ready_command=command,
        device_class=fields.text("device_class", max_chars=64) if "device_class" in fields else default.device_class,
    )


def _read_word(value: object, where: str) -> str:
    if not isinstance(value, str) or not value or len(value) > 1024 or "\0" in value:
        raise FormatError("not a word of a command", code="field_value", where=where)
    return value


def _read_window(value: object, where: str) -> Window:
    found = _WINDOW.match(value) if isinstance(value, str) else None
    if found is None:
        raise FormatError("not a window", code="field_value", where=where, expected="HH:MM-HH:MM", actual=repr(value)[:60])
    hours = [int(part) for part in found.groups()]
    return Window(time(hours[0], hours[1]), time(hours[2], hours[3]))
