"""Somebody with write access to the device's disk exchanges what was installed: found at the next load, before any inference."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import numpy as np
import pytest

from device_client.bundle.digest import Digest
from device_client.errors import VerificationError
from device_client.inference import model as inference
from device_client.inference.model import open_model
from tests.threats.sealed import dense
from tests.threats.town import THE_MODEL
from tests.threats.world import World, X

PARTS: dict[str, Callable[[World], Digest]] = {
    "the model": lambda w: w.town.first.model,
    "the contract": lambda w: w.town.first.bundle.manifest.contract.digest,
    "the manifest": lambda w: w.town.first.bundle.digest,
}


def swap(world: World, digest: Digest, data: bytes) -> None:
    path = world.blob(digest)
    path.chmod(0o600)
    path.write_bytes(data)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
def test_a_part_swapped_after_the_installation_is_found_at_load_and_no_session_opens(
    world: World, part: Callable[[World], Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, digest = world.outputs(), part(world)
    swap(world, digest, dense(9).SerializeToString())

    def never(*_: object, **__: object) -> None:
        pytest.fail("a session over swapped bytes")

    with monkeypatch.context() as patch:
        patch.setattr(inference, "open_session", never)
        with pytest.raises(VerificationError) as caught:
            open_model(world.device.folder, THE_MODEL)
    assert caught.value.code == "blob_format"

    world.web.offer(world.town.first.bundle.path)
    result = world.poll()
    assert result.result == "current"
    assert result.bytes_downloaded > 0, "the next poll makes it good"
    assert world.outputs() == outputs


def test_the_command_line_refuses_a_swapped_model_and_prints_no_output(world: World) -> None:
    np.savez(world.folder / "x.npz", x=X)
    swap(world, world.town.first.model, dense(9).SerializeToString())
    with world.command("infer", "--input", str(world.folder / "x.npz")) as process:
        out, _ = process.communicate(timeout=60)
    answer = json.loads(out)
    assert (process.returncode, answer["code"]) == (1, "blob_format")
    assert "outputs" not in answer


def test_a_link_to_another_file_in_the_place_of_the_model_is_not_followed(world: World) -> None:
    path = world.blob(world.town.first.model)
    elsewhere = world.folder / "elsewhere"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(Exception, match="cannot read a blob"):
        open_model(world.device.folder, THE_MODEL)


def test_a_model_swapped_while_it_is_in_use_changes_nothing_for_who_uses_it(world: World) -> None:
    """The runtime holds the bytes that were hashed, not the file."""
    with open_model(world.device.folder, THE_MODEL) as model:
        before = model.run({"x": X})["y"]
        swap(world, world.town.first.model, dense(9).SerializeToString())
        assert np.array_equal(model.run({"x": X})["y"], before)
        world.blob(world.town.first.model).unlink()
        assert np.array_equal(model.run({"x": X})["y"], before)
