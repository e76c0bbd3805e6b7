"""One mitigation, from inputs to an outcome: split the records, see what can be tried, search, confirm.

    outcome = mitigate(original, data, judge=judge, trainer=trainer, policy=policy, features=(), folder=trials, settings=settings)

Writes nothing but finished trials into their folder.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import torch

from audits.data import AuditData
from audits.mitigate.fixes import offer_fixes
from audits.mitigate.judge import Judge
from audits.mitigate.lab import SUITE, Laboratory
from audits.mitigate.outcome import Outcome
from audits.mitigate.search import SearchSettings, search
from audits.mitigate.training import FixTrainer
from audits.mitigate.trials import TrialFolder
from audits.mitigate.workshop import Records, Workshop, set_aside
from audits.policy import Policy
from device_client.errors import UsageError
from device_client.inference.walker import CheckedModel

ASIDE_SHARE = 0.4


def has_dp() -> bool:
    """Whether Opacus (extra ``dp``) is installed."""
    return importlib.util.find_spec("opacus") is not None


def mitigate(
    original: CheckedModel,
    data: AuditData,
    *,
    judge: Judge,
    trainer: FixTrainer | None,
    policy: Policy,
    features: tuple[str, ...],
    folder: Path,
    settings: SearchSettings,
    only: tuple[str, ...] = (),
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Searches a fix for a model whose audit failed.

    Args:
        original: the uncompressed model.
        data: of the audit; ``ASIDE_SHARE`` of the held-outs is set aside for students and serves no comparison.
        judge: attacks and rules.
        trainer: the auditor's entry point, or None.
        policy: its threat model, seed and least number of records decide here; the judge has its own copy.
        features: that the bundle's contract allows.
        folder: of finished trials.
        settings: budget, finalists, time.
        only: kinds to try; all where empty.
        clock: seconds, monotonic.
        report: called with one line for each step.

    Raises:
        UsageError: one side of the records is empty.
    """
    members = int(data.member.sum())
    if members in {0, len(data.member)}:
        raise UsageError(
            "there is nothing to compare", code="audit_data", where="member", actual=f"{members} of {len(data.member)}"
        )
    minimum = policy.decision.min_records_per_class
    records, lacking = set_aside(data, share=ASIDE_SHARE, minimum=minimum, seed=policy.seed)
    offer = offer_fixes(
        trains=trainer is not None,
        takes_fix=trainer is not None and trainer.takes_fix,
        has_dp=has_dp(),
        unlabelled=lacking,
        threat_model=policy.threat_model,
        only=only,
    )
    if not any(fix.about.unlabelled for fix in offer.fixes):
        records = Records(data)  # nobody needs them: more held-outs to compare with
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        lab = Laboratory(Workshop(original, records, trainer), judge, features=features, folder=TrialFolder(folder))
        result = search(offer.fixes, lab, settings=settings, clock=clock, report=report)
    finally:
        torch.set_num_threads(before)
    about = {
        "suite": SUITE,
        "original": str(original.digest),
        "policy": str(policy.digest),
        "judge": judge.identity,
        "threat_model": policy.threat_model,
        "data": str(data.digest),
        "members": int(records.data.member.sum()),
        "heldouts": int((~records.data.member).sum()),
        "set_aside": 0 if records.aside is None else len(records.aside),
        "original_accuracy": float(lab.original_right.mean()),
    }
    return Outcome(result, settings, about, offer.unavailable)
