"""The device's own acceptance policy: which audits count here, whatever release and audit teams agree on.

It also says what becomes of the running model when something speaks against it (``reactions.py``).

Read from TOML by ``device init --policy`` and at every opening; asked in ``install/poll.py`` after agreement and before
any blob is fetched. It can only ask for more than the signed records do; a key that asks for less begins with
``unsafe_`` and shows in ``status`` and in every report. The one thing between is ``offline_grace_days``, which DESIGN 5 allows
within its bound and which raises an alarm where it made a difference. ``docs/policy.md`` explains every key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType

from device_client.bundle.fields import Fields, shown
from device_client.bundle.path import ModelPath
from device_client.errors import FormatError, PolicyError, UsageError
from device_client.policy.local import INSTALL_KEYS, InstallPolicy, read_install_policy
from device_client.policy.probation import PROBATION_KEYS, ProbationRules, read_probation
from device_client.policy.reactions import REACTION_KEYS, Reactions, read_reactions
from device_client.trust.custom import TIERS, AuditCustom, VariantVerdict
from device_client.trust.rules import LIFETIME_CAPS
from device_client.trust.times import format_time

SCHEMA = 1
MAX_POLICY_BYTES = 64 * 1024
MAX_AGE_DAYS = LIFETIME_CAPS["audit"].days  # beyond it an audit role has expired anyway
_MAX_MODELS = 64
_ACCEPTABLE = ("PASSED", "WARNED")  # FAILED and INCONCLUSIVE are never accepted; WAIVED has its own, unsafe, key
_TABLES = ("schema", "audit", "import", "reactions", "probation", "install", "models")
MAX_GRACE_DAYS = 30
_AUDIT_KEYS = ("policies", "minimum_tier", "verdicts", "max_age_days", "unsafe_accept_waived")
DEFAULT_POLICY_TEXT = """\
# What this device accepts, and what it does when something speaks against the running model. docs/policy.md explains every
# key. An unknown key is an error; every key but `schema` may be left out, and then has the value shown here.
schema = 1

[audit]
policies = {}                  # audit policy ids with their lowest version; empty: any policy of the audit role
minimum_tier = "quick"         # quick, standard or deep
verdicts = ["PASSED", "WARNED"]
max_age_days = 30              # an audit role that was signed longer ago installs nothing; 1 to 30
unsafe_accept_waived = false   # true also takes models whose audit was waived

[import]                       # of a file that a person brings: `sealift device import`
offline_grace_days = 0         # 0 to 30: so long past their expiry its snapshot and timestamp still count

[reactions]                    # of the running model; each of them also raises an alarm
withdrawn = "fall_back"        # fall_back (to the newest held bundle that may run, else keep running), stop
expired = "keep"               # keep, stop: signed metadata, or the running model's verdict, has expired
behind = "keep"                # keep, stop: the newest release that is open to this device does not run here
withheld = "keep"              # keep, stop: the server does not even offer it
expired_days = 1               # on so many days it may be so before anything happens; 0 to 30
behind_days = 14               # 1 to 90
max_hold_days = 7              # 1 to 30
unsafe_keep_withdrawn = false  # true: a withdrawn model goes on running although another one could

[probation]                    # a new bundle is watched, and committed only when it was observed to be good
minutes = 10                   # of uptime without a fault; 0 commits right after the self-test
min_runs = 0                   # inferences that it must have answered
max_hours = 72                 # of uptime; one that did not get there until then is rolled back
max_failures = 0               # runs that the runtime failed on
max_crashes = 2                # ends of the process that runs it
max_boots = 3                  # starts of the machine

[install]                      # when a new release is taken; the running model never waits
windows = []                   # "HH:MM-HH:MM"; empty: at any time
local_time = false             # windows by the machine's time zone; false: UTC
window_days = 14               # days of waiting after which windows no longer count; 0: never
ready_command = []             # a program that ends with 0 when the device is ready, for example on mains power
device_class = ""              # the class by which a release may name this device in its latency budget

