"""How a model layer becomes the bytes that the runtime gets: one place for devices, servers, packagers and auditors.

    data = read_model(source, bundle.manifest, variant)                       # whole, checked against both digests
    decoder = open_decoder("zstd", out.write, size=signed_size, where=...)    # while it arrives

Which encodings a bundle may use at all is decided where its manifest and contract are read (``bundle.features``); the forms
themselves are ``zstd_decoder.py`` and ``codebook_decoder.py``. zstd needs the ``device`` extra, codebook nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

from device_client.bundle import media_types
from device_client.bundle.contract import ModelRef, Variant
from device_client.bundle.descriptor import Descriptor
from device_client.bundle.digest import Digest
from device_client.bundle.layout import BlobSource, read_blob
from device_client.bundle.manifest import Manifest
from device_client.errors import FormatError, VerificationError
from device_client.install import codebook_decoder, zstd_decoder
from device_client.install.codebook_decoder import CodebookDecoder
from device_client.install.partial import size_mismatch
from device_client.install.sealed import check_digest
from device_client.install.zstd_decoder import ZstdDecoder

_CHUNK_BYTES = 128 * 1024


class LayerDecoder(Protocol):
    """Takes an encoded layer in pieces of any size, and hands the decoded bytes on."""

    def write(self, data: bytes) -> None:
        """The next piece."""
        ...

    def finish(self) -> None:
        """The layer is complete, and nothing came after it."""
        ...


def open_decoder(encoding: str, out: Callable[[bytes], None], *, size: int, where: str = "layer") -> LayerDecoder:
    """A decoder for one layer.

    Args:
        encoding: the layer's annotation.
        out: takes the decoded bytes.
        size: the signed size of the whole, in bytes.
        where: for errors.

    Raises:
        FormatError: no such encoding (``encoding_unknown``).
        MissingExtraError: what it needs is not installed.
        StateError: this Python cannot decode it (``lzma_missing``).
    """
    if encoding == zstd_decoder.ENCODING:
        return ZstdDecoder(out, size=size, where=where)
    if encoding == codebook_decoder.ENCODING:
        return CodebookDecoder(out, size=size, where=where)
    raise FormatError("unknown encoding", code="encoding_unknown", where=where, actual=repr(encoding)[:80])


class CheckedLayer:
    """Decodes a layer and compares its digest; bytes that were damaged on their way are told from a layer that was made wrong.

    What does not decode is not decoded further, and hashed to its end: only if the layer is what was signed, the fault is its
    maker's. Else somebody else's, and nothing is held against the release.
    """

    def __init__(self, decoder: LayerDecoder, digest: Digest, *, where: str) -> None:
        self._decoder = decoder
        self._digest = digest
        self._where = where
        self._hasher = hashlib.sha256()
        self._error: VerificationError | None = None

    def write(self, data: bytes) -> None:
        """The next piece."""
        self._hasher.update(data)
        if self._error is None:
            try:
                self._decoder.write(data)
            except VerificationError as e:
                self._error = e

    def finish(self) -> None:
        """The layer is complete.

        Raises:
            IntegrityError: it is not what was signed (``blob_digest_mismatch``), or holds more (``blob_size_mismatch``).
            FormatError, LimitError: it is not in the form of its encoding.
        """
        check_digest(self._digest, self._hasher, where=self._where)
        if self._error is not None:
            raise self._error
        self._decoder.finish()


def read_model(source: BlobSource, manifest: Manifest, variant: Variant) -> bytes:
    """The bytes that the runtime gets, from whoever holds the layers of a bundle, encoded or not. Memory is the model once.

    Raises:
        IntegrityError: layer or model are not the bytes that were signed.
        FormatError, LimitError: the layer is not in the form of its encoding.
        MissingExtraError, StateError: what ``open_decoder`` says.
    """
    layer = manifest.layer(variant.layer)
    if layer.annotation(media_types.ANNOTATION_ENCODING) is None:
        return read_blob(source, variant.model.digest, variant.model.size, where=f"variant {variant.id}")
    return decode_layer(source, layer, variant.model)


def decode_layer(source: BlobSource, layer: Descriptor, model: ModelRef) -> bytes:
    """The model inside an encoded layer. Memory is the model once, and what the decoder holds.

    Raises:
        IntegrityError: layer or model are not the bytes that were signed.
        FormatError, LimitError: the layer is not in the form of its encoding.
    """
    found = bytearray()

    def take(piece: bytes) -> None:
        if len(found) + len(piece) > model.size:
            raise size_mismatch(model.digest, model.size, f"more than {model.size}")
        found.extend(piece)

    encoding = layer.annotation(media_types.ANNOTATION_ENCODING) or ""
    decoder = open_decoder(encoding, take, size=model.size, where=str(layer.digest))
    checked = CheckedLayer(decoder, layer.digest, where="layer")
    with source.open_blob(layer.digest) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            checked.write(chunk)
    checked.finish()
    data = bytes(found)
    check_digest(model.digest, hashlib.sha256(data), where="model")
    return data
