"""The device's own key: made here at ``init``, never leaves, names the device and signs its requests.

Ed25519 in a PEM file of mode 0600, **not encrypted**: there is nobody to type a passphrase when a device boots. Whoever
reads the file can speak for the device towards its server; it opens nothing else, and no model is accepted because of
it. A key in a TPM or secure element plugs in here.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Key

from device_client.bundle.digest import Digest
from device_client.errors import StateError
from device_client.trust.dsse import sign_envelope
from device_client.trust.files import write_new
from device_client.trust.keys import fingerprint

PROTECTION = "a file of mode 0600, not encrypted"
_MAX_BYTES = 4096


@dataclass(frozen=True)
class Identity:
    """A loaded device key."""

    _signer: CryptoSigner

    @property
    def public_key(self) -> Key:
        """What the server keeps."""
        return self._signer.public_key

    @property
    def fingerprint(self) -> Digest:
        """SHA-256 of the decoded public key: decides the device's rollout share, and its hex is the device id."""
        return fingerprint(self.public_key)

    @property
    def device_id(self) -> str:
        """64 hexadecimal characters."""
        return self.fingerprint.hex

    def sign(self, payload: bytes, *, payload_type: str) -> bytes:
        """A DSSE envelope of ``payload``, signed by this device."""
        return sign_envelope(payload, payload_type=payload_type, signers=[self._signer])


def create_identity(path: Path) -> Identity:
    """Makes a new key; refuses to replace one.

    Raises:
        UsageError: the file exists.
    """
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_new(path, pem, mode=0o600)
    return Identity(CryptoSigner(private))


def load_identity(path: Path) -> Identity:
    """Reads the key made by ``create_identity``.

    Raises:
        StateError: missing, damaged, of another type, or readable by other users.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_BYTES + 1)
    except OSError as e:
        raise StateError("cannot read the device's key", code="identity_missing", where=str(path), actual=e.strerror) from e
    if stat.S_IMODE(mode) & 0o077:
        raise StateError(
            "other users may read the device's key",
            code="identity_exposed",
            where=str(path),
            expected="mode 0600",
            actual=oct(stat.S_IMODE(mode)),
            hint="treat the key as stolen: remove this device on the server and run `sealift device init` in a new folder",
        )
    try:
        private = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise StateError("the device's key is damaged", code="identity_damaged", where=str(path)) from e
    if not isinstance(private, Ed25519PrivateKey):
        raise StateError("the device's key is of another type", code="identity_damaged", where=str(path), expected="Ed25519")
    return Identity(CryptoSigner(private))
