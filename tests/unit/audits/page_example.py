"""A made-up run of every family, for tests of the page: numbers that no audit gave, in the form that audits give."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from audits.finding import Control, FamilyResult, Finding
from audits.report.images import BLACK_BOX, TRANSFER, WHITE_BOX, ReportImages, keep
from audits.report.view import DataView, PageView, PolicyView, SubjectView
from device_client.bundle.digest import Digest

SUBJECTS = ("original", "int8-static", "int8-dynamic", "pruned-90")
VARIANTS = SUBJECTS[1:]
ATTACKS = {"confidence": "threshold", "rmia": "rmia", "lira_online": "lira", "joint": "joint", "lira_offline": None}
RATES = (0.1, 0.01, 0.001, 0.0001)
NON_MEMBERS = 2000


def view(*families: FamilyResult) -> PageView:
    """A run with these families, or with all."""
    verdicts = dict(zip(SUBJECTS, ("FAILED", "FAILED", "WARNED", "PASSED"), strict=True))
    reasons = {
        "FAILED": (
            "membership.lira: training records are recognised (adjusted p = 2e-05)",
            "inversion.instance: training records leak",
        ),
        "WARNED": ("membership.rmia: too few non-members to say that the rate is below 0.05",),
        "PASSED": ("no leak of training records beyond held-out ones (adjusted p = 0.41)",),
    }
    return PageView(
        bundle="clinic/faces/1.2.0",
        manifest=str(Digest.of(b"manifest")),
        evidence=str(Digest.of(b"evidence")),
        audited_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
        expires=datetime(2026, 5, 30, 12, tzinfo=UTC),
        policy=PolicyView("clinic", 3, "standard", "white_box", str(Digest.of(b"policy")), 20, 0.01, 0.95, 0.02),
        data=DataView(str(Digest.of(b"records")), 1797, 898, 10, 87, 91, 0.0, 1.0),
        tools={"python": "3.12.1", "torch": "2.13.0", "onnxruntime": "1.32.0"},
        subjects=tuple(
            SubjectView(
                name, str(Digest.of(name.encode())), 20_480 * (4 - place), verdicts[name], reasons[verdicts[name]], place == 0
            )
            for place, name in enumerate(SUBJECTS)
        ),
        families=families or (instance_family(), retrieval_family(), membership_family(), attribute_family()),
    )


def instance_family() -> FamilyResult:
    rng = np.random.default_rng(3)
    gaps = dict(zip(SUBJECTS, (0.111, 0.1114, 0.111, 0.012), strict=True))
    detail = {name: _instance_detail(name, gap, rng) for name, gap in gaps.items()}
    findings = {
        name: (Finding("inversion.instance", 0.0002, 0.0002 if gap > 0.1 else 0.41, "mean_gap", gap, (gap - 0.017, gap + 0.018)),)
        for name, gap in gaps.items()
    }
    planted = tuple(
        Control(
            f"planted:{s:g}",
            True,
            s >= 0.35,
            s >= 0.5,
            s,
            f"a planted leak of strength {s:g} was {'caught' if s >= 0.35 else 'not caught'}",
        )
        for s in (0.05, 0.1, 0.2, 0.35, 0.5, 1.0)
    )
    compressed = tuple(
        Control(f"planted:{s:g}:int8-static", True, True, True, s, f"the compressed planted leak of strength {s:g} was caught")
        for s in (0.5, 1.0)
    )
    nulls = tuple(
        Control(name, False, True, True, None, f"the null control {name} stayed quiet")
        for name in ("class_mean", "untrained:original:0")
    )
    return FamilyResult(
        "instance",
        findings,
        planted + compressed + nulls,
        0.35,
        "share of a class's template that is training records",
        detail,
        {"compressed": True},
    )


def retrieval_family() -> FamilyResult:
    retrieved = dict(zip(SUBJECTS, (40, 40, 40, 31), strict=True))
    findings = {
        name: (
            Finding(
                "inversion.identity",
                1e-9,
                1e-9,
                "retrieval_rate",
                count / 40,
                (count / 40 - 0.08, min(1.0, count / 40 + 0.05)),
                tolerated=0.1,
            ),
            Finding("inversion.black_box", 0.2, 0.6, "mean_gap", 0.01, (-0.01, 0.03)),
            Finding("inversion.label_only", 1.0, 1.0, "mean_gap", not_run="the tier has no budget for it"),
            Finding("inversion.swap_split", 0.001, 0.003, "swap_split_gap", 0.1, (0.08, 0.12)),
        )
        for name, count in retrieved.items()
    }
    detail = {
        name: {
            "identity": {
                "retrieved": count,
                "classes": 40,
                "interval": [count / 40 - 0.08, min(1.0, count / 40 + 0.05)],
                "chance": 0.025,
            },
            "black_box": {
                "queries_per_class": 1392.5,
                "confidence": [0.95, 0.97, 0.99],
                "retrieved": None if name == "original" else count,
                "classes": 40,
                "gap": 0.01,
                "interval": [-0.01, 0.03],
                "delta": None if name == "original" else 0.001,
                "delta_interval": None if name == "original" else [-0.004, 0.006],
            },
            "masking": {"naive": 0.745, "own": 0.995, "transfer": None if name == "original" else 0.997},
            "swap_split": {
                "gap": 0.111 if count == 40 else 0.073,
                "interval": [0.094, 0.129] if count == 40 else [0.06, 0.085],
                "delta": None if name == "original" else (0.0004 if count == 40 else -0.038),
                "delta_interval": None if name == "original" else ([0.0002, 0.0007] if count == 40 else [-0.044, -0.032]),
                "by_class": [0.1] * 40,
            },
        }
        for name, count in retrieved.items()
    }
    controls = (
        Control("permuted identities", False, True, True, None, "0 of 40 permuted identities were retrieved"),
        Control("planted template", True, True, True, 1.0, "the planted class average was retrieved"),
    )
    return FamilyResult(
        "retrieval", findings, controls, 1.0, "share of the template that is the class average", detail, {"halves": 2}
    )


def membership_family() -> FamilyResult:
    scale = dict(zip(SUBJECTS, (1.6, 1.58, 1.6, 0.3), strict=True))
    strength = dict(zip(ATTACKS, (0.5, 0.85, 1.0, 1.02, 0.6), strict=True))
    detail = {name: _membership_detail(name, {a: share * scale[name] for a, share in strength.items()}) for name in SUBJECTS}
    findings = {
        name: tuple(
            Finding(
                f"membership.{test}",
                1e-5,
                4e-5 if scale[name] > 1 else 0.6,
                "tpr_at_fpr_0.01",
                0.02 * scale[name],
                (0.01 * scale[name], 0.03 * scale[name]),
                tolerated=0.05,
                doubts=("two shadows did not converge",) if test == "lira" else (),
            )
            for test in ATTACKS.values()
            if test is not None
        )
        for name in SUBJECTS
    }
    controls = (
        Control("planted:0.1", True, False, False, 0.1, "a tenth of the members moved up was not caught"),
        Control("planted:0.5", True, True, True, 0.5, "half of the members moved up was caught"),
        Control("canaries:8", True, True, True, 8.0, "8 copies of mislabelled canaries were caught"),
        Control("permuted", False, False, True, None, "3 of 50 permuted memberships raised an alarm, chance explains 2"),
    )
    shared = {"finest_fpr": 3 / NON_MEMBERS, "seeds": [1, 2, 3], "isolation": "child without network", "shadows": {"count": 16}}
    return FamilyResult("membership", findings, controls, 0.5, "share of members whose score was moved", detail, shared)


def _membership_detail(name: str, strength: dict[str, float]) -> dict[str, Any]:
    baseline = membership_attack("art.black_box_rf", 0.5)
    del baseline["roc"], baseline["worst"], baseline["by_repeat"]
    deltas = [
        {
            "attack": attack,
            "auc": -0.01 * value,
            "auc_interval": [-0.01 * value - 0.004, -0.01 * value + 0.004],
            "fpr": 0.01,
            "tpr": -0.02 * value,
            "tpr_interval": [-0.02 * value - 0.01, -0.02 * value + 0.01],
        }
        for attack, value in strength.items()
    ]
    return {
        "access": "the softmax before the last quantiser",
        "blind": None,
        "accuracy_members": 1.0,
        "accuracy_heldouts": 0.9,
        "attacks": [membership_attack(attack, value) for attack, value in strength.items()],
        "baselines": [baseline, {"attack": "art.rule", "balanced_accuracy": 0.704, "at": {"fpr": 0.2, "tpr": 0.6}}],
        "delta": [] if name == "original" else deltas,
    }


def membership_attack(name: str, shift: float) -> dict[str, Any]:
    """A binormal ROC: members score ``shift`` higher than non-members, in spreads."""
    from scipy.stats import norm

    fpr = np.geomspace(1e-5, 1.0, 60)
    tpr = norm.cdf(norm.ppf(np.minimum(fpr, 1 - 1e-12)) + shift)
    width = 1.96 * np.sqrt(np.maximum(tpr * (1 - tpr), 1e-6) / NON_MEMBERS)
    auc = float(norm.cdf(shift / 2**0.5))
    scores = sorted(np.random.default_rng(5).normal(4, 1, 20).tolist(), reverse=True)
    return {
        "attack": name,
        "test": None if ATTACKS.get(name) is None else f"membership.{ATTACKS[name]}",
        "auc": auc,
        "auc_interval": [auc - 0.01, min(1.0, auc + 0.01)],
        "roc": {
            "fpr": fpr.tolist(),
            "tpr": tpr.tolist(),
            "low": np.maximum(tpr - width, 0.0).tolist(),
            "high": np.minimum(tpr + width, 1.0).tolist(),
        },
        "tpr_at": [_tpr_at(rate, float(norm.cdf(norm.ppf(rate) + shift))) for rate in RATES],
        "worst": [{"id": Digest.of(f"record {place}".encode()).hex, "score": score} for place, score in enumerate(scores)],
        "by_repeat": [{"auc": auc - 0.002, "fpr": 0.01, "tpr": 0.1}, {"auc": auc + 0.001, "fpr": 0.01, "tpr": 0.1}],
    }


def _tpr_at(rate: float, tpr: float) -> dict[str, Any]:
    if rate < 3 / NON_MEMBERS:
        return {"fpr": rate, "tpr": None, "interval": None, "supported": False}
    return {"fpr": rate, "tpr": tpr, "interval": [max(0.0, tpr - 0.01), min(1.0, tpr + 0.012)], "supported": True}


def attribute_family() -> FamilyResult:
    findings = {
        name: (Finding("attribute.inference", 1.0, 1.0, "advantage", not_run="the input is no table"),) for name in SUBJECTS
    }
    return FamilyResult("attribute", findings, (), None, "share of records", {}, {})


def attribute_family_of_a_table() -> FamilyResult:
    findings = {
        name: (Finding("attribute.inference", 0.2, 0.4, "advantage", 0.012, (-0.01, 0.03), tolerated=0.02),) for name in SUBJECTS
    }
    attack = {
        "attack": "label_likelihood",
        "accuracy_members": 0.71,
        "accuracy_heldouts": 0.7,
        "advantage": 0.012,
        "interval": [-0.01, 0.03],
        "p_value": 0.2,
        "p_adjusted": 0.4,
    }
    column = {"name": "income", "index": 3, "values": 2, "binned": True, "baseline": "boosting", "baseline_members": 0.698}
    weaker = {**attack, "attack": "weaker", "advantage": -0.5, "interval": [-0.6, -0.4]}
    detail = {name: {"columns": [{**column, "attacks": [weaker, attack]}]} for name in SUBJECTS}
    return FamilyResult("attribute", findings, (), None, "share of records", detail, {"members": 100})


def pictures(shape: tuple[int, ...], *, classes: int = 10, private: bool = False, seed: int = 0) -> ReportImages:
    """Smooth pictures of this input shape for every subject and way."""
    rng = np.random.default_rng(seed)

    def smooth(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        values = rng.uniform(size=(count, *shape))
        for axis in range(1, values.ndim):
            if values.shape[axis] > 4:
                for _ in range(3):
                    values = (values + np.roll(values, 1, axis) + np.roll(values, -1, axis)) / 3
        return values.astype(np.float32)

    means = smooth(classes)
    ways = {
        (name, way): np.clip(means + 0.1 * smooth(classes), 0, 1) for name in SUBJECTS for way in (WHITE_BOX, BLACK_BOX, TRANSFER)
    }
    ways = {key: values for key, values in ways.items() if key != ("original", TRANSFER)}
    worst = {Digest.of(b"record 0").hex: smooth(1)[0]}
    return keep(
        class_means=means, heldouts=smooth(classes), reconstructions=ways, private=private, start=means.mean(axis=0), records=worst
    )


def without(page: PageView, family: str) -> PageView:
    """The same run without one family."""
    return replace(page, families=tuple(item for item in page.families if item.family != family))


def _instance_detail(name: str, gap: float, rng: np.random.Generator) -> dict[str, Any]:
    counts, edges = np.histogram(rng.normal(0, 0.006, 4999), bins=40)
    null = {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist()}
    tests = [
        {
            "attack": attack,
            "statistic": "mean",
            "estimate": gap * share,
            "threshold": 0.021,
            "p_value": 0.0002,
            "null": null,
            "interval": [gap * share - 0.017, gap * share + 0.018],
            "by_class": [gap] * 10,
        }
        for attack, share in (("logit", 1.0), ("probability", 0.9))
    ]
    tests.append({"attack": "logit", "statistic": "nearest", "estimate": 0.03, "threshold": None, "p_value": 0.3, "null": null})
    deltas = [
        {"attack": attack, "estimate": gap - 0.111, "interval": [gap - 0.1114, gap - 0.1105]} for attack in ("logit", "probability")
    ]
    return {
        "access": {
            "masked_gradient": ["probability"] if name == "int8-static" else [],
            "accuracy_members": 1.0,
            "accuracy_heldouts": {"original": 0.942, "int8-static": 0.95, "int8-dynamic": 0.942}.get(name, 0.91),
            "parity": {"max_difference": 4e-7, "bound": 1e-5, "rows": 64, "quantised": name.startswith("int8")},
        },
        "attacks": [
            {
                "attack": "logit",
                "confidence": [0.99] * 10,
                "class_likeness": rng.uniform(0.6, 0.9, 10).tolist(),
                "classes_retrieved": 10,
            }
        ],
        "tests": tests,
        "delta": [] if name == "original" else deltas,
    }
