"""Request bodies, read under a limit that is known before the first byte."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from device_client.bundle.fields import Fields
from device_client.bundle.strict_json import parse_strict
from update_server.problem import ApiError

IDLE_TIMEOUT_S = 30.0  # a body that stops coming holds a connection no longer than this
MIN_RATE_BYTES_S = 1024  # nor does one that trickles: strangers send bodies too, and connections are counted


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        ApiError: 413 ``body_too_large``, before reading when ``Content-Length`` says so; 400 when it stops coming.
    """
    chunks = [chunk async for chunk in iterate_body(request, max_bytes=max_bytes)]
    return b"".join(chunks)


async def read_json(request: Request, *, max_bytes: int, known: tuple[str, ...]) -> Fields:
    """A JSON object with no other keys than ``known``."""
    data = await read_body(request, max_bytes=max_bytes)
    return Fields(parse_strict(data, max_bytes=max_bytes, where="body"), where="body", known=known)


async def iterate_body(request: Request, *, max_bytes: int) -> AsyncIterator[bytes]:
    """The body in the pieces in which it comes; at most ``max_bytes`` in all, after the first 30 s at a minimum rate."""
    declared = request.headers.get("content-length")
    if declared is not None and declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > max_bytes):
        raise _too_large(max_bytes)
    left = max_bytes
    stream = request.stream()
    begin = time.monotonic()
    while True:
        allowed_s = IDLE_TIMEOUT_S + (max_bytes - left) / MIN_RATE_BYTES_S
        try:
            async with asyncio.timeout(min(IDLE_TIMEOUT_S, begin + allowed_s - time.monotonic())):
                chunk = await anext(stream, None)
        except TimeoutError as e:
            raise ApiError("the body stopped coming", status=400, code="bad_request", headers={"Connection": "close"}) from e
        except ClientDisconnect as e:
            raise ApiError("the client left", status=400, code="bad_request") from e
        if chunk is None:
            return
        left -= len(chunk)
        if left < 0:
            raise _too_large(max_bytes)
        if chunk:
            yield chunk


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        "the body is too long", status=413, code="body_too_large", expected=f"at most {max_bytes} bytes",
        headers={"Connection": "close"},
    )  # fmt: skip
