"""The audit policy: everything that decides, fixed before the run, in one TOML file with a digest.

Three tiers are built in (``tiers/*.toml``): ``quick`` is complete, the others say what they change in it. A policy file names a
tier, and says what it changes in that one; an unknown key is an error. Thresholds of the instance gap are not in here as numbers
of the result's kind: the policy fixes the false alarm rate, and the null controls of the run turn it into a threshold.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from audits.families import FAMILIES, THREAT_MODELS, Family, excluded, known_tests
from audits.policy_values import (
    ValueProblemError,
    naming,
    read_choice,
    read_choices,
    read_flag,
    read_integer,
    read_keys,
    read_number,
    read_section,
    read_text,
)
from device_client.bundle.digest import Digest
from device_client.bundle.strict_json import canonical_json, parse_strict
from device_client.errors import FormatError, LimitError, UsageError

ATTACKS = ("probability", "logit", "cross_entropy")
TIERS = ("quick", "standard", "deep")
_BASE = TIERS[0]
_MAX_POLICY_BYTES = 64 * 1024
_FOLDER = Path(__file__).with_name("tiers")


@dataclass(frozen=True)
class AskedTests:
    """Which tests run.

    Attributes:
        required: without a usable result of each of them there is no verdict but INCONCLUSIVE.
        optional: these run too; what they find counts, that they could not run does not.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]

    def __contains__(self, test: str) -> bool:
        return test in self.required or test in self.optional


@dataclass(frozen=True)
class Decision:
    """How numbers become verdicts; see the comments of ``tiers/quick.toml``."""

    alpha: float
    permutations: int
    bootstraps: int
    confidence: float
    min_records_per_class: int
    max_records_per_class: int
    delta_warning: float
    stop_early: bool


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
    """A complete policy; ``digest`` covers every value, so a comment may change and a number may not.

    Attributes:
        decision, inversion, parity, controls: of the family ``instance``; ``decision`` counts for all.
        families: settings of the other families, by name.
    """

    id: str
    version: int
    tier: str
    threat_model: str
    expiry_days: int
    seed: int
    tests: AskedTests
    decision: Decision
    inversion: InversionSettings
    parity: ParitySettings
    controls: ControlSettings
    families: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> Digest:
        """SHA-256 of the canonical JSON of all values."""
        return Digest.of(canonical_json(self.to_json()))

    @property
    def asked(self) -> tuple[Family, ...]:
        """The families that run: those with a test that is asked for, and that the threat model allows."""
        return tuple(family for family in FAMILIES if any(self.runs(kind.id) for kind in family.tests))

    @property
    def strictest_alpha(self) -> float:
        """What a p-value must reach in a run of several families, at worst: planted controls are held to it."""
        return self.decision.alpha / max(1, len(self.asked))

    def runs(self, test: str) -> bool:
        """True if this test is asked for and the threat model allows it."""
        return test in self.tests and excluded(test, threat_model=self.threat_model) is None

    def to_json(self) -> dict[str, Any]:
        """All values, as ``audit.json`` records them: each family's settings are a table of its name."""
        values = asdict(self)
        tables: dict[str, Any] = values.pop("families")
        return values | tables


def load_policy(path: Path | None = None, *, tier: str | None = None) -> Policy:
    """Reads a policy file over the tier that it names, or a built-in tier alone.

    Args:
        path: changes to a tier; ``tier`` in the file names it (``quick`` where the file says nothing). TOML, or the JSON of a
            complete policy, which leaves nothing of the tier.
        tier: the built-in tier; with a file, the tier that it must have.

    Raises:
        UsageError: unreadable, not TOML, an unknown key, a wrong type, a value out of range, or another tier than asked for.
    """
    changes = {} if path is None else _read(path)
    named = changes.get("tier", tier if path is None and tier else _BASE)
    if named not in TIERS:
        raise UsageError(
            "wrong value for tier",
            code="policy_value",
            where=str(path or "--tier"),
            expected=" | ".join(TIERS),
            actual=repr(named)[:80],
        )
    if tier is not None and named != tier:
        raise UsageError("the policy is of another tier", code="policy_value", where=str(path), expected=tier, actual=named)
    values = _read(_FOLDER / f"{_BASE}.toml")
    if named != _BASE:
        values = _merge(values, _read(_FOLDER / f"{named}.toml"), where=f"{named}.toml")
    where = f"{named}.toml"
    if path is not None:
        where = str(path)
        values = _merge(values, changes, where=where)
    for family in FAMILIES:
        if family.settings is not None:
            values.setdefault(family.name, {})
    return policy_from_json(values, where=where)


