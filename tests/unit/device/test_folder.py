"""`device init` trusts only a root whose digest was given, makes all or nothing, and never touches what is there."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from device_client.bundle import Digest, ModelPath
from device_client.errors import SealiftError, StateError, UsageError
from device_client.install.config import check_server_url, parse_config
from device_client.install.facts import read_cpu_features, read_facts
from device_client.install.folder import Device, DeviceFolder, init_device, open_device
from device_client.install.identity import load_identity
from device_client.trust.dsse import verify_envelope
from tests.simulator import RepositorySimulator

ROOT = RepositorySimulator().bootstrap
OCR = ModelPath("digits", "ocr")


def init(path: Path, **changes: Any) -> Device:
    arguments: dict[str, Any] = {
        "root": ROOT,
        "root_sha256": Digest.of(ROOT),
        "server": "http://127.0.0.1:8470/",
        "models": (OCR,),
    }
    return init_device(path, **arguments | changes)


def code(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(SealiftError) as caught:
        call(*args, **kwargs)
    return caught.value.code


def test_a_new_device_is_complete_private_and_can_be_opened(tmp_path: Path) -> None:
    made = init(tmp_path / "a" / "device")
    assert made.config.server == "http://127.0.0.1:8470"
    assert open_device(made.folder.path) == made or open_device(made.folder.path).config == made.config
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made.folder.path.iterdir()}
    assert modes == {
        "root.json": 0o400,
        "device.toml": 0o600,
        "policy.toml": 0o600,
        "identity.pem": 0o600,
        "state.db": 0o600,
        "marks.json": 0o600,
        "store-key.json": 0o600,
        "store.key": 0o600,
        "blobs": 0o700,
        "tuf": 0o700,
        "empty": 0o555,
    }
    assert stat.S_IMODE(made.folder.path.stat().st_mode) == 0o700


def test_two_devices_have_two_keys(tmp_path: Path) -> None:
    one, two = init(tmp_path / "one"), init(tmp_path / "two")
    assert one.identity.device_id != two.identity.device_id
    signed = one.identity.sign(b"{}", payload_type="t")
    assert verify_envelope(signed, payload_type="t", keys=[one.identity.public_key], max_bytes=9999, where="t").payload == b"{}"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another digest": ({"root_sha256": Digest.of(b"other")}, "root_digest"),
    "bytes that are no root": ({"root": b"{}", "root_sha256": Digest.of(b"{}")}, "root_syntax"),
    "a root that does not sign itself": (
        {
            "root": ROOT.replace(b'"version":1', b'"version":2'),
            "root_sha256": Digest.of(ROOT.replace(b'"version":1', b'"version":2')),
        },
        "root_syntax",
    ),
    "plain http to another machine": ({"server": "http://models.example.com"}, "server_url"),
    "no models": ({"models": ()}, "device_models"),
    "a model twice": ({"models": (OCR, OCR)}, "device_models"),
    "a wrong policy": ({"policy": b"schema = 9"}, "policy_file"),
    "a policy for a model that is not followed": (
        {"policy": b'schema = 1\n[models."digits/mlp"]\nwithdrawn = "stop"'},
        "policy_file",
    ),
}


@pytest.mark.parametrize(("changes", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_init_leaves_nothing(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert code(init, tmp_path / "device", **changes) == expected
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_init_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("device_client.install.folder.create_database", cut)
    with pytest.raises(KeyboardInterrupt):
        init(tmp_path / "device")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_and_unchanged(tmp_path: Path) -> None:
    made = init(tmp_path / "device")
    before = {path.name: path.read_bytes() for path in made.folder.path.iterdir() if path.is_file()}
    assert code(init, tmp_path / "device") == "state_exists"
    assert {path.name: path.read_bytes() for path in made.folder.path.iterdir() if path.is_file()} == before
    (tmp_path / "file").write_text("mine")
    assert code(init, tmp_path / "file") == "state_exists"
    (tmp_path / "empty").mkdir()
    init(tmp_path / "empty")


DAMAGED: dict[str, tuple[Any, str]] = {
    "another root": (lambda f: replace(f.root, ROOT + b" "), "root_digest"),
    "no root": (lambda f: f.root.unlink(), "state_missing"),
    "an unknown key": (lambda f: replace(f.config, f.config.read_bytes() + b"\nauto_trust = true\n"), "device_config"),
    "a config that is not TOML": (lambda f: replace(f.config, b"server = "), "device_config"),
    "a policy for another model": (
        lambda f: replace(f.policy, b'schema = 1\n[models."digits/mlp"]\nwithdrawn = "stop"'),
        "policy_file",
    ),
    "an unknown policy key": (lambda f: replace(f.policy, b"schema = 1\naccept = 'all'\n"), "policy_file"),
    "a key that others can read": (lambda f: f.identity.chmod(0o644), "identity_exposed"),
    "a key that is none": (lambda f: replace(f.identity, b"-----BEGIN NONSENSE-----"), "identity_damaged"),
    "no key": (lambda f: f.identity.unlink(), "identity_missing"),
    "a folder that others can write": (lambda f: f.path.chmod(0o777), "state_owner"),
}


def replace(path: Path, data: bytes) -> None:
    mode = path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(stat.S_IMODE(mode))


@pytest.mark.parametrize(("damage", "expected"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_folder_is_refused_with_its_reason(tmp_path: Path, damage: Any, expected: str) -> None:
    made = init(tmp_path / "device")
    damage(made.folder)
    assert code(open_device, made.folder.path) == expected


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StateError) as caught:
        open_device(tmp_path / "none")
    assert "device init" in str(caught.value.hint)


URLS = {
    "https://models.example.com/": "https://models.example.com",
    "https://models.example.com:8443/fleet": "https://models.example.com:8443/fleet",
    "http://localhost:8000": "http://localhost:8000",
    "http://[::1]:8000": "http://[::1]:8000",
}


@pytest.mark.parametrize(("given", "kept"), URLS.items())
def test_server_urls_that_are_taken(given: str, kept: str) -> None:
    assert check_server_url(given, unsafe_plain_http=False) == kept


@pytest.mark.parametrize(
    "url",
    [
        "",
        "models",
        "ftp://x",
        "file:///etc",
        "https://",
        "https://u:p@x",
        "https://x/?q",
        "https://x/#f",
        "https://x y",
        "http://[::1",
        "http://x:99999999",
    ],
)
def test_server_urls_that_are_not(url: str) -> None:
    assert code(check_server_url, url, unsafe_plain_http=True) == "server_url"


def test_the_unsafe_setting_has_to_be_said_and_stays_visible(tmp_path: Path) -> None:
    made = init(tmp_path / "device", server="http://10.0.0.1", unsafe_plain_http=True)
    assert made.unsafe == ("unsafe_plain_http",)
    assert open_device(made.folder.path).unsafe == ("unsafe_plain_http",)
    text = made.folder.config.read_text().replace("unsafe_plain_http = true", "unsafe_plain_http = false")
    with pytest.raises(UsageError):
        parse_config(text.encode(), where="device.toml")


def test_facts_describe_this_machine(tmp_path: Path) -> None:
    facts = read_facts()
    assert facts.arch
    assert facts.ram_bytes > 1 << 20
    assert facts.runtime.startswith("onnxruntime ")
    (tmp_path / "x86").write_text("processor : 0\nflags\t\t: fpu AVX2 avx_vnni\n\nflags : other\n")
    (tmp_path / "arm").write_text("processor : 0\nFeatures\t: fp asimd asimddp\n")
    assert read_cpu_features(tmp_path / "x86") == {"fpu", "avx2", "avx_vnni"}
    assert read_cpu_features(tmp_path / "arm") == {"fp", "asimd", "asimddp"}
    assert read_cpu_features(tmp_path / "none") == frozenset()


def test_the_folder_names_are_one_place(tmp_path: Path) -> None:
    folder = DeviceFolder(tmp_path / "d")
    assert load_identity(init(folder.path).folder.identity).device_id == open_device(folder.path).identity.device_id
