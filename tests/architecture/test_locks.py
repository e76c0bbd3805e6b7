"""The lock files hold what pyproject.toml asks for, by hash, and never a build of torch or of CUDA."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.project import ROOT

LOCKS = ("dev.lock", "device.lock", "proofs.lock")


@dataclass(frozen=True)
class Pin:
    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        (specifier,) = self.requirement.specifier
        return specifier.version


def _pins(lock: str) -> list[Pin]:
    text = (ROOT / "requirements" / lock).read_text()
    text = re.sub(r"(?m)^\s*#.*\n", "", text).replace("\\\n", " ")
    pins = []
    for line in filter(str.strip, text.splitlines()):
        requirement, *hashes = re.split(r"\s+--hash=", line)
        pins.append(Pin(Requirement(requirement.strip()), tuple(value.strip() for value in hashes)))
    return pins


def _requirements(extra: str | None) -> list[Requirement]:
    """Requirements of the base install or of an extra, with the extras it includes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [Requirement(text) for text in (project["optional-dependencies"][extra] if extra else project["dependencies"])]
    found = []
    for requirement in listed:
        if requirement.name == "sealift":
            for inner in sorted(requirement.extras):
                found += _requirements(inner)
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_is_exact_and_has_hashes(lock: str) -> None:
    for pin in _pins(lock):
        assert [specifier.operator for specifier in pin.requirement.specifier] == ["=="], pin
        assert pin.hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in pin.hashes), pin


@pytest.mark.parametrize("lock", LOCKS)
def test_no_lock_brings_a_build_of_torch_or_of_cuda(lock: str) -> None:
    names = {pin.name for pin in _pins(lock)}
    assert not {name for name in names if name == "torch" or name.startswith(("nvidia", "triton", "cuda"))}


@pytest.mark.parametrize("name", ["dev.lock", "device.lock", "dev.in", "torch.txt", "without-torch.txt"])
def test_no_requirements_file_names_an_index(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert "://" not in text
    assert "index-url" not in text
    assert "find-links" not in text


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("part", ["base", "extra"])
def test_the_lock_satisfies_every_requirement_of_pyproject(lock: str, part: str) -> None:
    extra = None if part == "base" else lock.removesuffix(".lock")
    locked: dict[str, list[str]] = {}
    for pin in _pins(lock):
        locked.setdefault(pin.name, []).append(pin.version)
    for requirement in _requirements(extra):
        if requirement.name == "torch":
            continue
        versions = locked.get(canonicalize_name(requirement.name))
        assert versions, f"{lock} lacks {requirement}; run make lock"
        assert all(requirement.specifier.contains(version) for version in versions), f"{lock} has {versions}, not {requirement}"


def test_the_lock_of_the_device_is_a_part_of_the_lock_for_development() -> None:
    whole = {str(pin.requirement) for pin in _pins("dev.lock")}
    assert {str(pin.requirement) for pin in _pins("device.lock")} <= whole


def test_torch_is_pinned_alike_in_its_own_step_and_in_every_extra() -> None:
    (own,) = [line for line in (ROOT / "requirements/torch.txt").read_text().splitlines() if not line.startswith("#")]
    asked = {str(requirement) for requirement in _requirements("dev") if requirement.name == "torch"}
    assert asked == {own}
    assert own in (ROOT / "requirements/without-torch.txt").read_text()


def test_what_torch_imports_is_in_the_lock() -> None:
    from importlib.metadata import requires

    locked = {pin.name for pin in _pins("dev.lock")}
    for text in requires("torch") or []:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and not name.startswith(("nvidia", "triton", "cuda")):
            assert name in locked, f"torch wants {requirement}: add it to requirements/dev.in"
