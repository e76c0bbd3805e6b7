"""Keys: public keys as securesystemslib ``Key`` objects, private keys as URIs that give signers.

``file:PATH`` is a PKCS#8 PEM that is encrypted; an unencrypted private key is refused, so that a copied folder is not
a stolen key. Other schemes (PKCS#11, cloud KMS) plug in at ``load_signer``. The public half lies beside the private
one as ``PATH.pub``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from securesystemslib.exceptions import FormatError as SslibFormatError
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields
from device_client.errors import FormatError, UsageError
from device_client.trust.files import write_new

PassphraseSource = Callable[[str], bytes]
MAX_KEY_FILE_BYTES = 64 * 1024
MIN_PASSPHRASE_CHARS = 8
SCHEMES = ("ed25519", "ecdsa-sha2-nistp256", "ml-dsa-65")


def new_key_file(path: Path, *, scheme: str = "ed25519", passphrase: bytes) -> Key:
    """Makes a key pair: ``path`` (mode 0600, encrypted PEM) and ``path.pub``; never overwrites.

    Raises:
        UsageError: the passphrase is shorter than 8 bytes, the scheme is unknown, or a file exists.
    """
    if len(passphrase) < MIN_PASSPHRASE_CHARS:
        raise UsageError("passphrase too short", code="passphrase_short", expected=f"at least {MIN_PASSPHRASE_CHARS} bytes")
    signer = _generate(scheme)
    private = serialization.load_pem_private_key(signer.private_bytes, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(passphrase)
    )
    public_path = path.with_name(path.name + ".pub")
    if path.exists() or public_path.exists():
        raise UsageError(
            "a key file exists already", code="file_exists", where=str(path), hint="choose another name; keys are never overwritten"
        )
    write_new(path, private, mode=0o600)
    write_new(public_path, _public_pem(signer.public_key), mode=0o644)
    return signer.public_key


def load_public_key(path: Path) -> Key:
    """Reads a PEM public key.

    Raises:
        UsageError: the file is missing, is not a public key, or holds a private key.
    """
    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise UsageError("this is a private key", code="key_syntax", where=str(path), hint=f"give the public half, {path}.pub")
    try:
        return SSlibKey.from_crypto(serialization.load_pem_public_key(data))
    except (ValueError, UnsupportedAlgorithm) as e:
        raise UsageError(
            "not a public key", code="key_syntax", where=str(path), expected="a PEM file made by `sealift keys new`"
        ) from e


def load_signer(uri: str, *, passphrase: PassphraseSource) -> Signer:
    """Opens the private key that ``uri`` names.

    Args:
        uri: ``file:PATH``.
        passphrase: called with the file name only when the key is there and encrypted.

    Raises:
        UsageError: unknown scheme, missing file, unencrypted key, wrong passphrase.
    """
    scheme, separator, rest = uri.partition(":")
    if scheme != "file" or not separator or not rest:
        raise UsageError("unknown key URI", code="key_uri", where=uri, expected="file:PATH")
    path = Path(rest)
    data = _read(path)
    if b"ENCRYPTED PRIVATE KEY" not in data:
        raise UsageError(
            "the private key is not encrypted",
            code="key_unencrypted",
            where=str(path),
            hint="make keys with `sealift keys new`",
        )
    try:
        private: PrivateKeyTypes = serialization.load_pem_private_key(data, passphrase(path.name))
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise UsageError(
            "cannot open the private key", code="key_passphrase", where=str(path), hint="check the passphrase for this key"
        ) from e
    return CryptoSigner(private)


def public_value(key: Key) -> bytes:
    """The decoded key value, by which two key objects are the same key whatever their id or spelling (DESIGN 4).

    Raises:
        FormatError: a key type this client cannot decode.
    """
    if not isinstance(key, SSlibKey):
        raise FormatError("unknown key type", code="key_type", actual=key.keytype, hint="this client is too old for this key type")
    return _decoded(key.keyid, key.keytype, key.scheme, str(key.keyval["public"]))


@lru_cache(maxsize=1024)  # a refresh compares the same few keys many times
def _decoded(keyid: str, keytype: str, scheme: str, text: str) -> bytes:
    key = SSlibKey(keyid, keytype, scheme, {"public": text})
    try:
        # securesystemslib offers no public accessor for the decoded key; a test pins this hook
        public = key._crypto_key()
        return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm, SslibFormatError) as e:
        raise FormatError("undecodable key", code="key_type", where=keyid) from e


def fingerprint(key: Key) -> Digest:
    """SHA-256 of the decoded key value: the name of a device and of a person's key."""
    return Digest.of(public_value(key))


def key_to_json(key: Key) -> dict[str, object]:
    """``{keytype, scheme, keyval}`` as TUF writes it, without the id."""
    return dict(key.to_dict())


def key_from_json(value: object, *, where: str) -> Key:
    """Reads ``{keytype, scheme, keyval: {public}}``; the id is the fingerprint of the decoded value.

    Raises:
        FormatError: not of that form, or a key type this client does not know.
    """
    fields = Fields(value, where=where, known=("keytype", "scheme", "keyval"))
    keyval = fields.fields("keyval", known=("public",))
    plain = {
        "keytype": fields.text("keytype"),
        "scheme": fields.text("scheme"),
        "keyval": {"public": keyval.text("public", max_chars=8192)},
    }
    try:
        key = SSlibKey.from_dict("0" * 64, plain)
        return SSlibKey(fingerprint(key).hex, key.keytype, key.scheme, key.keyval)
    except (ValueError, KeyError, TypeError) as e:
        raise FormatError("not a public key", code="key_syntax", where=where) from e


def _generate(scheme: str) -> CryptoSigner:
    if scheme == "ed25519":
        return CryptoSigner.generate_ed25519()
    if scheme == "ecdsa-sha2-nistp256":
        return CryptoSigner.generate_ecdsa(scheme=scheme)
    if scheme == "ml-dsa-65":
        return CryptoSigner.generate_mldsa(scheme="ml-dsa-65/1")
    raise UsageError("unknown key scheme", code="key_scheme", actual=scheme, expected=" | ".join(SCHEMES))


def _public_pem(key: SSlibKey) -> bytes:
    public = key._crypto_key()
    pem: bytes = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as e:
        raise UsageError("cannot read the key file", code="key_missing", where=os.fspath(path), hint=e.strerror) from e
    if len(data) > MAX_KEY_FILE_BYTES:
        raise UsageError("not a key file: too long", code="key_syntax", where=os.fspath(path))
    return data
