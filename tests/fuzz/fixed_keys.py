"""Ed25519 keys made from names, so that every run and every kept input sees the same signatures. Secret from nobody."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner


def signer(name: str) -> CryptoSigner:
    """The signer of that name."""
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"fuzz {name}".encode()).digest()))
