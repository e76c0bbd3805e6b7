"""Errors as RFC 9457 problem documents: one shape for every refusal of the API.

``ApiError`` is what the request path raises by itself; every other ``SealiftError`` (a signature that does not
verify, a full disk) becomes a problem here, with its own code and a status from its class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

from device_client.errors import SealiftError, StateError, UsageError, VerificationError

CONTENT_TYPE = "application/problem+json"
_RETRY_AFTER_S = 10


class ApiError(SealiftError):
    """A refusal with its HTTP status.

    Args:
        what: what failed.
        status: HTTP status code.
        code: stable reason, listed in ``docs/http-api.md`` section 8.
        where: role, digest or header.
        hint: the remedy.
        headers: further response headers.
        members: further members of the problem document, named in ``docs/http-api.md``.
    """

    def __init__(
        self,
        what: str,
        *,
        status: int,
        code: str,
        where: str | None = None,
        expected: object | None = None,
        actual: object | None = None,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(what, code=code, where=where, expected=expected, actual=actual, hint=hint)
        self.status = status
        self.headers = dict(headers or {})
        self.members = dict(members or {})


def status_of(error: SealiftError) -> int:
    """The HTTP status for an error: what the client sent is 4xx, what happened to us is 5xx."""
    if isinstance(error, ApiError):
        return error.status
    if isinstance(error, VerificationError):
        return 422
    if isinstance(error, StateError):
        return 503
    return 400 if isinstance(error, UsageError) else 500


def problem_response(error: SealiftError) -> Response:
    """The response for an error that was expected."""
    status = status_of(error)
    headers = dict(error.headers) if isinstance(error, ApiError) else {}
    if status in {429, 503}:
        headers.setdefault("Retry-After", str(_RETRY_AFTER_S))
    document: dict[str, object] = {
        "type": f"urn:sealift:problem:{error.code}",
        "title": error.what,
        "status": status,
        "code": error.code,
        "detail": str(error),
        "where": error.where,
        "hint": error.hint,
        **(error.members if isinstance(error, ApiError) else {}),
    }
    body = json.dumps(document, ensure_ascii=False).encode()
    return Response(body, status, {"Cache-Control": "no-store", **headers}, media_type=CONTENT_TYPE)


def internal_error() -> ApiError:
    """What a client learns of a fault of ours: nothing but that it happened."""
    return ApiError("the server failed", status=500, code="internal", hint="try again; the operator's log says why")


def not_found() -> ApiError:
    """A path that does not exist."""
    return ApiError("no such path", status=404, code="not_found", headers={"Cache-Control": "no-store"})


def method_not_allowed(allow: str) -> ApiError:
    """A method that the path does not have."""
    return ApiError("the path does not have this method", status=405, code="method_not_allowed", headers={"Allow": allow})
