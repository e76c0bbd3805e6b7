"""The server as a process: it starts on a free port, keeps its promises under kill, and ends when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from click.testing import CliRunner

from device_client.bundle.verified import verify_bundle
from device_client.errors import SealiftError, UsageError
from device_client.trust.custom import Rollout
from device_client.trust.keys import load_signer, new_key_file
from device_client.trust.times import utc_now
from packager.http_staging import HttpStaging
from packager.publish import plan_publish, publish_plan
from packager.repository import new_root, new_targets
from packager.sign import open_draft, prepare_release, store_signed
from tests.unit.bundle.samples import write_layout
from tests.unit.update_server.world import AUDIT, RELEASE, URL, FakeDevice, Keys, make_bundle
from update_server import commands, protocol
from update_server.serve import _bind, is_loopback, serve

PASSPHRASE = "a passphrase for tests"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def data(tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder made by the command, with encrypted keys of the online roles."""
    for role in ("snapshot", "timestamp"):
        new_key_file(tmp_path / role, passphrase=PASSPHRASE.encode())
        signer = load_signer(f"file:{tmp_path / role}", passphrase=lambda name: PASSPHRASE.encode())
        keys.signers[role] = [signer]  # type: ignore[list-item]  # a CryptoSigner
    folder = tmp_path / "repo" / "metadata"
    folder.mkdir(parents=True)
    (folder / "1.root.json").write_bytes(keys.signed("root", new_root(keys.roles(), now=utc_now())))
    (folder / "1.targets.json").write_bytes(keys.signed("targets", new_targets(keys.roles(), now=utc_now())))
    monkeypatch.setenv("SEALIFT_PASSPHRASE", PASSPHRASE)
    monkeypatch.chdir(tmp_path)
    arguments = [
        "init", "--data", "data", "--repo", "repo", "--snapshot-key", "file:snapshot", "--timestamp-key", "file:timestamp",
        "--accept-loopback-devices", "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(commands.server, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    made = json.loads(result.stdout)
    assert set(made["tokens"]) == {RELEASE, AUDIT, "operator"}
    assert PASSPHRASE not in (tmp_path / "data" / "server.toml").read_text()
    return tmp_path / "data"


class Running:
    """A server process on a free port."""

    def __init__(self, data: Path) -> None:
        self.port_file = data.parent / "port"
        self.port_file.unlink(missing_ok=True)
        command = [sys.executable, "-W", "error", "-c", "import sys; from update_server.commands import server; sys.exit(server())"]
        self.process = subprocess.Popen(
            [*command, "serve", "--data", str(data), "--port", "0", "--port-file", str(self.port_file), "--json"],
            env=os.environ | {"SEALIFT_PASSPHRASE": PASSPHRASE, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.url = json.loads(self.process.stdout.readline())["url"]

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=20)
        return self.process.returncode, log


@pytest.fixture
def start(data: Path) -> Iterator[Callable[[], Running]]:
    started: list[Running] = []

    def start_one() -> Running:
        started.append(Running(data))
        return started[-1]

    yield start_one
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_answers_and_ends_cleanly_on_a_signal(start: Callable[[], Running], number: signal.Signals) -> None:
    running = start()
    assert running.url == f"http://127.0.0.1:{running.port_file.read_text().strip()}"
    answer = httpx.get(f"{running.url}/tuf/timestamp.json")
    assert answer.json()["signed"]["version"] == 1
    assert "server" not in answer.headers
    status, log = running.stop(number)
    assert status == 0, log
    assert '"path": "/tuf/timestamp.json"' in log
    assert not running.port_file.exists()


def test_what_was_acknowledged_survives_a_kill_and_a_second_server_is_refused(start: Callable[[], Running], data: Path) -> None:
    running = start()
    with pytest.raises(Exception, match="another server uses this data folder"):
        serve(
            data, host="127.0.0.1", port=0, port_file=None, unsafe_plain_http=False, passphrase=lambda name: PASSPHRASE.encode(),
            on_ready=lambda url: pytest.fail("two servers"),
        )  # fmt: skip
    device = FakeDevice(utc_now)  # type: ignore[arg-type]  # any clock
    token = httpx.post(f"{running.url}/v1/enroll", content=device.enrolment()).json()["token"]
    headers = {"authorization": f"Bearer {token}"}
    report = device.report()
    assert httpx.post(f"{running.url}/v1/devices/me/reports", content=report, headers=headers).status_code == 202
    assert running.url != URL  # the audience is another port of this machine, which a loopback server takes
    running.stop(signal.SIGKILL)
    again = start()
    answer = httpx.post(f"{again.url}/v1/devices/me/reports", content=report, headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (200, "duplicate")


def test_the_publishers_own_client_signs_and_publishes_through_a_running_server(
    start: Callable[[], Running], data: Path, keys: Keys
) -> None:
    running = start()
    made = make_bundle()
    bundle = verify_bundle(made.source, made.manifest.digest)
    layout = write_layout(data.parent / "bundle", made.source, made.manifest.digest)
    staging = HttpStaging(running.url, token=(data.parent / "data-tokens" / f"{RELEASE}.token").read_text().strip())
    draft = prepare_release(bundle, staging=staging, measurements=b"{}", floor=None, rollout=Rollout(), now=utc_now())
    store_signed(draft, signers=keys.signers[RELEASE][:1], staging=staging, replace=False, now=utc_now())
    second = open_draft(RELEASE, staging=staging)
    assert second is not None
    assert second.signatures.needed == 1
    store_signed(second, signers=keys.signers[RELEASE][1:], staging=staging, replace=False, now=utc_now())
    plan = plan_publish([(layout, bundle)], staging=staging, roles=[RELEASE], now=utc_now())
    publish_plan(plan, staging=staging)
    published = staging.role_bytes(RELEASE)
    assert published is not None
    assert bundle.path.release_target in json.loads(published)["signed"]["targets"]
    other = HttpStaging(running.url, token=(data.parent / "data-tokens" / f"{AUDIT}.token").read_text().strip())
    with pytest.raises(SealiftError) as caught:
        other.put_draft(RELEASE, published, replace=False)
    assert caught.value.code == "token_role"


def ask(url: str, data: bytes, *, wait_s: float = 5.0) -> bytes:
    """Sends bytes and reads until the server closes."""
    host, _, port = url.removeprefix("http://").partition(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=wait_s) as connection:
        connection.sendall(data)
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
    return received


def test_headers_without_an_end_are_cut_off(start: Callable[[], Running]) -> None:
    running = start()
    answer = ask(running.url, b"GET / HTTP/1.1\r\nHost: x\r\nX-Filler: " + b"a" * 200_000)
    assert answer.startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{running.url}/v1/capabilities").status_code == 200


def test_a_path_that_climbs_reaches_no_file(start: Callable[[], Running]) -> None:
    running = start()
    for path in (b"/tuf/../server.toml", b"/tuf/%2e%2e/server.toml", b"/blobs/sha256/../../server.db", b"//etc/passwd"):
        answer = ask(running.url, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 404")


def test_headers_that_do_not_come_give_the_connection_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_TIMEOUT_S", 0.2)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def converse(port: int, *parts: bytes) -> bytes:
        """Sends the parts with a pause between them; returns what came until the server closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.1)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
        return answer

    async def run() -> list[bytes]:
        config = uvicorn.Config(
            app, http=protocol.PatientH11Protocol, lifespan="off", log_config=None, ws="none", timeout_keep_alive=60
        )
        server = uvicorn.Server(config)
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        task = asyncio.create_task(server._serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        answers = [await converse(port), await converse(port, b"GET / HTTP/1.1\r\n"), await converse(port, whole, b"GET / HT")]
        server.should_exit = True
        await task
        return answers

    silent, begun, second = asyncio.run(run())
    assert silent == begun == b""
    assert second.startswith(b"HTTP/1.1 204")
    assert second.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.com", False),
    ],
)
def test_which_hosts_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_host_that_others_reach_needs_the_unsafe_flag(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        serve(
            tmp_path, host="0.0.0.0", port=0, port_file=None, unsafe_plain_http=False, passphrase=lambda name: b"",
            on_ready=lambda url: None,
        )  # fmt: skip
    assert caught.value.code == "plain_http"
    assert "--unsafe-plain-http-on" in str(caught.value.hint)


def test_a_port_in_use_is_said_plainly(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError) as caught:
            serve(
                tmp_path, host="127.0.0.1", port=taken.getsockname()[1], port_file=None, unsafe_plain_http=False,
                passphrase=lambda name: b"", on_ready=lambda url: None,
            )  # fmt: skip
    assert caught.value.code == "address"


def test_answers_on_a_kept_connection_do_not_wait_for_acknowledgements() -> None:
    with contextlib.closing(_bind("127.0.0.1", 0)) as listener:
        assert listener.proto == socket.IPPROTO_TCP, "asyncio sets TCP_NODELAY only where the protocol is named"


def test_only_what_is_built_is_offered() -> None:
    assert sorted(commands.server.commands) == ["init", "serve"]
    result = CliRunner().invoke(
        commands.server, ["serve", "--data", "x", "--host", "127.0.0.1", "--unsafe-plain-http-on", "0.0.0.0"]
    )
    assert isinstance(result.exception, UsageError)
