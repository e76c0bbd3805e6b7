"""What the owner of a device wants to happen to the model that runs: the ``[reactions]`` of ``policy.toml``.

Read by ``policy.py``, applied by ``standing.py`` at the end of every poll. Whatever is chosen here, the alarm is raised.
Nothing here decides what may be installed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields

from device_client.bundle.fields import Fields
from device_client.errors import FormatError


class Reaction(enum.StrEnum):
    """The words of the policy file."""

    KEEP = "keep"
    FALL_BACK = "fall_back"
    STOP = "stop"


@dataclass(frozen=True)
class Reactions:
    """What happens to a running model; every one of them also raises an alarm.

    Attributes:
        withdrawn: ``fall_back`` to the newest held bundle that may run, else keep running; or ``stop``.
        expired: signed metadata, or the verdict of the running model, has expired: ``keep`` or ``stop``.
        behind: the newest agreed release of this device's share does not run here: ``keep`` or ``stop``.
        withheld: the server does not even offer that release: ``keep`` or ``stop``.
        expired_days: on so many days (UTC) ``expired`` may hold before anything happens.
        behind_days: likewise ``behind``.
        max_hold_days: likewise ``withheld``.
        unsafe_keep_withdrawn: a withdrawn model goes on running although another one could.
    """

    withdrawn: Reaction = Reaction.FALL_BACK
    expired: Reaction = Reaction.KEEP
    behind: Reaction = Reaction.KEEP
    withheld: Reaction = Reaction.KEEP
    expired_days: int = 1
    behind_days: int = 14
    max_hold_days: int = 7
    unsafe_keep_withdrawn: bool = False

    @property
    def unsafe(self) -> tuple[str, ...]:
        """Names of the keys that weaken something."""
        return ("unsafe_keep_withdrawn",) if self.unsafe_keep_withdrawn else ()


REACTION_KEYS = tuple(field.name for field in fields(Reactions))
# An alarm may be put off, but not for ever: a longer patience is no setting, it is no alarm.
_DAYS = {"expired_days": (0, 30), "behind_days": (1, 90), "max_hold_days": (1, 30)}
_CHOICES = {
    "withdrawn": (Reaction.FALL_BACK, Reaction.STOP),
    "expired": (Reaction.KEEP, Reaction.STOP),
    "behind": (Reaction.KEEP, Reaction.STOP),
    "withheld": (Reaction.KEEP, Reaction.STOP),
}


def read_reactions(table: Fields, *, base: Reactions) -> Reactions:
    """The reactions of a table whose keys are known to be of ``REACTION_KEYS``; what it does not say is as in ``base``.

    Raises:
        FormatError: a value outside its list or range, or two that contradict each other.
    """

    def choice(key: str, otherwise: Reaction) -> Reaction:
        return Reaction(table.text(key, choices=_CHOICES[key])) if key in table else otherwise

    def days(key: str, otherwise: int) -> int:
        least, most = _DAYS[key]
        return table.integer(key, minimum=least, maximum=most) if key in table else otherwise

    unsafe = "unsafe_keep_withdrawn"
    found = Reactions(
        withdrawn=choice("withdrawn", base.withdrawn),
        expired=choice("expired", base.expired),
        behind=choice("behind", base.behind),
        withheld=choice("withheld", base.withheld),
        expired_days=days("expired_days", base.expired_days),
        behind_days=days("behind_days", base.behind_days),
        max_hold_days=days("max_hold_days", base.max_hold_days),
        unsafe_keep_withdrawn=table.boolean(unsafe) if unsafe in table else base.unsafe_keep_withdrawn,
    )
    if found.unsafe_keep_withdrawn and found.withdrawn is Reaction.STOP:
        raise FormatError(
            "a withdrawn model cannot both stop and keep running",
            code="policy_file",
            where=f"{table.where}.unsafe_keep_withdrawn",
            expected='false where withdrawn = "stop"',
            actual="true",
        )
    return found
