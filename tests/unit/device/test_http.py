"""Whatever a server or network sends, the device reads a bounded amount for a bounded time and keeps only what matches."""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from device_client.bundle import Digest
from device_client.errors import IntegrityError, SealiftError, TransportError
from device_client.install.download import download_missing
from device_client.install.http import HttpClient, ServerRefusalError
from device_client.install.store import BlobStore
from device_client.trust.refs import BlobRef
from tests.unit.device.hostile import (
    Script,
    answer,
    chunk_extension,
    chunked_without_end,
    continue_flood,
    hang_up,
    head_trickle,
    problem,
    serving,
    trickle,
)
from tests.unit.device.keys import FixedKey

DATA = b"model bytes " * 1000
BLOB = BlobRef.of(DATA)


def client(url: str, **changes: Any) -> HttpClient:
    settings: dict[str, Any] = {"timeout_s": 2.0, "deadline_s": 5.0, "retries": 2, "sleep": lambda _: None}
    return HttpClient(url, **settings | changes)


def download(tmp_path: Path, *scripts: Script, **changes: Any) -> int:
    with serving(*scripts) as (url, _):
        return download_missing([BLOB], store=BlobStore(tmp_path, key=FixedKey()), http=client(url, **changes))


def leftovers(tmp_path: Path) -> list[Path]:
    return [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_blob_is_stored_once_and_not_asked_for_again(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, key=FixedKey())
    with serving(answer(DATA)) as (url, heads):
        assert download_missing([BLOB, BLOB], store=store, http=client(url)) == len(DATA)
        assert download_missing([BLOB], store=store, http=client(url)) == 0
        assert len(heads) == 1
    assert store.read(BLOB.digest) == DATA
    assert heads[0].startswith(f"GET /blobs/sha256/{BLOB.digest.hex} HTTP/1.1".encode())
    assert b"Accept-Encoding: identity" in heads[0]


REFUSED: dict[str, tuple[Script, str]] = {
    "other bytes of the same length": (answer(DATA[:-1] + b"!"), "blob_digest_mismatch"),
    "more bytes than signed": (answer(DATA + b"!"), "blob_size_mismatch"),
    "fewer bytes than signed": (answer(DATA[:-1]), "blob_size_mismatch"),
    "an endless chunked body": (chunked_without_end(b"x" * 4096), "blob_size_mismatch"),
    "a length that lies upwards": (answer(DATA + b"x" * 100, length=10**12), "blob_size_mismatch"),
    "a compressed body": (answer(gzip.compress(DATA), "Content-Encoding: gzip"), "encoding_refused"),
    "a compression bomb": (answer(gzip.compress(bytes(10_000_000)), "Content-Encoding: gzip"), "encoding_refused"),
    "a redirect": (answer(b"", "Location: http://169.254.169.254/", status="302 Found"), "redirect_refused"),
    "a redirect that keeps the method": (
        answer(b"", "Location: https://other/", status="307 Temporary Redirect"),
        "redirect_refused",
    ),
    "no such blob": (problem("not_found", status="404 Not Found"), "not_found"),
    "a partial answer nobody asked for": (answer(DATA, status="206 Partial Content"), "http_status"),
    "an error page of megabytes": (answer(b"x" * 1_000_000, status="404 Not Found"), "too_large"),
}


@pytest.mark.parametrize(("script", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_a_hostile_answer_is_refused_at_once_and_leaves_nothing(tmp_path: Path, script: Script, code: str) -> None:
    with serving(script) as (url, heads), pytest.raises(SealiftError) as caught:
        download_missing([BLOB], store=BlobStore(tmp_path, key=FixedKey()), http=client(url))
    assert caught.value.code == code
    assert len(heads) == 1, "never tried again within a poll"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_cut_connection_is_tried_again_from_the_start(tmp_path: Path, share: float) -> None:
    part = DATA[: int(len(DATA) * share)]
    assert download(tmp_path, answer(part, length=len(DATA)), hang_up, answer(DATA)) == len(DATA)
    assert BlobStore(tmp_path, key=FixedKey()).read(BLOB.digest) == DATA


def test_a_connection_that_is_always_cut_ends_after_bounded_tries(tmp_path: Path) -> None:
    with serving(answer(DATA[:-1], length=len(DATA))) as (url, heads), pytest.raises(TransportError) as caught:
        download_missing([BLOB], store=BlobStore(tmp_path, key=FixedKey()), http=client(url))
    assert caught.value.code == "transport"
    assert len(heads) == 3
    assert leftovers(tmp_path) == []


def test_a_trickle_ends_at_the_deadline_although_bytes_keep_coming(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(TransportError) as caught:
        download(tmp_path, trickle(len(DATA), pause_s=0.05), deadline_s=0.3, min_rate_bytes_s=10**9, retries=0)
    assert caught.value.code == "transport_slow"
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize("script", [head_trickle, continue_flood, chunk_extension])
def test_bytes_that_trickle_below_the_body_end_at_the_deadline(tmp_path: Path, script: Script) -> None:
    begin = time.monotonic()
    with pytest.raises(TransportError) as caught:
        download(tmp_path, script, deadline_s=0.4, min_rate_bytes_s=10**9, retries=0)
    assert caught.value.code == "transport_slow"
    with serving(script) as (url, _), pytest.raises(TransportError) as caught:
        client(url, deadline_s=0.4, retries=0).request("GET", "/v1/devices/me/next")
    assert caught.value.code == "transport_slow"
    assert time.monotonic() - begin < 4
    assert leftovers(tmp_path) == []


def test_silence_ends_at_the_timeout(tmp_path: Path) -> None:
    with pytest.raises(TransportError):
        download(tmp_path, lambda *_: time.sleep(1.0), timeout_s=0.2, retries=0)


def test_a_storm_of_503_ends_after_bounded_tries_whatever_retry_after_says() -> None:
    pauses: list[float] = []
    storm = answer(b"", "Retry-After: 864000", status="503 Service Unavailable")
    with serving(storm) as (url, heads), pytest.raises(ServerRefusalError) as caught:
        client(url, sleep=pauses.append).request("GET", "/v1/capabilities")
    assert caught.value.status == 503
    assert len(heads) == 3
    assert all(0 <= pause <= 10 for pause in pauses)


@pytest.mark.parametrize(
    ("asked", "low", "high"),
    [
        ("0", 0, 1),
        ("3", 3, 6),
        ("864000", 5, 10),
        ("9" * 30, 0, 1),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 0, 1),
        ("-5", 0, 1),
        ("3.5", 0, 1),
    ],
)
def test_a_short_retry_after_is_honoured_and_a_long_one_spread(
    asked: str, low: float, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A22: with jitter, so that a fleet that was told one number does not come back in step."""
    pauses: list[float] = []
    busy = answer(b"", f"Retry-After: {asked}", status="503 Service Unavailable")
    for share in (0.0, 1.0):
        monkeypatch.setattr("device_client.install.http.random.uniform", lambda a, b, share=share: a + share * (b - a))
        with serving(busy, answer(b"{}")) as (url, _):
            client(url, sleep=pauses.append).request("GET", "/v1/capabilities")
    assert pauses[0] == pytest.approx(low)
    assert pauses[0] < pauses[1] <= high


def test_a_busy_server_is_asked_again() -> None:
    with serving(answer(b"", status="429 Too Many Requests"), answer(b"{}")) as (url, _):
        assert client(url).request("GET", "/v1/capabilities").status == 200


def test_a_refusal_is_not_asked_again_and_its_code_is_repeated() -> None:
    script = problem("report_counter", status="409 Conflict", extra=', "last_counter": 7')
    with serving(script) as (url, heads), pytest.raises(ServerRefusalError) as caught:
        client(url).request("POST", "/v1/devices/me/reports", body=b"{}", token="t")
    assert (caught.value.code, caught.value.problem["last_counter"]) == ("report_counter", 7)
    assert len(heads) == 1
    assert b"Authorization: Bearer t\r\n" in heads[0]


def test_a_servers_words_are_cut_and_cleaned() -> None:
    body = b'{"code": "../../evil", "detail": "\\u001b[31m' + b"x" * 5000 + b'"}'
    script = answer(body, "Content-Type: application/problem+json", status="403 Forbidden")
    with serving(script) as (url, _), pytest.raises(ServerRefusalError) as caught:
        client(url).request("GET", "/")
    assert caught.value.code == "http_status"
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with serving(answer(b"{}")) as (url, _):
        assert client(url).request("GET", "/").status == 200


def test_nobody_listening_is_one_transport_error(tmp_path: Path) -> None:
    with pytest.raises(TransportError) as caught:
        download_missing([BLOB], store=BlobStore(tmp_path, key=FixedKey()), http=client("http://127.0.0.1:1"))
    assert caught.value.code == "transport"


def test_a_full_download_of_other_bytes_does_not_hurt_a_good_blob(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, key=FixedKey())
    store.put(BLOB.digest, DATA)
    other = BlobRef(Digest.of(b"other"), 5)
    with serving(answer(b"wrong")) as (url, _), pytest.raises(IntegrityError):
        download_missing([BLOB, other], store=store, http=client(url))
    assert store.read(BLOB.digest) == DATA


def self_signed(folder: Path, host: str) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    certificate = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False).sign(
        key, hashes.SHA256()
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def test_a_server_with_a_certificate_of_an_unknown_authority_is_refused(tmp_path: Path) -> None:
    context = self_signed(tmp_path, "localhost")

    def accept() -> None:
        with listener.accept()[0] as raw, contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as connection:
            served.append(connection.recv(100))

    served: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        with pytest.raises(TransportError) as caught:
            client(f"https://localhost:{listener.getsockname()[1]}", retries=0).request("GET", "/", token="secret")
        thread.join(5)
    assert caught.value.code == "transport"
    assert not served
