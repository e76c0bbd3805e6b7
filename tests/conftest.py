"""What every test runs under: one thread, no network beyond this machine, nothing taken from the caller's environment."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before numpy, torch or onnxruntime load: more threads than cores make the run slower and its timings wild.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["MPLBACKEND"] = "Agg"

# A developer's passphrase, device folder, proxy or runtime option must not decide a test.
for _name in list(os.environ):
    if _name.startswith(("ORT_", "SEALIFT_")) and _name != "SEALIFT_DATA":
        del os.environ[_name]
    if _name.lower() in {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}:
        del os.environ[_name]

settings.register_profile("sealift", derandomize=True, deadline=None, database=None)
settings.load_profile("sealift")


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails instead of passing where there is one."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6} and not _is_loopback(str(address[0])):
            raise AssertionError(f"a test tried to reach {address[0]}; tests use this machine only")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real models and data (``docs/data.md``); the test skips where it is not set."""
    folder = os.environ.get("SEALIFT_DATA")
    if not folder:
        pytest.skip("SEALIFT_DATA is not set (docs/data.md)")
    if not Path(folder).is_dir():
        pytest.fail(f"SEALIFT_DATA is no folder: {folder}")
    return Path(folder)
