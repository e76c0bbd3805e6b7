"""One context for all connections: as strict as the library's own, and never that of another list of authorities."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from device_client.trust.authorities import default_context


def test_certificates_and_host_names_are_checked_on_every_connection() -> None:
    context = default_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert not context.hostname_checks_common_name


def test_a_list_is_read_once_and_another_list_is_another_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = default_context()
    assert default_context() is first
    (tmp_path / "none.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert default_context() is not first
    assert default_context().get_ca_certs() == []
