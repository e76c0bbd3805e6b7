"""Signed by the release role alone: without the audit team nothing installs, however many release keys are there."""

from __future__ import annotations

from dataclasses import replace

from demo import attacks
from demo.attacker import Entries
from demo.names import AUDIT, RELEASE
from tests.threats.judge import expect_installed, expect_refusal, refuse_then_install
from tests.threats.world import World


def test_a_bundle_that_only_the_release_role_lists_is_refused_and_with_the_audits_entry_installs(world: World) -> None:
    refuse_then_install(world, attacks.release_role_alone(world.stage))


def test_a_bundle_that_only_the_audit_role_lists_is_refused_and_with_the_releases_entry_installs(world: World) -> None:
    before = world.footprint()
    issue = world.stage.reissue("1.3.0")
    issue.audit()
    issue.offer()
    expect_refusal(world, "release_entry_missing", before=before)
    issue.release()
    expect_installed(world, "1.3.0", before=before)


def test_an_audit_of_another_manifest_under_the_same_name_is_refused(world: World) -> None:
    before = world.footprint()
    issue = world.stage.reissue("1.3.0")
    issue.release()
    swapped = replace(issue, manifest=world.town.second.manifest)
    swapped.audit()
    issue.offer()
    expect_refusal(world, "entries_differ", before=before)
    issue.audit()
    expect_installed(world, "1.3.0", before=before)


def test_the_audits_entry_signed_by_the_release_team_is_refused(world: World) -> None:
    before = world.footprint()
    issue = world.stage.reissue("1.3.0")
    issue.release()
    entries: Entries = issue.audit_entries()
    world.web.forge_delegated(AUDIT, entries, signers=world.stage.keys.of(RELEASE))
    issue.offer()
    expect_refusal(world, "signature_threshold", before=before)
    world.web.resign_delegated(AUDIT, entries, signers=world.stage.keys.of(AUDIT))
    expect_installed(world, "1.3.0", before=before)


def test_the_audits_path_listed_by_the_release_role_itself_is_refused(world: World) -> None:
    before = world.footprint()
    issue = world.stage.reissue("1.3.0")
    entries = {**issue.release_entries(), **issue.audit_entries()}
    world.web.forge_delegated(RELEASE, entries, signers=world.stage.keys.of(RELEASE))
    issue.offer()
    expect_refusal(world, "path_outside_role", before=before)
    issue.audit()
    expect_refusal(world, "path_outside_role", before=before)
