"""Who is asking: bearer tokens to principals, and a trace of everyone who was refused."""

from __future__ import annotations

from starlette.requests import Request

from update_server.problem import ApiError
from update_server.service import Service
from update_server.tokens import Bearer, Kind, find_bearer

_MAX_TOKEN_CHARS = 128


def authorise(request: Request, service: Service, *, kind: Kind, subject: str | None = None) -> Bearer:
    """Whom the request's token stands for.

    Args:
        request: the request.
        service: the server.
        kind: what the token must be for.
        subject: the role it must be bound to, or None for any.

    Raises:
        ApiError: 401 ``token_missing``, ``token_unknown``, ``token_expired``; 403 ``token_role``.
    """
    bearer = _bearer(request, service)
    if bearer.kind is not kind or (subject is not None and bearer.subject != subject):
        hint = f"use the token of {subject}" if subject is not None else f"use a {kind.value} token"
        raise refuse(
            request,
            service,
            ApiError("the token is for something else", status=403, code="token_role", where=subject or kind.value, hint=hint),
            actor=bearer.subject or bearer.kind.value,
        )
    return bearer


def refuse(request: Request, service: Service, error: ApiError, *, actor: str | None = None) -> ApiError:
    """Records a refusal in the audit log; returns the error to be raised."""
    client = request.client.host if request.client else "unknown"
    service.refusals.record(actor=actor or client, action=f"{request.method} {request.url.path}", code=error.code)
    return error


def _bearer(request: Request, service: Service) -> Bearer:
    values = request.headers.getlist("authorization")
    scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not 0 < len(token) <= _MAX_TOKEN_CHARS:
        raise refuse(request, service, _unauthorised("a bearer token is needed", "token_missing"))
    bearer = service.database.read(lambda connection: find_bearer(connection, token))
    if bearer is None:
        raise refuse(request, service, _unauthorised("the token is unknown", "token_unknown"))
    if bearer.is_expired(service.clock()):
        raise refuse(request, service, _unauthorised("the token has expired", "token_expired"), actor=bearer.subject)
    return bearer


def _unauthorised(what: str, code: str) -> ApiError:
    hint = "a device enrols again; a publisher asks the operator for a token"
    return ApiError(what, status=401, code=code, hint=hint, headers={"WWW-Authenticate": "Bearer"})
