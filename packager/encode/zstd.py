"""Stores a model as one zstd frame; ``device_client/install/zstd_decoder.py`` reads it.

One thread, no checksum (the layer has a digest), no dictionary, the content size in the header: with one version of the
library the same bytes on every run.
"""

from __future__ import annotations

from device_client.errors import MissingExtraError

ENCODING = "zstd"
LEVEL = 22  # measured on eight models up to 1.2 MB: never more than 0.6 s, and never larger than 19
_WINDOW_LOG = 22  # the format's bound


def encode_zstd(data: bytes) -> bytes:
    """The frame. Some 2 s per MB at most, and 700 MB of memory for the largest models.

    Raises:
        MissingExtraError: the zstandard package is not installed.
    """
    try:
        import zstandard
    except ImportError as e:
        raise MissingExtraError("packager", missing="zstandard") from e
    fitting = zstandard.ZstdCompressionParameters.from_level(LEVEL, source_size=len(data))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL,
        source_size=len(data),
        window_log=min(fitting.window_log, _WINDOW_LOG),
        write_content_size=True,
        write_checksum=False,
        write_dict_id=False,
        threads=0,
    )
    return bytes(zstandard.ZstdCompressor(compression_params=parameters).compress(data))
