"""Arrays as files between an audit and its child: ``.npy`` of plain numbers, read within bounds and never unpickled.

numpy's own reader allocates what a header claims before it looks at the data. This one compares the claim with the bytes that
are there first, and knows numbers and booleans alone.
"""

from __future__ import annotations

import io
import math
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_client.errors import SealiftError

Array = npt.NDArray[Any]
_MAX_HEADER_BYTES = 4096
_KINDS = "fiub"


def read_bounded(path: Path, *, max_bytes: int, where: str) -> bytes:
    """The bytes of one regular file that another process wrote.

    Raises:
        SealiftError: missing, a link, no regular file, or too long (``isolated_result``).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        raise wrong_result("the child left no result", where=where, actual=e.strerror) from e
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise wrong_result("a result is no regular file", where=where)
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise wrong_result("a result is too long", where=where, expected=f"at most {max_bytes} bytes")
    return data


def parse_array(data: bytes, *, where: str) -> Array:
    """The array in the bytes of an ``.npy`` file.

    Raises:
        SealiftError: not that format, another type than numbers and booleans, or not exactly the bytes that the header claims
            (``isolated_result``).
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in {(1, 0), (2, 0)}:
            raise ValueError(f"version {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream, max_header_size=_MAX_HEADER_BYTES)
    except (ValueError, EOFError, SyntaxError, UnicodeDecodeError, RecursionError, MemoryError) as e:
        raise wrong_result("an array cannot be read", where=where, actual=str(e)[:120]) from e
    if dtype.kind not in _KINDS or dtype.hasobject:
        raise wrong_result("an array of another type", where=where, expected="numbers or booleans", actual=str(dtype)[:80])
    claimed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed != len(data) - stream.tell():
        raise wrong_result("an array of another size than it says", where=where, expected=claimed, actual=len(data) - stream.tell())
    flat = np.frombuffer(data, dtype=dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C").copy()


def array_bytes(array: Array) -> bytes:
    """The ``.npy`` file of an array of numbers."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def wrong_result(what: str, *, where: str, expected: object = None, actual: object = None) -> SealiftError:
    """The error for whatever a child gave back that is not what it should be."""
    return SealiftError(what, code="isolated_result", where=where, expected=expected, actual=actual)
