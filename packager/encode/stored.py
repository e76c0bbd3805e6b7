"""Chooses how a model layer is stored: as it is, as a zstd frame, or in the codebook encoding, whichever is smallest.

The device's own decoder turns the layer back before it is used: what does not come back byte for byte is never stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from device_client.bundle.digest import Digest
from device_client.errors import SealiftError, UsageError
from device_client.install.layer_decoder import open_decoder
from packager.encode import codebook, zstd

logger = logging.getLogger(__name__)

ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    zstd.ENCODING: zstd.encode_zstd,
    codebook.ENCODING: codebook.encode_codebook,
}
"""Every encoding that is produced, the plainest first: one behind it must be smaller to win."""

MIN_SAVING = 0.03
"""The share that an encoding must save at all: decoding costs a device time."""

MIN_STEP = 0.01
"""The share that an encoding must save over a plainer one."""


@dataclass(frozen=True)
class StoredModel:
    """A model as its layer holds it. ``encoding``: None where these are the bytes that the runtime gets."""

    data: bytes
    encoding: str | None
    digest: Digest


def store_model(model: bytes, *, encodings: Sequence[str] = tuple(ENCODERS)) -> StoredModel:
    """The smallest form of a model file. Costs every encoder and one decoding of the winner.

    Args:
        model: the file that runs.
        encodings: those that may be used; empty to store the file as it is.

    Raises:
        MissingExtraError: an encoder's library is not installed.
        SealiftError: an encoder made what the device's decoder does not turn back (``encode_wrong``); a fault of ours.
    """
    best, name, saving = model, None, MIN_SAVING
    for encoding in sorted(encodings, key=list(ENCODERS).index):
        try:
            data = ENCODERS[encoding](model)
        except UsageError as e:
            logger.info("%s", e)
            continue
        if len(data) <= (1 - saving) * len(best):
            best, name, saving = data, encoding, MIN_STEP
    if name is not None:
        _check(best, model, name)
    return StoredModel(best, name, Digest.of(best))


def _check(layer: bytes, model: bytes, encoding: str) -> None:
    found: list[bytes] = []
    decoder = open_decoder(encoding, found.append, size=len(model), where=encoding)
    decoder.write(layer)
    decoder.finish()
    if b"".join(found) != model:
        raise SealiftError(
            "an encoded layer does not decode to its model", code="encode_wrong", where=encoding, hint="report this: it is a fault"
        )
