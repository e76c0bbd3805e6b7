"""May the model that runs go on running? Asked at the end of every poll, also of one that was refused or failed.

The facts come in as a ``Situation``, the owner's will as ``Reactions``; the answer is one action and all alarms. What may
be installed is not decided here, and nothing here lets anything new run.

    standing = judge(situation, policy.reactions_for(model))
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from device_client.policy.patience import DayCount
from device_client.policy.reactions import Reaction, Reactions


class Action(enum.StrEnum):
    """What becomes of the running model."""

    RUN = "run"
    FALL_BACK = "fall_back"
    STOP = "stop"


@dataclass(frozen=True)
class Alarm:
    """Something that a person must hear of; ``code`` is a stable reason, ``detail`` a sentence for people."""

    code: str
    detail: str


@dataclass(frozen=True)
class Situation:
    """What is known of a model.

    Attributes:
        running: a bundle of this model is active here, *whether or not it was stopped before*: what stopped it must still
            hold at the next poll, or it runs again.
        withdrawn: the active bundle, or the bytes that it gives the runtime, are withdrawn, and no newer entry restores them.
        can_fall_back: a held bundle passes ``rollback.check_rollback_target``.
        expired: days on which signed metadata, or the verdict on the active bundle's bytes, had expired.
        behind: days on which the newest agreed release of this device's share was not the active bundle.
        withheld: those of them on which the server did not offer that release.
    """

    running: bool
    withdrawn: bool = False
    can_fall_back: bool = False
    expired: DayCount = field(default_factory=DayCount)
    behind: DayCount = field(default_factory=DayCount)
    withheld: DayCount = field(default_factory=DayCount)


@dataclass(frozen=True)
class Standing:
    """The answer: ``action`` for the running model (``run`` where none is), what to tell, and the alarm that led to the action."""

    action: Action
    alarms: tuple[Alarm, ...] = ()
    cause: str | None = None


def judge(situation: Situation, reactions: Reactions) -> Standing:
    """What becomes of the running model, and which alarms are raised.

    The rules:
        1. Withdrawn: stop, or fall back to a held bundle, or (nothing to fall back to, or the owner's unsafe wish) run on.
        2. Expired on more than ``expired_days`` days: stop or keep.
        3. Behind on more than ``behind_days`` days: stop or keep.
        4. Withheld on more than ``max_hold_days`` days: stop or keep.
        5. Each of these raises its alarm, whatever the reaction to it.
        6. Stop outweighs fall back, and fall back outweighs run: one reason more never lets more run.
        7. Where nothing is active there is nothing to stop; the alarms are the same.
    """
    found = [_of_withdrawal(situation, reactions)] if situation.running and situation.withdrawn else []  # 1
    if situation.expired.exceeds(reactions.expired_days):  # 2
        told = f"signed metadata or the verdict of the running model has expired: seen on {situation.expired.days} days"
        found.append((_action(reactions.expired), Alarm(code="metadata_frozen", detail=told)))
    if situation.behind.exceeds(reactions.behind_days):  # 3
        told = f"the newest release that is open to this device does not run here: seen on {situation.behind.days} days"
        found.append((_action(reactions.behind), Alarm(code="behind", detail=told)))
    if situation.withheld.exceeds(reactions.max_hold_days):  # 4
        told = f"the server does not offer the newest release that is open to this device: seen on {situation.withheld.days} days"
        found.append((_action(reactions.withheld), Alarm(code="withheld", detail=told)))
    alarms = tuple(alarm for _, alarm in found)  # 5
    for worst in (Action.STOP, Action.FALL_BACK):  # 6
        causes = [alarm.code for action, alarm in found if action is worst]
        if causes and situation.running:  # 7
            return Standing(worst, alarms, causes[0])
    return Standing(Action.RUN, alarms)


def _of_withdrawal(situation: Situation, reactions: Reactions) -> tuple[Action, Alarm]:
    if reactions.withdrawn is Reaction.STOP:
        action, told = Action.STOP, "it stops"
    elif reactions.unsafe_keep_withdrawn:
        action, told = Action.RUN, "it goes on running by unsafe_keep_withdrawn"
    elif situation.can_fall_back:
        action, told = Action.FALL_BACK, "an earlier bundle runs instead"
    else:
        action, told = Action.RUN, "it goes on running because no held bundle may run instead"
    return action, Alarm(code="withdrawn", detail=f"the audit team has withdrawn the running model: {told}")


def _action(reaction: Reaction) -> Action:
    return Action.STOP if reaction is Reaction.STOP else Action.RUN