# [models."digits/ocr"]        # keys of [reactions] for one model, in place of those above
# withdrawn = "stop"
"""


@dataclass(frozen=True)
class AcceptancePolicy:
    """What a variant's audit must show on this device, and how it reacts.

    Attributes:
        policies: audit policy id to the lowest acceptable version; empty means any policy of the audit role.
        minimum_tier: the least deep audit that is accepted.
        verdicts: the accepted verdicts.
        max_age_days: days since the audit role was signed after which it installs nothing.
        unsafe_accept_waived: also accept WAIVED.
        offline_grace_days: days past their expiry on which snapshot and timestamp count, on an import by hand only.
        reactions: what becomes of running models.
        models: reactions of single models, complete, in place of ``reactions``.
        probation: what a new bundle must show before it is committed.
        install: when a new release is taken.
    """

    policies: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    minimum_tier: str = "quick"
    verdicts: tuple[str, ...] = _ACCEPTABLE
    max_age_days: int = MAX_AGE_DAYS
    unsafe_accept_waived: bool = False
    offline_grace_days: int = 0
    reactions: Reactions = field(default_factory=Reactions)
    models: Mapping[ModelPath, Reactions] = field(default_factory=lambda: MappingProxyType({}))
    probation: ProbationRules = field(default_factory=ProbationRules)
    install: InstallPolicy = field(default_factory=InstallPolicy)

    def reactions_for(self, model: ModelPath) -> Reactions:
        """What the owner wants for this model."""
        return self.models.get(model, self.reactions)

    @property
    def unsafe(self) -> tuple[str, ...]:
        """Names of the keys that weaken a check and are set anywhere in the file, for ``status`` and reports."""
        found = {"unsafe_accept_waived"} if self.unsafe_accept_waived else set()
        return tuple(sorted(found.union(*(reactions.unsafe for reactions in (self.reactions, *self.models.values())))))


def parse_policy(data: bytes, *, where: str = "policy", models: Iterable[ModelPath] | None = None) -> AcceptancePolicy:
    """Reads a policy file; missing keys keep their defaults.

    Args:
        data: the file's bytes.
        where: its name, for errors.
        models: what the device follows; a table for any other model is then an error, since a name that is mistyped would
            leave the model that was meant without its stricter reactions.

    Raises:
        UsageError: not TOML, an unknown key, or a value outside its list (``policy_file``); the key is named.
    """
    try:
        if len(data) > MAX_POLICY_BYTES:
            raise FormatError("policy file too long", code="policy_file", expected=f"at most {MAX_POLICY_BYTES} bytes")
        fields = Fields(tomllib.loads(data.decode("utf-8")), where=where, known=_TABLES)
        fields.integer("schema", minimum=SCHEMA, maximum=SCHEMA)
        return _read_policy(fields, models=models)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise UsageError(f"not a TOML file: {e}", code="policy_file", where=where) from e
    except FormatError as e:
        raise UsageError(
            e.what,
            code="policy_file",
            where=e.where or where,
            expected=e.expected,
            actual=e.actual,
            hint="the default policy lies in the device's folder after `sealift device init`; docs/policy.md explains it",
        ) from e


def check_audit(audit: AuditCustom, policy: AcceptancePolicy, *, issued: datetime, now: datetime) -> None:
    """What holds for the whole entry before an installation: active, of an accepted audit policy, and fresh.

    Args:
        audit: the entry.
        policy: what this device accepts.
        issued: when the audit role that holds the entry was signed (``AgreedRelease.audit_issued``).
        now: trusted time.

    Raises:
        PolicyError: ``withdrawn``, ``policy_not_accepted`` or ``audit_stale``.
    """
    check_audit_kind(audit, policy)
    if now - issued > timedelta(days=policy.max_age_days):
        raise PolicyError(
            "the audit role was signed too long ago for this device",
            code="audit_stale",
            where="audit role",
            expected=f"signed at most {policy.max_age_days} days before {format_time(now)}",
            actual=format_time(issued),
            hint="the running model stays; ask the security team to sign its role again, and check this device's clock",
        )


def check_audit_kind(audit: AuditCustom, policy: AcceptancePolicy) -> None:
    """What holds for the entry at any time: it is active, and its audit policy is one that this device accepts.

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
    """What holds for one variant before an installation: an accepted verdict, of a sufficient tier, not expired.

    Args:
        entry: the audit role's word on the variant's bytes.
        policy: what this device accepts.
        now: trusted time.
        where: the variant, for errors.

    Raises:
        PolicyError: ``verdict_failed``, ``verdict_inconclusive``, ``verdict_waived`` or another verdict by its name,
            ``tier_not_accepted``, ``verdict_expired``.
    """
    check_verdict_kind(entry, policy, where=where)
    if now >= entry.expires:
        raise PolicyError(
            "the audit's verdict has expired",
            code="verdict_expired",
            where=where,
            expected=f"before {format_time(entry.expires)}",
            actual=format_time(now),
            hint="ask the security team to audit again, and check this device's clock",
        )


