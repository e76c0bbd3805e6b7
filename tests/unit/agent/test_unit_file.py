"""``docs/sealift-device.service``: its commands exist, its times fit the agent's, and it is as hard as the document says."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import click
import pytest

import sealift
from device_client.agent import supervisor
from device_client.agent.settings import DEFAULT_DEADLINE_S

ROOT = Path(__file__).parents[3]
UNIT = ROOT / "docs" / "sealift-device.service"
SPANS = {"": 1, "s": 1, "min": 60, "h": 3600}


def read_unit() -> dict[str, dict[str, list[str]]]:
    """Sections, keys and all their values in order; strict: any other line fails the test."""
    sections: dict[str, dict[str, list[str]]] = {}
    current: dict[str, list[str]] | None = None
    for line in UNIT.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if re.fullmatch(r"\[[A-Z][a-z]+\]", line):
            current = sections.setdefault(line[1:-1], defaultdict(list))
            continue
        key, separator, value = line.partition("=")
        assert separator, line
        assert current is not None, line
        assert re.fullmatch(r"[A-Z][A-Za-z]+", key), line
        current[key].append(value)
    return sections


@pytest.fixture(scope="module")
def service() -> dict[str, list[str]]:
    return read_unit()["Service"]


def seconds(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([a-z]*)", text).groups()  # type: ignore[union-attr]
    return int(number) * SPANS[unit]


def test_its_command_is_one_that_the_client_has_with_options_that_it_has(service: dict[str, list[str]]) -> None:
    (line,) = service["ExecStart"]
    program, *words = line.split()
    assert Path(program).is_absolute()
    assert Path(program).name == "sealift"
    command: click.Command = sealift.cli
    context = click.Context(command, info_name="sealift")
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
    values, rest, _ = command.make_parser(click.Context(command)).parse_args(args=words)
    assert not rest
    assert not values.get("once")
    assert values["as_json"] is True
    folder = Path(values["path"])
    assert folder.is_relative_to("/var/lib/" + service["StateDirectory"][0]), "the one place that it may write to"
    assert read_unit()["Unit"]["ConditionPathExists"] == [str(folder / "device.toml")]


def test_the_commands_in_its_comments_exist_too() -> None:
    words = re.findall(
        r"sealift (device [a-z]+)", "\n".join(line for line in UNIT.read_text().splitlines() if line.startswith("#"))
    )
    assert words
    for group, name in (entry.split() for entry in words):
        found = sealift.cli.get_command(click.Context(sealift.cli), group)
        assert isinstance(found, click.Group)
        assert found.get_command(click.Context(found), name) is not None


def test_the_manager_waits_longer_than_the_agent_needs(service: dict[str, list[str]]) -> None:
    assert service["Type"] == ["notify"]
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert seconds(service["TimeoutStopSec"][0]) > 2 * supervisor.GRACE_S
    assert seconds(service["WatchdogSec"][0]) >= 2 * supervisor.SLICE_S, "the agent may sleep a slice between two pings"
    assert service["KillMode"] == ["mixed"]


def test_the_default_deadline_is_the_same_in_both_places() -> None:
    assert supervisor.POLL_DEADLINE_S == DEFAULT_DEADLINE_S


HARD = {
    "NoNewPrivileges": "yes", "CapabilityBoundingSet": "", "AmbientCapabilities": "", "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes", "PrivateDevices": "yes", "ProtectKernelTunables": "yes", "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes", "ProtectControlGroups": "yes", "ProtectClock": "yes", "RestrictSUIDSGID": "yes",
    "RestrictRealtime": "yes", "LockPersonality": "yes", "MemoryDenyWriteExecute": "yes", "SystemCallArchitectures": "native",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX", "RestrictNamespaces": "user net", "LimitCORE": "0", "UMask": "0077",
    "StateDirectoryMode": "0700",
}  # fmt: skip


@pytest.mark.parametrize(("key", "value"), HARD.items(), ids=HARD.keys())
def test_what_the_agent_cannot_do_is_taken_from_it(service: dict[str, list[str]], key: str, value: str) -> None:
    assert service[key] == [value]


def test_it_runs_as_a_user_of_its_own_and_calls_only_what_was_traced(service: dict[str, list[str]]) -> None:
    assert service["User"] == service["Group"] == ["sealift"]
    assert service["SystemCallFilter"] == [
        "@system-service",
        "~@resources @privileged",
        "@chown setrlimit setpriority sched_setaffinity",
    ]
    assert service["SystemCallErrorNumber"] == ["EPERM"]


def test_every_setting_that_the_document_explains_is_in_the_unit(service: dict[str, list[str]]) -> None:
    text = UNIT.read_text()
    table = (ROOT / "docs" / "agent.md").read_text().partition("## Under systemd")[2]
    named = re.findall(r"`([A-Z][A-Za-z]+=)", table)
    assert len(named) >= 10
    assert [key for key in named if key not in text and not key.startswith("DynamicUser")] == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_itself_understands_every_line(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace("/opt/sealift/bin/sealift", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(here)], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert ours == []
