"""A21: a blob may come from one other place, if the device's owner named it; nothing else leads anywhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from device_client.errors import SealiftError, TransportError
from device_client.install.download import download_missing
from device_client.install.download_config import origin_of
from device_client.install.http import HttpClient
from device_client.install.store import BlobStore
from device_client.trust.refs import BlobRef
from tests.unit.device.hostile import Script, answer, serving, serving_tls
from tests.unit.device.keys import FixedKey
from tests.unit.device.test_http import self_signed

DATA = b"weights " * 100_000
BLOB = BlobRef.of(DATA)
PATH = f"/blobs/sha256/{BLOB.digest.hex}"


@pytest.fixture
def cdn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Starts an https server whose certificate this process accepts."""
    context = self_signed(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))

    @contextmanager
    def start(*scripts: Script) -> Iterator[tuple[str, list[bytes]]]:
        with serving_tls(context, *scripts) as found:
            yield found

    return start


def to(url: str, status: str = "302 Found") -> Script:
    return answer(b"", f"Location: {url}", "Set-Cookie: a=b", status=status)


def download(tmp_path: Path, url: str, *origins: str) -> int:
    http = HttpClient(
        url, timeout_s=5.0, deadline_s=10.0, retries=0, redirect_origins=[origin_of(each) or each for each in origins]
    )
    return download_missing([BLOB], store=BlobStore(tmp_path / "blobs", key=FixedKey()), http=http)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_one_redirect_to_a_named_origin_is_followed_without_credentials(tmp_path: Path, cdn: Callable, status: str) -> None:
    with cdn(answer(DATA)) as (there, told), serving(to(f"{there}/elsewhere?sig=1", status)) as (url, _):
        assert download(tmp_path, url, there) == len(DATA)
    (head,) = told
    assert head.startswith(b"GET /elsewhere?sig=1 HTTP/1.1\r\n")
    assert b"authorization" not in head.lower()
    assert b"cookie" not in head.lower()
    assert b"referer" not in head.lower()


def test_a_second_redirect_is_refused(tmp_path: Path, cdn: Callable) -> None:
    with (
        cdn(to("https://localhost:1/")) as (there, told),
        serving(to(f"{there}/x")) as (url, _),
        pytest.raises(SealiftError) as caught,
    ):
        download(tmp_path, url, there, "https://localhost:1")
    assert caught.value.code == "redirect_refused"
    assert len(told) == 1


def test_bytes_from_a_named_origin_are_checked_like_any_others(tmp_path: Path, cdn: Callable) -> None:
    with cdn(answer(DATA[:-1] + b"!")) as (there, _), serving(to(there + "/x")) as (url, _), pytest.raises(SealiftError) as caught:
        download(tmp_path, url, there)
    assert caught.value.code == "blob_digest_mismatch"


@pytest.mark.parametrize(
    "target",
    [
        "https://localhost:1/",
        "http://localhost:{port}/x",
        "https://127.0.0.1:{port}/x",
        "https://localhost.evil.example:{port}/",
        "https://localhost:{port}@evil.example/",
        "https://user@localhost:{port}/x",
        "https://localhost:{port}\\@evil.example/",
        "https://169.254.169.254/latest/meta-data",
        "//localhost:{port}/x",
        "/x",
        "file:///etc/passwd",
        "",
    ],
)
def test_any_other_redirect_is_refused_and_nobody_there_is_asked(tmp_path: Path, cdn: Callable, target: str) -> None:
    with cdn(answer(DATA)) as (there, told):
        port = there.rpartition(":")[2]
        with serving(to(target.format(port=port))) as (url, heads), pytest.raises(TransportError) as caught:
            download(tmp_path, url, there)
    assert caught.value.code == "redirect_refused"
    assert told == []
    assert len(heads) == 1


def test_without_a_named_origin_no_redirect_is_followed(tmp_path: Path, cdn: Callable) -> None:
    with cdn(answer(DATA)) as (there, told), serving(to(there + "/x")) as (url, _), pytest.raises(TransportError) as caught:
        download(tmp_path, url)
    assert caught.value.code == "redirect_refused"
    assert told == []


def test_the_api_follows_no_redirect_even_to_a_named_origin(cdn: Callable) -> None:
    with cdn(answer(b"{}")) as (there, told), serving(to(there + "/x")) as (url, _):
        http = HttpClient(url, retries=0, redirect_origins=[origin_of(there) or ""])
        with pytest.raises(TransportError) as caught:
            http.request("GET", "/v1/devices/me/next", token="secret")
    assert caught.value.code == "redirect_refused"
    assert told == []


def test_a_trickle_behind_a_redirect_ends_at_the_same_deadline(tmp_path: Path, cdn: Callable) -> None:
    released = threading.Event()
    with cdn(lambda *_: released.wait(5)) as (there, _), serving(to(there + "/x")) as (url, _):
        http = HttpClient(
            url, timeout_s=30.0, deadline_s=0.4, min_rate_bytes_s=10**9, retries=0, redirect_origins=[origin_of(there) or ""]
        )
        with pytest.raises(TransportError) as caught:
            download_missing([BLOB], store=BlobStore(tmp_path / "blobs", key=FixedKey()), http=http)
        released.set()
    assert caught.value.code == "transport_slow"
