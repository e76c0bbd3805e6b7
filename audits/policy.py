"""The audit policy: everything that decides, fixed before the run, in one TOML file with a digest.

Thresholds are not in here as numbers of the result's kind: the policy fixes the false alarm rate, and the null controls of
the run turn it into a threshold (``instance_gap``). A missing key takes the built-in default, an unknown key is an error.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from device_client.bundle.digest import Digest
from device_client.bundle.strict_json import canonical_json
from device_client.errors import UsageError

ATTACKS = ("probability", "logit", "cross_entropy")
_MAX_POLICY_BYTES = 64 * 1024
_DEFAULT = Path(__file__).with_name("default_policy.toml")
T = TypeVar("T")


@dataclass(frozen=True)
class Decision:
    """How numbers become verdicts; see the comments of ``default_policy.toml``."""

    alpha: float
    permutations: int
    bootstraps: int
    confidence: float
    min_records_per_class: int
    max_records_per_class: int
    delta_warning: float


@dataclass(frozen=True)
class InversionSettings:
    """Attacks and their budgets; rates are in units of the input range."""

    attacks: tuple[str, ...]
    restarts: int
    probability_steps: int
    probability_rate: float
    logit_steps: int
    logit_rate: float
    cross_entropy_steps: int
    cross_entropy_rate: float
    blur_every: int
    min_confidence: float
    min_converged_share: float
    transfer_confidence: float


@dataclass(frozen=True)
class ParitySettings:
    """Bounds of ``bridge.parity`` and how many rows are compared."""

    float_absolute: float
    quanta: float
    quantised_cap: float
    rows: int


@dataclass(frozen=True)
class ControlSettings:
    """Which controls run and what they must show."""

    planted_strengths: tuple[float, ...]
    planted_required: float
    untrained_twins: int
    relabellings: int


@dataclass(frozen=True)
class Policy:
    """A complete policy; ``digest`` covers every value, so a comment may change and a number may not."""

    id: str
    version: int
    tier: str
    threat_model: str
    expiry_days: int
    seed: int
    decision: Decision
    inversion: InversionSettings
    parity: ParitySettings
    controls: ControlSettings

    @property
    def digest(self) -> Digest:
        """SHA-256 of the canonical JSON of all values."""
        return Digest.of(canonical_json(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """All values, as ``audit.json`` records them."""
        return asdict(self)


def load_policy(path: Path | None = None) -> Policy:
    """Reads a policy file over the built-in default, or the default alone.

    Raises:
        UsageError: unreadable, not TOML, an unknown key, a wrong type or a value out of range.
    """
    values = _read(_DEFAULT)
    where = _DEFAULT.name
    if path is not None:
        where = str(path)
        values = _merge(values, _read(path), where=where)
    return policy_from_json(values, where=where)


def policy_from_json(value: object, *, where: str) -> Policy:
    """The policy with exactly these values; used for TOML and for the copy inside ``audit.json``.

    Raises:
        UsageError: a key is missing or unknown, or a value has a wrong type or range.
    """
    top = _section(value, Policy, where)
    try:
        policy = Policy(
            id=_text(top, "id"),
            version=_integer(top, "version", 1, 2**31),
            tier=_choice(top, "tier", ("quick", "standard", "deep")),
            threat_model=_choice(top, "threat_model", ("white_box",)),
            expiry_days=_integer(top, "expiry_days", 1, 400),
            seed=_integer(top, "seed", 0, 2**31),
            decision=_decision(_section(top["decision"], Decision, f"{where}: decision")),
            inversion=_inversion(_section(top["inversion"], InversionSettings, f"{where}: inversion")),
            parity=_parity(_section(top["parity"], ParitySettings, f"{where}: parity")),
            controls=_controls(_section(top["controls"], ControlSettings, f"{where}: controls")),
        )
    except _ValueProblemError as e:
        raise UsageError(
            f"wrong value for {e.key}", code="policy_value", where=where, expected=e.expected, actual=repr(e.actual)[:80]
        ) from e
    if policy.decision.alpha * (policy.decision.permutations + 1) < 10:
        raise UsageError(
            "too few permutations for this alpha",
            code="policy_value",
            where=where,
            expected=f"at least {math.ceil(10 / policy.decision.alpha) - 1}",
            actual=policy.decision.permutations,
        )
    return policy


class _ValueProblemError(Exception):
    def __init__(self, key: str, expected: str, actual: object) -> None:
        self.key, self.expected, self.actual = key, expected, actual
        super().__init__(key)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_POLICY_BYTES + 1)
    except OSError as e:
        raise UsageError("cannot read the policy", code="policy_missing", where=str(path), hint=e.strerror) from e
    if len(data) > _MAX_POLICY_BYTES:
        raise UsageError("policy too long", code="policy_syntax", where=str(path), expected=f"at most {_MAX_POLICY_BYTES} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError("not TOML", code="policy_syntax", where=str(path), actual=str(e)[:120]) from e


def _merge(base: Mapping[str, Any], over: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(base.get(key), dict) and not isinstance(value, dict):
            raise UsageError(
                f"wrong value for {key}", code="policy_value", where=where, expected="a table", actual=repr(value)[:80]
            )
        merged[key] = {**base[key], **value} if isinstance(base.get(key), dict) else value
    return merged


def _section(value: object, kind: type[Any], where: str) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    if not isinstance(value, dict):
        raise UsageError("not a table", code="policy_value", where=where)
    unknown, missing = sorted(set(value) - names), sorted(names - set(value))
    if unknown:
        raise UsageError(
            "unknown key", code="policy_unknown_key", where=where, actual=unknown[0], expected=", ".join(sorted(names))
        )
    if missing:
        raise UsageError("missing key", code="policy_value", where=where, expected=missing[0])
    return value


def _decision(v: Mapping[str, Any]) -> Decision:
    return Decision(
        alpha=_number(v, "alpha", 1e-4, 0.1),
        permutations=_integer(v, "permutations", 99, 200_000),
        bootstraps=_integer(v, "bootstraps", 200, 100_000),
        confidence=_number(v, "confidence", 0.5, 0.999),
        min_records_per_class=_integer(v, "min_records_per_class", 2, 10_000),
        max_records_per_class=_integer(v, "max_records_per_class", 2, 10_000),
        delta_warning=_number(v, "delta_warning", 0.0, 2.0),
    )


def _inversion(v: Mapping[str, Any]) -> InversionSettings:
    attacks = v["attacks"]
    if not isinstance(attacks, list | tuple) or not attacks or len(set(attacks)) != len(attacks) or set(attacks) - set(ATTACKS):
        raise _ValueProblemError("attacks", f"some of {', '.join(ATTACKS)}", attacks)
    return InversionSettings(
        attacks=tuple(attacks),
        restarts=_integer(v, "restarts", 1, 256),
        probability_steps=_integer(v, "probability_steps", 1, 100_000),
        probability_rate=_number(v, "probability_rate", 1e-6, 1e3),
        logit_steps=_integer(v, "logit_steps", 1, 100_000),
        logit_rate=_number(v, "logit_rate", 1e-6, 1.0),
        cross_entropy_steps=_integer(v, "cross_entropy_steps", 1, 100_000),
        cross_entropy_rate=_number(v, "cross_entropy_rate", 1e-6, 1.0),
        blur_every=_integer(v, "blur_every", 0, 100_000),
        min_confidence=_number(v, "min_confidence", 0.0, 1.0),
        min_converged_share=_number(v, "min_converged_share", 0.0, 1.0),
        transfer_confidence=_number(v, "transfer_confidence", 0.0, 1.0),
    )


def _parity(v: Mapping[str, Any]) -> ParitySettings:
    return ParitySettings(
        float_absolute=_number(v, "float_absolute", 0.0, 1.0),
        quanta=_number(v, "quanta", 0.0, 64.0),
        quantised_cap=_number(v, "quantised_cap", 0.0, 1.0),
        rows=_integer(v, "rows", 1, 65536),
    )


def _controls(v: Mapping[str, Any]) -> ControlSettings:
    strengths = v["planted_strengths"]
    if not isinstance(strengths, list | tuple) or not 1 <= len(strengths) <= 32:
        raise _ValueProblemError("planted_strengths", "1 to 32 numbers", strengths)
    numbers = tuple(_number({"planted_strengths": item}, "planted_strengths", 1e-6, 1.0) for item in strengths)
    required = _number(v, "planted_required", 0.0, 1.0)
    if tuple(sorted(set(numbers))) != numbers or required > numbers[-1]:
        raise _ValueProblemError("planted_strengths", "growing, the last at least planted_required", strengths)
    return ControlSettings(
        planted_strengths=numbers,
        planted_required=required,
        untrained_twins=_integer(v, "untrained_twins", 1, 64),
        relabellings=_integer(v, "relabellings", 20, 10_000),
    )


def _text(v: Mapping[str, Any], key: str) -> str:
    value = v[key]
    if not isinstance(value, str) or not 1 <= len(value) <= 64 or not value.isprintable():
        raise _ValueProblemError(key, "1 to 64 printable characters", value)
    return value


def _choice(v: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str:
    if v[key] not in choices:
        raise _ValueProblemError(key, " | ".join(choices), v[key])
    return str(v[key])


def _integer(v: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = v[key]
    if type(value) is not int or not low <= value <= high:
        raise _ValueProblemError(key, f"an integer in {low}..{high}", value)
    return value


def _number(v: Mapping[str, Any], key: str, low: float, high: float) -> float:
    value = v[key]
    if type(value) not in {int, float} or not low <= value <= high:
        raise _ValueProblemError(key, f"a number in {low}..{high}", value)
    return float(value)
