"""Root keys: too few of them, rotated-out ones, long and broken chains, key types from the future."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, Root

from demo.names import SECOND
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.files import write_atomic
from tests.threats.hands import Hands
from tests.threats.judge import expect_installed, expect_refusal
from tests.threats.world import World


def hand_over(stranger: CryptoSigner) -> Callable[[Root], Any]:
    """Everything below root goes to one key of the thief."""

    def change(root: Root) -> None:
        for role in ("targets", "snapshot", "timestamp"):
            for keyid in list(root.roles[role].keyids):
                root.revoke_key(keyid, role)
            root.add_key(stranger.public_key, role)
            root.roles[role].threshold = 1

    return change


@pytest.mark.parametrize("is_cache_wiped", [False, True], ids=["cache kept", "cache wiped"])
def test_one_root_key_of_two_hands_nothing_over(world: World, *, is_cache_wiped: bool) -> None:
    """K08. Neither alone, nor twice, nor together with keys of other roles."""
    hands, stranger = Hands(world), CryptoSigner.generate_ed25519()
    one = world.keys["root"][0]
    before = world.footprint()
    for signers in ([one], [one, one], [one, stranger], [one, *world.keys["targets"], *world.keys["timestamp"]]):
        hands.next_root(hand_over(stranger), signers=signers)
        if is_cache_wiped:
            shutil.rmtree(world.device.folder.metadata, ignore_errors=True)
        expect_refusal(world, "signature_threshold", before=before)
        assert world.rows("SELECT version FROM roots") == ((1,),), "the forged root is not remembered"
        (hands.tuf / "2.root.json").unlink()
    expect_installed(world, SECOND, before=before)


def test_a_device_that_slept_through_forty_roots_catches_up_in_one_poll(world: World) -> None:
    """K09. Every root rotates all root keys; those in between expired long ago."""
    hands = Hands(world)
    before = world.footprint()
    for version in range(2, 41):
        fresh = [CryptoSigner.generate_ed25519() for _ in range(2)]
        old = world.keys["root"]

        def rotate(root: Root, old: Any = old, fresh: Any = fresh, version: int = version) -> None:
            for signer in old:
                root.revoke_key(signer.public_key.keyid, "root")
            for signer in fresh:
                root.add_key(signer.public_key, "root")
            if version < 40:
                root.expires = world.true_time() - timedelta(days=1)
                root.unrecognized_fields["issued"] = "2020-01-01T00:00:00Z"

        hands.next_root(rotate, signers=[*old, *fresh])
        world.keys["root"] = fresh
    expect_installed(world, SECOND, before=before)
    assert world.rows("SELECT max(version), count(*) FROM roots") == ((40, 40),)


def test_a_root_chain_beyond_the_cap_ends_the_poll_cleanly_and_the_next_one_goes_on(world: World) -> None:
    """K10."""
    hands, few = Hands(world), replace(DEFAULT_LIMITS, max_root_rotations=4)
    for _ in range(6):
        hands.next_root()
    before = world.footprint()
    expect_refusal(world, "root_chain_too_long", before=before, limits=few)
    assert world.rows("SELECT max(version) FROM roots") == ((5,),), "what was verified is kept"
    expect_installed(world, SECOND, before=before, limits=few)


def test_a_missing_root_in_the_middle_is_the_end_of_the_chain_and_no_half_state(world: World) -> None:
    """K10. The keys of the timestamp were replaced behind the hole: refused until the hole is filled."""
    hands = Hands(world)
    hands.next_root()
    hidden = (hands.tuf / "2.root.json").read_bytes()
    hands.rotate("timestamp")
    hands.renew()
    (hands.tuf / "2.root.json").unlink()
    before = world.footprint()
    expect_refusal(world, "signature_threshold", before=before)
    assert world.rows("SELECT version FROM roots") == ((1,),)
    write_atomic(hands.tuf / "2.root.json", hidden)
    expect_installed(world, SECOND, before=before)


def test_one_root_key_under_two_ids_counts_once(world: World) -> None:
    """K11. One of the two holders lists their own key twice, in another spelling, and would meet the threshold alone."""
    hands = Hands(world)
    one, other = world.keys["root"]
    assert isinstance(one, CryptoSigner)
    twin_key = SSlibKey("f" * 64, "ed25519", "ed25519", {"public": one.public_key.keyval["public"].upper()})
    twin = CryptoSigner(one._private_key, twin_key)

    def twice(root: Root) -> None:
        root.revoke_key(other.public_key.keyid, "root")
        root.add_key(twin_key, "root")

    before = world.footprint()
    hands.next_root(twice, signers=[one, other, twin])
    expect_refusal(world, "roles_share_keys", before=before)
    (hands.tuf / "2.root.json").unlink()
    expect_installed(world, SECOND, before=before)


def test_a_root_with_a_key_type_from_the_future_says_that_the_client_is_too_old_and_keeps_everything(world: World) -> None:
    """K12."""
    hands = Hands(world)

    def future(root: Root) -> None:
        root.unrecognized_fields["note"] = "post-quantum, at last"

    data = hands.next_root(future)
    value = Metadata.from_bytes(data).to_dict()
    value["signed"]["keys"]["ab" * 32] = {"keytype": "lattice", "scheme": "lattice-9", "keyval": {"public": "00"}}
    write_atomic(hands.tuf / "2.root.json", json.dumps(value).encode())
    before = world.footprint()
    error = expect_refusal(world, "key_type", before=before)
    assert "too old" in str(error.hint)
    assert world.rows("SELECT version FROM roots") == ((1,),)
    (hands.tuf / "2.root.json").unlink()
    expect_installed(world, SECOND, before=before)


def test_rotated_out_root_keys_cannot_fork_the_chain_after_the_cache_is_wiped(world: World) -> None:
    """R05. The thief has the first root keys, which were good once; the device starts from the newest root it has verified."""
    hands, stranger = Hands(world), CryptoSigner.generate_ed25519()
    old = list(world.keys["root"])
    hands.rotate("root")
    world.web.offer(world.town.first.bundle.path)
    assert world.poll().result == "current"
    before = world.footprint()
    web = world.data / "tuf"
    honest = {path.name: path.read_bytes() for path in web.glob("*.root.json")}
    (web / "2.root.json").unlink()
    new = world.keys["root"]
    world.keys["root"] = old
    hands.next_root(hand_over(stranger), signers=old)  # another version 2
    hands.next_root(signers=old)
    world.keys["root"] = new
    shutil.rmtree(world.device.folder.metadata)
    expect_refusal(world, "signature_threshold", before=before)
    for path in web.glob("*.root.json"):
        path.unlink()
    for name, data in honest.items():
        write_atomic(web / name, data)
    world.web.offer(world.town.second.bundle.path)
    expect_installed(world, SECOND, before=before)


def test_two_roots_of_one_version_are_a_fork(world: World) -> None:
    """R05. The root that came with the device says something else than the one that was verified under its number."""
    hands = Hands(world)
    given = world.device.root
    other = Metadata.from_bytes(given)
    other.signed.unrecognized_fields["note"] = "signed twice"
    other.signatures.clear()
    for signer in world.keys["root"]:
        other.sign(signer, append=True)
    before = world.footprint()
    world.device = replace(world.device, root=other.to_bytes())
    expect_refusal(world, "root_fork", before=before)
    world.device = replace(world.device, root=given)
    hands.announce()
    expect_installed(world, SECOND, before=before)
