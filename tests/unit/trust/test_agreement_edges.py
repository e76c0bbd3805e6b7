"""The agreement's rules on role objects, as `check_agreement` gets them: one change each, nothing fetched before."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tuf.api.metadata import Delegations, TargetFile

from device_client.bundle.counter import Counter
from device_client.bundle.digest import Digest
from device_client.errors import SealiftError
from device_client.limits import Limits
from device_client.trust.agreement import AgreedRelease, LoadedRole, check_agreement, check_role
from device_client.trust.refs import BlobRef
from tests.simulator import AUDIT, NOW, RELEASE, RepositorySimulator, stamp
from tests.unit.trust.edited import code_of

V = "1.0.0"
MANIFEST = b"manifest of 1.0.0"


@pytest.fixture
def sim() -> RepositorySimulator:
    simulator = RepositorySimulator()
    simulator.release(V, counter=1)
    return simulator


def _loaded(sim: RepositorySimulator) -> dict[str, LoadedRole]:
    """Each role with all of its bins."""
    return {
        role: LoadedRole(
            sim.delegated[role], {name: signed for name, signed in sim.delegated.items() if name.startswith(f"{role}-")}
        )
        for role in (RELEASE, AUDIT)
        if role in sim.delegated
    }


def _agree(sim: RepositorySimulator, **changes: Any) -> AgreedRelease:
    given = {"root": sim.root, "targets": sim.targets, "roles": _loaded(sim)} | changes
    return check_agreement(sim.path(V), **given)


def test_an_agreed_release_holds_what_both_roles_say(sim: RepositorySimulator) -> None:
    stamp(sim.delegated[AUDIT], 20, now=NOW - timedelta(days=3))
    agreed = _agree(sim)
    assert agreed.path == sim.path(V)
    assert agreed.manifest == BlobRef.of(MANIFEST)
    assert agreed.audit_issued == NOW - timedelta(days=3)
    assert (agreed.release.counter, agreed.audit.counter, agreed.audit.seq) == (Counter(0, 1), Counter(0, 1), 1)
    assert agreed.release.measurements == BlobRef.of(b"measurements")


def test_only_check_agreement_can_make_one(sim: RepositorySimulator) -> None:
    agreed = _agree(sim)
    with pytest.raises(TypeError, match="check_agreement"):
        AgreedRelease(agreed.path, agreed.manifest, agreed.release, agreed.audit, agreed.audit_issued, object())
    with pytest.raises(TypeError, match="check_agreement"):
        AgreedRelease(agreed.path, agreed.manifest, agreed.release, agreed.audit, agreed.audit_issued, None)


def test_of_a_role_in_bins_the_issue_of_the_bin_counts(sim: RepositorySimulator) -> None:
    sim.split_into_bins(AUDIT)
    for role in list(_loaded(sim)[AUDIT].bins):
        stamp(sim.delegated[role], 20, now=NOW - timedelta(days=5))
    assert _agree(sim).audit_issued == NOW - timedelta(days=5)


def test_a_manifest_of_the_largest_length_is_agreed_on_and_a_longer_one_is_not(sim: RepositorySimulator) -> None:
    assert _agree(sim, limits=Limits(max_manifest_bytes=len(MANIFEST))).manifest.length == len(MANIFEST)
    assert code_of(lambda: _agree(sim, limits=Limits(max_manifest_bytes=len(MANIFEST) - 1))) == "too_large"


def _no_delegations(sim: RepositorySimulator) -> None:
    sim.targets.delegations = None


def _bins_at_the_top(sim: RepositorySimulator) -> None:
    sim.split_into_bins(RELEASE)
    sim.targets.delegations = sim.delegated[RELEASE].delegations


def _no_named_role(sim: RepositorySimulator) -> None:
    sim.targets.delegations = Delegations({}, roles={})


def _targets_too_long(sim: RepositorySimulator) -> None:
    stamp(sim.targets, 181)


def _targets_unissued(sim: RepositorySimulator) -> None:
    del sim.targets.unrecognized_fields["issued"]


def _release_too_long(sim: RepositorySimulator) -> None:
    stamp(sim.delegated[RELEASE], 91)


def _audit_too_long(sim: RepositorySimulator) -> None:
    stamp(sim.delegated[AUDIT], 31)


def _foreign_path(role: str) -> Callable[[RepositorySimulator], None]:
    def break_it(sim: RepositorySimulator) -> None:
        path = f"{role.partition('-')[0]}/other/ocr/1.json"
        sim.delegated[role].targets[path] = TargetFile(1, {"sha256": "0" * 64}, path)

    return break_it


def _delegates(role: str) -> Callable[[RepositorySimulator], None]:
    def break_it(sim: RepositorySimulator) -> None:
        sim.delegated[role].delegations = Delegations({}, roles={})

    return break_it


def _no_hash(sim: RepositorySimulator) -> None:
    for role, target in ((RELEASE, sim.path(V).release_target), (AUDIT, sim.path(V).audit_target)):
        sim.delegated[role].targets[target].hashes = {"sha512": "0" * 128}


def _other_length(sim: RepositorySimulator) -> None:
    sim.delegated[AUDIT].targets[sim.path(V).audit_target].length += 1


def _other_floor(sim: RepositorySimulator) -> None:
    sim.delegated[AUDIT].targets[sim.path(V).audit_target].unrecognized_fields["custom"]["floor"] = [0, 1]


def _no_custom(role: str) -> Callable[[RepositorySimulator], None]:
    def break_it(sim: RepositorySimulator) -> None:
        path = sim.path(V)
        target = path.release_target if role == RELEASE else path.audit_target
        del sim.delegated[role].targets[target].unrecognized_fields["custom"]

    return break_it


BROKEN: dict[str, tuple[Callable[[RepositorySimulator], None], str]] = {
    "2 targets delegates to nobody": (_no_delegations, "delegation_ambiguous"),
    "2 targets delegates to bins": (_bins_at_the_top, "delegation_ambiguous"),
    "2 no delegation matches": (_no_named_role, "delegation_ambiguous"),
    "4 targets lives too long": (_targets_too_long, "expiry_over_cap"),
    "4 targets does not say when it was issued": (_targets_unissued, "issued_missing"),
    "4 the release role lives too long": (_release_too_long, "expiry_over_cap"),
    "4 the audit role lives too long": (_audit_too_long, "expiry_over_cap"),
    "5 the release role lists a path of another line": (_foreign_path(RELEASE), "path_outside_role"),
    "5 the audit role lists a path of another line": (_foreign_path(AUDIT), "path_outside_role"),
    "5 the release role delegates": (_delegates(RELEASE), "delegation_nested"),
    "5 the audit role delegates": (_delegates(AUDIT), "delegation_nested"),
    "7 both entries carry another hash only": (_no_hash, "hash_not_sha256"),
    "8 the entries name different lengths": (_other_length, "entries_differ"),
    "9 the records disagree on the floor": (_other_floor, "custom_mismatch"),
    "9 the release entry has no record": (_no_custom(RELEASE), "field_type"),
    "9 the audit entry has no record": (_no_custom(AUDIT), "field_type"),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_rule_broken_in_verified_roles_is_refused_with_its_code(rule: str, sim: RepositorySimulator) -> None:
    break_it, code = BROKEN[rule]
    break_it(sim)
    with pytest.raises(SealiftError) as refusal:
        _agree(sim)
    assert refusal.value.code == code


@pytest.mark.parametrize(("role", "code"), [(RELEASE, "release_entry_missing"), (AUDIT, "audit_entry_missing")])
def test_a_role_that_is_absent_is_an_entry_that_is_missing(role: str, code: str, sim: RepositorySimulator) -> None:
    roles = {name: loaded for name, loaded in _loaded(sim).items() if name != role}
    with pytest.raises(SealiftError) as refusal:
        _agree(sim, roles=roles)
    assert refusal.value.code == code


def test_a_refusal_names_the_custom_record_that_is_wrong(sim: RepositorySimulator) -> None:
    _no_custom(AUDIT)(sim)
    with pytest.raises(SealiftError) as refusal:
        _agree(sim)
    assert refusal.value.where == "audit/digits/ocr/1.0.0.json custom"
    _no_custom(RELEASE)(sim)
    with pytest.raises(SealiftError) as refusal:
        _agree(sim)
    assert refusal.value.where == "release/digits/ocr/1.0.0.json custom"


def test_an_entry_is_looked_for_in_the_one_bin_that_may_list_it(sim: RepositorySimulator) -> None:
    target = sim.path(V).release_target
    plain = _loaded(sim)[RELEASE]
    entry = plain.entry(target)
    assert entry is not None
    assert plain.entry("release/digits/ocr/2.json") is None
    sim.split_into_bins(RELEASE)
    whole = _loaded(sim)[RELEASE]
    assert whole.entry(target) == entry
    assert LoadedRole(whole.signed).entry(target) is None


def _bin_lives_too_long(sim: RepositorySimulator, name: str) -> None:
    stamp(sim.delegated[name], 91)


def _bin_delegates(sim: RepositorySimulator, name: str) -> None:
    sim.delegated[name].delegations = Delegations({}, roles={})


def _bin_lists_a_foreign_path(sim: RepositorySimulator, name: str) -> None:
    """One that hashes into the bin, and is of another line."""
    bins = sim.delegated[RELEASE].delegations
    assert bins is not None
    assert bins.succinct_roles is not None
    paths = (f"release/other/ocr/{number}.json" for number in range(1000))
    path = next(path for path in paths if bins.succinct_roles.get_role_for_target(path) == name)
    sim.delegated[name].targets[path] = TargetFile(1, {"sha256": Digest.of(b"").hex}, path)


@pytest.mark.parametrize(
    ("break_it", "code"),
    [
        (_bin_lives_too_long, "expiry_over_cap"),
        (_bin_delegates, "delegation_nested"),
        (_bin_lists_a_foreign_path, "path_outside_role"),
    ],
)
def test_every_loaded_bin_is_held_to_the_rules_of_its_role(
    break_it: Callable[[RepositorySimulator, str], None], code: str, sim: RepositorySimulator
) -> None:
    sim.split_into_bins(RELEASE)
    check_role(_loaded(sim)[RELEASE], sim.targets, RELEASE)
    break_it(sim, f"{RELEASE}-3")
    assert code_of(lambda: check_role(_loaded(sim)[RELEASE], sim.targets, RELEASE)) == code