def policy_from_json(value: object, *, where: str) -> Policy:
    """The policy with exactly these values; used for TOML and for the copy inside ``audit.json``.

    Raises:
        UsageError: a key is missing or unknown, or a value has a wrong type or range.
    """
    tables = [family for family in FAMILIES if family.settings is not None]
    names = {item.name for item in fields(Policy)} - {"families"} | {family.name for family in tables}
    top = read_keys(value, names, where)
    with naming(where):
        policy = Policy(
            id=read_text(top, "id"),
            version=read_integer(top, "version", 1, 2**31 - 1),
            tier=read_choice(top, "tier", TIERS),
            threat_model=read_choice(top, "threat_model", THREAT_MODELS),
            expiry_days=read_integer(top, "expiry_days", 1, 400),
            seed=read_integer(top, "seed", 0, 2**31),
            tests=_tests(read_section(top["tests"], AskedTests, f"{where}: tests")),
            decision=_decision(read_section(top["decision"], Decision, f"{where}: decision")),
            inversion=_inversion(read_section(top["inversion"], InversionSettings, f"{where}: inversion")),
            parity=_parity(read_section(top["parity"], ParitySettings, f"{where}: parity")),
            controls=_controls(read_section(top["controls"], ControlSettings, f"{where}: controls")),
            families={
                family.name: family.read_settings(_table(top, family.name, where), where=f"{where}: {family.name}")
                for family in tables
            },
        )
        _check_required(policy)
        least, most = policy.decision.min_records_per_class, policy.decision.max_records_per_class
        if least > most:
            raise ValueProblemError("min_records_per_class", f"at most max_records_per_class, {most}", least)
    if policy.strictest_alpha * (policy.decision.permutations + 1) < 10:
        raise UsageError(
            "too few permutations for this alpha, which the families that run share",
            code="policy_value",
            where=where,
            expected=f"at least {math.ceil(10 / policy.strictest_alpha) - 1}",
            actual=policy.decision.permutations,
        )
    return policy


def _check_required(policy: Policy) -> None:
    """A required test that the threat model rules out could never run: every verdict would be INCONCLUSIVE."""
    for test in policy.tests.required:
        reason = excluded(test, threat_model=policy.threat_model)
        if reason is not None:
            raise ValueProblemError("tests.required", f"tests that run under {policy.threat_model}", f"{test}: {reason}")


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_POLICY_BYTES + 1)
    except OSError as e:
        raise UsageError("cannot read the policy", code="policy_missing", where=str(path), hint=e.strerror) from e
    if len(data) > _MAX_POLICY_BYTES:
        raise UsageError("policy too long", code="policy_syntax", where=str(path), expected=f"at most {_MAX_POLICY_BYTES} bytes")
    try:
        if data.lstrip().startswith(b"{"):  # a complete policy, as `audit policy --out` writes it
            return _object(parse_strict(data, max_bytes=_MAX_POLICY_BYTES, where=str(path)))
        return tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, FormatError, LimitError) as e:
        raise UsageError("neither TOML nor JSON", code="policy_syntax", where=str(path), actual=str(e)[:120]) from e


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError("not an object", code="field_type")
    return value


