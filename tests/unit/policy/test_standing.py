"""What becomes of the running model: the owner's wish, an alarm in any case, and the strictest reason wins."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.policy.patience import DayCount
from device_client.policy.reactions import Reaction, Reactions
from device_client.policy.standing import Action, Situation, judge

FINE = Situation(running=True)
WITHDRAWN = Situation(running=True, withdrawn=True, can_fall_back=True)
DEFAULT = Reactions()
RANK = [Action.RUN, Action.FALL_BACK, Action.STOP]


def days(count: int) -> DayCount:
    return DayCount(count, "2026-06-01")


def codes(situation: Situation, reactions: Reactions = DEFAULT) -> list[str]:
    return [alarm.code for alarm in judge(situation, reactions).alarms]


def action(situation: Situation, reactions: Reactions = DEFAULT) -> Action:
    return judge(situation, reactions).action


def test_a_model_against_which_nothing_speaks_runs_without_an_alarm() -> None:
    assert judge(FINE, DEFAULT).action is Action.RUN
    assert judge(FINE, DEFAULT).alarms == ()


def test_facts_that_nobody_states_are_not_assumed() -> None:
    assert Situation(running=True) == Situation(True, False, False, DayCount(0, None), DayCount(0, None), DayCount(0, None))
    assert (Action.RUN, Action.FALL_BACK, Action.STOP) == ("run", "fall_back", "stop"), "words that are stored and reported"


WITHDRAWALS: dict[str, tuple[Situation, Reactions, Action]] = {
    "falls back by default": (WITHDRAWN, DEFAULT, Action.FALL_BACK),
    "keeps running where nothing is held": (replace(WITHDRAWN, can_fall_back=False), DEFAULT, Action.RUN),
    "stops by the owner's wish": (WITHDRAWN, Reactions(withdrawn=Reaction.STOP), Action.STOP),
    "stops although nothing is held": (replace(WITHDRAWN, can_fall_back=False), Reactions(withdrawn=Reaction.STOP), Action.STOP),
    "keeps running by the unsafe wish": (WITHDRAWN, Reactions(unsafe_keep_withdrawn=True), Action.RUN),
    "stops in spite of an unsafe wish that contradicts": (
        WITHDRAWN,
        Reactions(withdrawn=Reaction.STOP, unsafe_keep_withdrawn=True),
        Action.STOP,
    ),
}


@pytest.mark.parametrize(("situation", "reactions", "expected"), WITHDRAWALS.values(), ids=WITHDRAWALS.keys())
def test_a_withdrawn_model(situation: Situation, reactions: Reactions, expected: Action) -> None:
    assert action(situation, reactions) is expected
    assert codes(situation, reactions) == ["withdrawn"], "whatever the reaction, the alarm is raised"


def test_a_model_that_is_not_withdrawn_does_not_fall_back_because_it_could() -> None:
    assert action(Situation(running=True, can_fall_back=True)) is Action.RUN


@pytest.mark.parametrize(
    ("fact", "patience", "reaction", "code"),
    [
        ("expired", "expired_days", "expired", "metadata_frozen"),
        ("behind", "behind_days", "behind", "behind"),
        ("withheld", "max_hold_days", "withheld", "withheld"),
    ],
)
@pytest.mark.parametrize("allowed", [1, 5, 30])
def test_what_lasts_beyond_patience_is_an_alarm_and_stops_only_by_the_owners_wish(
    fact: str, patience: str, reaction: str, code: str, allowed: int
) -> None:
    keep = replace(DEFAULT, **{patience: allowed})
    stop = replace(keep, **{reaction: Reaction.STOP})
    within, beyond = (replace(FINE, **{fact: days(count)}) for count in (allowed, allowed + 1))
    for reactions in (keep, stop):
        assert (action(within, reactions), codes(within, reactions)) == (Action.RUN, [])
    assert (action(beyond, keep), codes(beyond, keep)) == (Action.RUN, [code])
    assert (action(beyond, stop), codes(beyond, stop)) == (Action.STOP, [code])
    assert str(allowed + 1) in judge(beyond, keep).alarms[0].detail


def test_the_default_patience_is_the_documented_one() -> None:
    for count, expected in ((1, []), (2, ["metadata_frozen"])):
        assert codes(replace(FINE, expired=days(count))) == expected
    for count, expected in ((14, []), (15, ["behind"])):
        assert codes(replace(FINE, behind=days(count))) == expected
    for count, expected in ((7, []), (8, ["withheld"])):
        assert codes(replace(FINE, withheld=days(count))) == expected


def test_every_reason_is_told_and_stop_outweighs_fall_back() -> None:
    situation = replace(WITHDRAWN, expired=days(99), behind=days(99), withheld=days(99))
    assert codes(situation) == ["withdrawn", "metadata_frozen", "behind", "withheld"]
    assert action(situation) is Action.FALL_BACK
    assert action(situation, Reactions(expired=Reaction.STOP)) is Action.STOP


def test_what_stops_a_model_is_named_and_not_what_is_only_told() -> None:
    situation = replace(WITHDRAWN, expired=days(99), behind=days(99), withheld=days(99))
    assert judge(situation, DEFAULT).cause == "withdrawn"
    assert judge(situation, Reactions(behind=Reaction.STOP)).cause == "behind"
    assert judge(situation, Reactions(unsafe_keep_withdrawn=True)).cause is None
    assert judge(replace(situation, running=False), Reactions(behind=Reaction.STOP)).cause is None


def test_where_nothing_is_active_nothing_stops_and_what_is_withheld_is_told() -> None:
    strict = Reactions(Reaction.STOP, Reaction.STOP, Reaction.STOP, Reaction.STOP)
    situation = Situation(running=False, withdrawn=True, can_fall_back=True, expired=days(9), behind=days(99), withheld=days(99))
    assert action(situation, strict) is Action.RUN
    assert codes(situation, strict) == ["metadata_frozen", "behind", "withheld"]


counts = st.builds(days, st.integers(0, 100))
situations = st.builds(Situation, st.booleans(), st.booleans(), st.booleans(), counts, counts, counts)
kept = st.sampled_from([Reaction.KEEP, Reaction.STOP])
wishes = st.builds(
    Reactions,
    withdrawn=st.sampled_from([Reaction.FALL_BACK, Reaction.STOP]),
    expired=kept,
    behind=kept,
    withheld=kept,
    expired_days=st.integers(0, 30),
    behind_days=st.integers(1, 90),
    max_hold_days=st.integers(1, 30),
    unsafe_keep_withdrawn=st.booleans(),
)


@given(situations, wishes, counts)
def test_one_more_day_of_anything_never_lets_more_run_nor_hides_an_alarm(
    situation: Situation, reactions: Reactions, more: DayCount
) -> None:
    before = judge(situation, reactions)
    for fact in ("expired", "behind", "withheld"):
        worse = replace(situation, **{fact: days(getattr(situation, fact).days + more.days)})
        after = judge(worse, reactions)
        assert RANK.index(after.action) >= RANK.index(before.action)
        assert {alarm.code for alarm in before.alarms} <= {alarm.code for alarm in after.alarms}


@given(situations, wishes)
def test_a_withdrawal_never_lets_more_run(situation: Situation, reactions: Reactions) -> None:
    without, with_it = (judge(replace(situation, withdrawn=flag), reactions) for flag in (False, True))
    assert RANK.index(with_it.action) >= RANK.index(without.action)


@given(situations, wishes)
def test_alarms_do_not_depend_on_the_reaction_to_them(situation: Situation, reactions: Reactions) -> None:
    quiet = Reactions(expired_days=reactions.expired_days, behind_days=reactions.behind_days, max_hold_days=reactions.max_hold_days)
    assert codes(situation, reactions) == codes(situation, quiet)


@given(situations, wishes)
def test_a_model_stops_only_for_a_reason_that_the_owner_named(situation: Situation, reactions: Reactions) -> None:
    stops = [name for name in ("withdrawn", "expired", "behind", "withheld") if getattr(reactions, name) is Reaction.STOP]
    if action(situation, reactions) is Action.STOP:
        assert stops
        assert codes(situation, reactions)
    if not stops:
        assert action(situation, reactions) is not Action.STOP


@given(situations, wishes)
def test_only_the_unsafe_key_keeps_a_withdrawn_model_running_where_another_one_could(
    situation: Situation, reactions: Reactions
) -> None:
    dire = replace(situation, running=True, withdrawn=True, can_fall_back=True)
    safe = replace(reactions, unsafe_keep_withdrawn=False)
    assert action(dire, safe) is not Action.RUN


def test_the_table_of_all_facts_and_wishes_has_no_gap() -> None:
    for running, withdrawn, could in itertools.product([True, False], repeat=3):
        for reaction in (Reaction.FALL_BACK, Reaction.STOP):
            for unsafe in (True, False):
                found = action(Situation(running, withdrawn, could), Reactions(reaction, unsafe_keep_withdrawn=unsafe))
                if not (running and withdrawn):
                    expected = Action.RUN
                elif reaction is Reaction.STOP:
                    expected = Action.STOP
                else:
                    expected = Action.FALL_BACK if could and not unsafe else Action.RUN
                assert found is expected