def check_verdict_kind(entry: VariantVerdict, policy: AcceptancePolicy, *, where: str) -> None:
    """What holds for one variant at any time: an accepted verdict, of a sufficient tier.

    Raises:
        PolicyError: ``verdict_failed``, ``verdict_inconclusive``, ``verdict_waived`` or another verdict by its name,
            ``tier_not_accepted``.
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


def _read_policy(fields: Fields, *, models: Iterable[ModelPath] | None) -> AcceptancePolicy:
    audit = fields.fields("audit", known=_AUDIT_KEYS) if "audit" in fields else Fields({}, where=fields.where)
    default, policies = AcceptancePolicy(), audit.mapping("policies", _read_version, max_items=64) if "policies" in audit else {}
    verdicts = audit.items("verdicts", _read_verdict, max_items=8) if "verdicts" in audit else default.verdicts
    if not verdicts:
        raise FormatError("no verdict is accepted", code="policy_file", where=f"{audit.where}.verdicts", expected=_ACCEPTABLE)
    reactions = default.reactions
    if "reactions" in fields:
        reactions = read_reactions(fields.fields("reactions", known=REACTION_KEYS), base=reactions)
    imports = fields.fields("import", known=("offline_grace_days",)) if "import" in fields else Fields({}, where=fields.where)
    return AcceptancePolicy(
        policies=MappingProxyType(policies),
        minimum_tier=audit.text("minimum_tier", choices=TIERS) if "minimum_tier" in audit else default.minimum_tier,
        verdicts=verdicts,
        max_age_days=audit.integer("max_age_days", minimum=1, maximum=MAX_AGE_DAYS)
        if "max_age_days" in audit
        else default.max_age_days,
        unsafe_accept_waived=audit.boolean("unsafe_accept_waived") if "unsafe_accept_waived" in audit else False,
        offline_grace_days=imports.integer("offline_grace_days", minimum=0, maximum=MAX_GRACE_DAYS)
        if "offline_grace_days" in imports
        else default.offline_grace_days,
        reactions=reactions,
        models=MappingProxyType(_read_models(fields, base=reactions, models=models) if "models" in fields else {}),
        probation=read_probation(fields.fields("probation", known=PROBATION_KEYS)) if "probation" in fields else default.probation,
        install=read_install_policy(fields.fields("install", known=INSTALL_KEYS)) if "install" in fields else default.install,
    )


def _read_models(fields: Fields, *, base: Reactions, models: Iterable[ModelPath] | None) -> dict[ModelPath, Reactions]:
    tables = fields.fields("models")
    names = tables.keys()
    if len(names) > _MAX_MODELS:
        raise FormatError("too many models", code="policy_file", where=tables.where, expected=f"at most {_MAX_MODELS}")
    followed = None if models is None else set(models)
    found: dict[ModelPath, Reactions] = {}
    for name in names:
        where = f"{tables.where}.{shown(name)}"
        try:
            model = ModelPath.parse(name)
        except FormatError as e:
            raise FormatError("not the name of a model", code="policy_file", where=where, expected='"LINE/MODEL"') from e
        if followed is not None and model not in followed:
            raise FormatError(
                "a model that this device does not follow",
                code="policy_file",
                where=where,
                expected=" | ".join(sorted(map(str, followed)))[:300],
            )
        found[model] = read_reactions(tables.fields(name, known=REACTION_KEYS), base=base)
    return found


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