def _merge(base: Mapping[str, Any], over: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(base.get(key), dict) and not isinstance(value, dict):
            raise UsageError(
                f"wrong value for {key}", code="policy_value", where=where, expected="a table", actual=repr(value)[:80]
            )
        merged[key] = {**base[key], **value} if isinstance(base.get(key), dict) else value
    return merged


def _table(top: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = top[name]
    if not isinstance(value, dict):
        raise UsageError("not a table", code="policy_value", where=f"{where}: {name}")
    return value


def _tests(v: Mapping[str, Any]) -> AskedTests:
    required = read_choices(v, "required", known_tests(), at_least=1)
    optional = read_choices(v, "optional", known_tests(), at_least=0)
    if set(required) & set(optional):
        raise ValueProblemError("tests.optional", "no test that is required", sorted(set(required) & set(optional)))
    return AskedTests(required, optional)


def _decision(v: Mapping[str, Any]) -> Decision:
    return Decision(
        alpha=read_number(v, "alpha", 1e-4, 0.1),
        permutations=read_integer(v, "permutations", 99, 200_000),
        bootstraps=read_integer(v, "bootstraps", 200, 100_000),
        confidence=read_number(v, "confidence", 0.5, 0.999),
        min_records_per_class=read_integer(v, "min_records_per_class", 2, 10_000),
        max_records_per_class=read_integer(v, "max_records_per_class", 2, 10_000),
        delta_warning=read_number(v, "delta_warning", 0.0, 2.0),
        stop_early=read_flag(v, "stop_early"),
    )


def _inversion(v: Mapping[str, Any]) -> InversionSettings:
    return InversionSettings(
        attacks=read_choices(v, "attacks", ATTACKS, at_least=1),
        restarts=read_integer(v, "restarts", 1, 256),
        probability_steps=read_integer(v, "probability_steps", 1, 100_000),
        probability_rate=read_number(v, "probability_rate", 1e-6, 1e3),
        logit_steps=read_integer(v, "logit_steps", 1, 100_000),
        logit_rate=read_number(v, "logit_rate", 1e-6, 1.0),
        cross_entropy_steps=read_integer(v, "cross_entropy_steps", 1, 100_000),
        cross_entropy_rate=read_number(v, "cross_entropy_rate", 1e-6, 1.0),
        blur_every=read_integer(v, "blur_every", 0, 100_000),
        min_confidence=read_number(v, "min_confidence", 0.0, 1.0),
        min_converged_share=read_number(v, "min_converged_share", 0.0, 1.0),
        transfer_confidence=read_number(v, "transfer_confidence", 0.0, 1.0),
    )


def _parity(v: Mapping[str, Any]) -> ParitySettings:
    return ParitySettings(
        float_absolute=read_number(v, "float_absolute", 0.0, 1.0),
        quanta=read_number(v, "quanta", 0.0, 64.0),
        quantised_cap=read_number(v, "quantised_cap", 0.0, 1.0),
        rows=read_integer(v, "rows", 1, 65536),
    )


def _controls(v: Mapping[str, Any]) -> ControlSettings:
    strengths = v["planted_strengths"]
    if not isinstance(strengths, list | tuple) or not 1 <= len(strengths) <= 32:
        raise ValueProblemError("planted_strengths", "1 to 32 numbers", strengths)
    numbers = tuple(read_number({"planted_strengths": item}, "planted_strengths", 1e-6, 1.0) for item in strengths)
    required = read_number(v, "planted_required", 1e-6, 1.0)
    if tuple(sorted(set(numbers))) != numbers or not numbers[0] <= required <= numbers[-1]:
        raise ValueProblemError("planted_strengths", "growing, planted_required between the first and the last", strengths)
    return ControlSettings(
        planted_strengths=numbers,
        planted_required=required,
        untrained_twins=read_integer(v, "untrained_twins", 1, 64),
        relabellings=read_integer(v, "relabellings", 20, 10_000),
    )
