"""The device's own acceptance policy: which audit verdicts count, whatever release and audit teams agree on.

Read from TOML by ``device init --policy`` and at every poll; asked in ``install/poll.py`` after agreement and before
any blob is fetched. It can only ask for more than the signed records do; the one key that asks for less is called
``unsafe_...`` and shows in ``status`` and in every report.

    schema = 1
    [audit]
    policies = {"sealift-privacy" = 2}     # ids with their lowest version; left out or empty: any of the audit role
    minimum_tier = "standard"              # quick, standard or deep
    verdicts = ["PASSED"]                  # PASSED, WARNED
    unsafe_accept_waived = false
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from device_client.bundle.fields import Fields
from device_client.errors import FormatError, PolicyError, UsageError
from device_client.trust.custom import TIERS, AuditCustom, VariantVerdict
from device_client.trust.times import format_time

SCHEMA = 1
MAX_POLICY_BYTES = 64 * 1024
_ACCEPTABLE = ("PASSED", "WARNED")  # FAILED and INCONCLUSIVE are never accepted; WAIVED has its own, unsafe, key
DEFAULT_POLICY_TEXT = """\
# Which audit verdicts this device accepts. An unknown key is an error.
schema = 1

[audit]
policies = {}                  # audit policy ids with their lowest version; empty: any policy of the audit role
minimum_tier = "quick"         # quick, standard or deep
verdicts = ["PASSED", "WARNED"]
unsafe_accept_waived = false   # true also takes models whose audit was waived
"""


@dataclass(frozen=True)
class AcceptancePolicy:
    """What a variant's audit must show on this device.

    ``policies``: audit policy id to the lowest acceptable version; empty means any policy of the audit role.
    """

    policies: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    minimum_tier: str = "quick"
    verdicts: tuple[str, ...] = _ACCEPTABLE
    unsafe_accept_waived: bool = False

    @property
    def unsafe(self) -> tuple[str, ...]:
        """Names of the keys that weaken a check, for ``status`` and reports."""
        return ("unsafe_accept_waived",) if self.unsafe_accept_waived else ()


def parse_policy(data: bytes, *, where: str = "policy") -> AcceptancePolicy:
    """Reads a policy file; missing keys keep their defaults.

    Raises:
        UsageError: not TOML, an unknown key, or a value outside its list (``policy_file``).
    """
    try:
        if len(data) > MAX_POLICY_BYTES:
            raise FormatError("policy file too long", code="policy_file", expected=f"at most {MAX_POLICY_BYTES} bytes")
        fields = Fields(tomllib.loads(data.decode("utf-8")), where=where, known=("schema", "audit"))
        fields.integer("schema", minimum=SCHEMA, maximum=SCHEMA)
        known = ("policies", "minimum_tier", "verdicts", "unsafe_accept_waived")
        audit = fields.fields("audit", known=known) if "audit" in fields else Fields({}, where=f"{where}.audit")
        return _read_audit(audit)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise UsageError(f"not a TOML file: {e}", code="policy_file", where=where) from e
    except FormatError as e:
        raise UsageError(
            e.what,
            code="policy_file",
            where=e.where or where,
            expected=e.expected,
            actual=e.actual,
            hint="the default policy lies in the device's folder after `sealift device init`",
        ) from e


def check_audit(audit: AuditCustom, policy: AcceptancePolicy) -> None:
    """What holds for the whole entry: it is active, and its audit policy is one that this device accepts.

    Raises:
        PolicyError: ``withdrawn`` or ``policy_not_accepted``.
    """
    if audit.status != "active":
        raise PolicyError(
            "the audit team has withdrawn this version",
            code="withdrawn",
            where="audit entry",
            actual=audit.reason[:200] or audit.status,
            hint="the running model stays; ask the security team",
        )
    lowest = policy.policies.get(audit.policy.id)
    if policy.policies and (lowest is None or audit.policy.version < lowest):
        raise PolicyError(
            "audited under a policy that this device does not accept",
            code="policy_not_accepted",
            where="audit entry",
            expected=", ".join(f"{name} >= {version}" for name, version in sorted(policy.policies.items())),
            actual=f"{audit.policy.id} {audit.policy.version}",
        )


def check_verdict(entry: VariantVerdict, policy: AcceptancePolicy, *, now: datetime, where: str) -> None:
    """What holds for one variant: an accepted verdict, of a sufficient tier, not expired.

    Args:
        entry: the audit role's word on the variant's bytes.
        policy: what this device accepts.
        now: trusted time.
        where: the variant, for errors.

    Raises:
        PolicyError: ``verdict_failed``, ``verdict_inconclusive``, ``verdict_waived`` or another verdict by its name,
            ``tier_not_accepted``, ``verdict_expired``.
    """
    accepted = (*policy.verdicts, "WAIVED") if policy.unsafe_accept_waived else policy.verdicts
    if entry.verdict not in accepted:
        raise PolicyError(
            "the audit's verdict is not accepted here",
            code=f"verdict_{entry.verdict.lower()}",
            where=where,
            expected=" | ".join(accepted),
            actual=entry.verdict,
        )
    if TIERS.index(entry.tier) < TIERS.index(policy.minimum_tier):
        raise PolicyError(
            "the audit is not deep enough for this device",
            code="tier_not_accepted",
            where=where,
            expected=f"{policy.minimum_tier} or deeper",
            actual=entry.tier,
        )
    if now >= entry.expires:
        raise PolicyError(
            "the audit's verdict has expired",
            code="verdict_expired",
            where=where,
            expected=f"before {format_time(entry.expires)}",
            actual=format_time(now),
            hint="ask the security team to audit again, and check this device's clock",
        )


def _read_audit(fields: Fields) -> AcceptancePolicy:
    default = AcceptancePolicy()
    verdicts = fields.items("verdicts", _read_verdict, max_items=8) if "verdicts" in fields else default.verdicts
    if not verdicts:
        raise FormatError("no verdict is accepted", code="policy_file", where=f"{fields.where}.verdicts", expected=_ACCEPTABLE)
    return AcceptancePolicy(
        policies=MappingProxyType(fields.mapping("policies", _read_version, max_items=64) if "policies" in fields else {}),
        minimum_tier=fields.text("minimum_tier", choices=TIERS) if "minimum_tier" in fields else default.minimum_tier,
        verdicts=verdicts,
        unsafe_accept_waived=fields.boolean("unsafe_accept_waived") if "unsafe_accept_waived" in fields else False,
    )


def _read_verdict(value: object, where: str) -> str:
    if value not in _ACCEPTABLE:
        raise FormatError(
            "not a verdict that a policy may list", code="policy_file", where=where, expected=" | ".join(_ACCEPTABLE), actual=value
        )
    return str(value)


def _read_version(value: object, where: str) -> int:
    if type(value) is not int or value < 1:
        raise FormatError("not a version", code="policy_file", where=where, expected="an integer from 1", actual=repr(value)[:40])
    return value
