"""TLS: a certificate that does not stand for the server is refused, and no proxy is asked unless somebody configured one."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from demo.names import SECOND
from device_client.install.http import HttpClient
from tests.threats.front import Front, whole
from tests.threats.judge import expect_installed, expect_refusal
from tests.threats.world import World

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """A certificate authority with its key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, name: str) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, subject, key.public_key(), begin=-DAY, end=30 * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        )
        signs = x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False)
        builder = builder.add_extension(signs, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return cls(key, builder.sign(key, hashes.SHA256()))

    def server(
        self, folder: Path, *, names: tuple[str, ...] = ("localhost",), begin: timedelta = -DAY, end: timedelta = DAY
    ) -> Any:
        """A TLS context for a server of these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        builder = _builder(subject, self.certificate.subject, key.public_key(), begin=begin, end=end)
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        certificate = (
            builder.add_extension(alternatives, critical=False)
            .add_extension(issuer, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        pem = folder / f"server-{certificate.serial_number}.pem"
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        return context


def _builder(subject: x509.Name, issuer: x509.Name, key: Any, *, begin: timedelta, end: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begin)
        .not_valid_after(now + end)
    )


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Authority]:
    """The one authority that the device's machine trusts."""
    authority = Authority.make("the machine's own authority")
    store = tmp_path / "authorities.pem"
    store.write_bytes(authority.certificate.public_bytes(serialization.Encoding.PEM))
    with monkeypatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(store))
        patch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
        yield authority


WRONG: dict[str, Callable[[Authority, Path], Any]] = {
    "an unknown authority": lambda _, folder: Authority.make("the machine's own authority").server(folder),
    "expired": lambda trusted, folder: trusted.server(folder, begin=-3 * DAY, end=-DAY),
    "not valid yet": lambda trusted, folder: trusted.server(folder, begin=DAY, end=3 * DAY),
    "another name": lambda trusted, folder: trusted.server(folder, names=("mirror.example",)),
    "no name but the common name": lambda trusted, folder: trusted.server(folder, names=("other.example", "localhost.example")),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_certificate_is_refused_before_anything_is_said(
    world: World, trusted: Authority, make: Callable[[Authority, Path], Any]
) -> None:
    """A23. With the right certificate the same device installs."""
    before_ask = world.footprint()
    with Front(world.server.url, tls=make(trusted, world.folder)) as wrong:
        world.ask(wrong.url.replace("127.0.0.1", "localhost"))
        before = world.footprint()
        assert before.outputs == before_ask.outputs
        expect_refusal(world, "transport", before=before, is_told=False, http=patient(world))
        assert wrong.requests == [], "no path, no token"
    with Front(world.server.url, tls=trusted.server(world.folder)) as right:
        world.ask(right.url.replace("127.0.0.1", "localhost"))
        expect_installed(world, SECOND, before=before, http=patient(world))
        assert right.requests


def patient(world: World) -> HttpClient:
    """The device's own client, but for the pauses."""
    return HttpClient(world.device.config.server, sleep=lambda _: None)


@pytest.mark.parametrize("spelling", ["{}_proxy", "{}_PROXY"], ids=["small", "capital"])
def test_a_proxy_in_the_environment_hears_nothing(world: World, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    """A23."""
    before = world.footprint()
    with Front(world.server.url) as proxy:
        proxy.spoil["*"] = whole(b"you are mine")
        for scheme in ("http", "https", "all"):
            name = spelling.format(scheme if spelling.islower() else scheme.upper())
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("no_proxy", "")
        expect_installed(world, SECOND, before=before)
        assert proxy.requests == []


def test_a_proxy_in_the_environment_hears_nothing_of_https_either(
    world: World, trusted: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A23."""
    with Front(world.server.url) as proxy, Front(world.server.url, tls=trusted.server(world.folder)) as front:
        world.ask(front.url.replace("127.0.0.1", "localhost"))
        before = world.footprint()
        proxy.spoil["*"] = whole(b"you are mine")
        for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        expect_installed(world, SECOND, before=before, http=patient(world))
        assert proxy.requests == []
        assert front.requests
