"""The ASGI application: static paths as plain ASGI in front, FastAPI for the rest, the guard around both.

with open_service(data, ...) as service:
    app = create_app(service)
"""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from device_client.errors import SealiftError
from update_server.api_device import device_routes
from update_server.api_operator import operator_routes
from update_server.api_publisher import publisher_routes
from update_server.guard import Guard
from update_server.problem import ApiError, internal_error, method_not_allowed, not_found, problem_response
from update_server.service import Service
from update_server.static import StaticFiles


def create_app(service: Service) -> ASGIApp:
    """The application of one service."""
    return Guard(_Front(StaticFiles(metadata=service.metadata_folder, blobs=service.blobs_folder), create_api(service)))


def create_api(service: Service) -> FastAPI:
    """The `/v1/` API alone. No schema or documentation pages: ``docs/http-api.md`` is the contract."""
    api = FastAPI(title="Sealift", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    for router in (device_routes(service), publisher_routes(service), operator_routes(service)):
        api.include_router(router)
    api.add_exception_handler(SealiftError, _refused)
    api.add_exception_handler(HTTPException, _unrouted)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(Exception, _failed)
    return api


class _Front:
    """Sends static paths to their own application without asking the framework."""

    def __init__(self, static: StaticFiles, api: ASGIApp) -> None:
        self._static = static
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_static = scope["type"] == "http" and StaticFiles.handles(scope["path"])
        await (self._static if is_static else self._api)(scope, receive, send)


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, SealiftError):
        raise TypeError("not an expected error") from error
    return problem_response(error)


async def _unrouted(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405 and isinstance(error, HTTPException):
        return problem_response(method_not_allowed((error.headers or {}).get("Allow", "")))
    return problem_response(not_found() if status == 404 else ApiError("bad request", status=status, code="bad_request"))


async def _invalid(request: Request, error: Exception) -> Response:
    names = ", ".join(str(item["loc"][-1]) for item in error.errors()) if isinstance(error, RequestValidationError) else ""
    return problem_response(ApiError("a parameter is missing or wrong", status=400, code="bad_request", where=names[:200]))


async def _failed(request: Request, error: Exception) -> Response:
    return problem_response(internal_error())  # the framework raises the error again, and the server logs it
