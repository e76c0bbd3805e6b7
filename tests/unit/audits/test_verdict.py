"""The verdict follows from findings alone; blindness is never a pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from audits.policy import load_policy
from audits.verdict import RunFindings, SubjectFindings, Verdict, rule

POLICY = load_policy()
RUN = RunFindings(
    thin_classes=0, smallest_caught=0.35, compressed_missed=(), null_alarms=(), relabelling_alarms=2, relabelling_limit=8
)
SUBJECT = SubjectFindings(
    blocked=None,
    parity_holds=True,
    converged_share=1.0,
    transfer_tested=True,
    p_value=0.4,
    p_adjusted=0.5,
    delta_lower=-0.001,
)
LEAK = replace(SUBJECT, p_value=0.001, p_adjusted=0.002)

CASES = {
    "nothing found, controls behaved": (SUBJECT, RUN, Verdict.PASSED),
    "a leak": (LEAK, RUN, Verdict.FAILED),
    "a leak at exactly alpha": (replace(SUBJECT, p_value=0.005, p_adjusted=0.01), RUN, Verdict.FAILED),
    "a leak for this model alone": (replace(SUBJECT, p_value=0.009, p_adjusted=0.02), RUN, Verdict.WARNED),
    "compression surely adds a leak": (replace(SUBJECT, delta_lower=0.03), RUN, Verdict.WARNED),
    "the original has no delta": (replace(SUBJECT, delta_lower=None), RUN, Verdict.PASSED),
    "an attack that did not converge": (replace(SUBJECT, converged_share=0.9), RUN, Verdict.INCONCLUSIVE),
    "a leak although an attack did not converge": (replace(LEAK, converged_share=0.9), RUN, Verdict.FAILED),
    "the original's images were not tried": (replace(SUBJECT, transfer_tested=False), RUN, Verdict.INCONCLUSIVE),
    "a model that cannot be attacked": (replace(SUBJECT, blocked="unknown operator Sinh"), RUN, Verdict.INCONCLUSIVE),
    "a bridge that is another model": (replace(LEAK, parity_holds=False), RUN, Verdict.INCONCLUSIVE),
    "a planted leak missed": (LEAK, replace(RUN, smallest_caught=1.0), Verdict.INCONCLUSIVE),
    "no planted leak caught": (SUBJECT, replace(RUN, smallest_caught=None), Verdict.INCONCLUSIVE),
    "a compressed planted leak missed": (SUBJECT, replace(RUN, compressed_missed=("planted:1:int8",)), Verdict.INCONCLUSIVE),
    "a null control that alarms": (LEAK, replace(RUN, null_alarms=("class_mean",)), Verdict.INCONCLUSIVE),
    "too many relabellings that alarm": (SUBJECT, replace(RUN, relabelling_alarms=9), Verdict.INCONCLUSIVE),
    "too few records": (SUBJECT, replace(RUN, thin_classes=1), Verdict.INCONCLUSIVE),
}


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_follows_from_the_findings(name: str) -> None:
    subject, run, expected = CASES[name]
    ruling = rule(subject, run, POLICY)
    assert ruling.verdict is expected
    assert ruling.reasons
    assert all(ruling.reasons)
