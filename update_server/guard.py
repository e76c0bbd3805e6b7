"""What every request passes first: limits on headers, no encoded bodies, no reader that stops reading; one log line.

The HTTP parser below already bounds what it buffers (`protocol.py`); these limits hold whatever server runs the app.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from update_server.problem import ApiError, problem_response

logger = logging.getLogger("update_server.access")

MAX_HEADER_BYTES = 16 * 1024
SEND_TIMEOUT_S = 30.0  # a client that does not read gives its connection back after this
_MAX_LOGGED_PATH = 200


class Guard:
    """Refuses oversized or encoded requests before the application sees them, and writes the access log.

    A line holds method, path, status, sizes, duration and client: no query, no headers, so no token and no model input.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status, sent = 0, 0

        async def watched(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            sent += len(message.get("body", b""))
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await send(message)

        try:
            error = _refusal(scope)
            if error is None:
                await self._app(scope, receive, watched)
            else:
                await problem_response(error)(scope, receive, watched)
        except TimeoutError:
            logger.warning("gave up a client that stopped reading")  # the response stays incomplete, which closes the connection
        finally:
            logger.info("%s", _line(scope, status=status, sent=sent, duration_s=time.monotonic() - started))


def _refusal(scope: Scope) -> ApiError | None:
    size = len(scope["raw_path"]) + len(scope["query_string"])
    size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if size > MAX_HEADER_BYTES:
        return ApiError(
            "the headers are too long", status=431, code="headers_too_large", expected=f"at most {MAX_HEADER_BYTES} bytes"
        )
    encodings = {value.strip().lower() for name, value in scope["headers"] if name == b"content-encoding"}
    if encodings - {b"identity"}:
        return ApiError("encoded bodies are not taken", status=415, code="encoding_refused", hint="send the bytes as they are")
    return None


def _line(scope: Scope, *, status: int, sent: int, duration_s: float) -> str:
    client = scope.get("client")
    return json.dumps(
        {
            "method": scope["method"],
            "path": scope["raw_path"].decode("ascii", "replace")[:_MAX_LOGGED_PATH],
            "status": status,
            "bytes": sent,
            "ms": round(duration_s * 1000, 1),
            "client": client[0] if client else None,
        }
    )
