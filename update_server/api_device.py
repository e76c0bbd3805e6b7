"""The device's side of the API: capabilities, enrolment, what is next, reports (``docs/http-api.md`` section 4)."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from device_client import __version__
from device_client.bundle.path import ModelPath
from device_client.bundle.strict_json import canonical_json
from device_client.limits import DEFAULT_LIMITS
from update_server import enrolment, reports
from update_server.audience import is_loopback_url
from update_server.auth import authorise, refuse
from update_server.bodies import read_body
from update_server.devices import Device, enroll, load_device
from update_server.http_range import matches
from update_server.offers import offered_version
from update_server.problem import ApiError
from update_server.reports import Outcome
from update_server.service import Service
from update_server.tokens import Kind

SCHEMA = 1
POLL_S = 300
POLL_SPREAD = 0.1  # of POLL_S, to both sides: a fleet must not move in step after an outage
_PROXY_HEADERS = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


def device_routes(service: Service) -> APIRouter:
    """The routes, bound to one service."""
    router = APIRouter()

    @router.get("/v1/capabilities")
    async def capabilities() -> Response:
        return JSONResponse(
            {
                "schema": SCHEMA,
                "server": "sealift",
                "version": __version__,
                "api": ["v1"],
                "features": ["blob-ranges", "dsse-reports", "drafts"],
                "limits": {"report_bytes": reports.MAX_ENVELOPE_BYTES, "blob_bytes": DEFAULT_LIMITS.max_blob_bytes},
            }
        )

    @router.post("/v1/enroll")
    async def enroll_device(request: Request) -> Response:
        data = await read_body(request, max_bytes=enrolment.MAX_ENVELOPE_BYTES)
        now = service.clock()
        asked = enrolment.verify_enrolment(data, audience=service.audience, now=now)
        auto_accept = service.settings.accept_loopback_devices and is_local(request, asked.audience)
        done = await asyncio.wrap_future(
            service.database.write(lambda connection: enroll(connection, asked, auto_accept=auto_accept, now=now))
        )
        answer = {"schema": SCHEMA, "device_id": done.device_id.hex, "token": done.token, "state": done.state.value}
        return JSONResponse(answer, 201 if done.is_new else 200, {"Cache-Control": "no-store"})

    @router.get("/v1/devices/me/next")
    async def next_version(request: Request, model: Annotated[str, Query()]) -> Response:
        device = accepted_device(request, service)
        path = ModelPath.parse(model)
        version = service.database.read(lambda connection: offered_version(connection, path))
        poll_s = poll_interval_s(device.device_id.hex)
        headers = {"Cache-Control": "private, no-cache", "Sealift-Poll-Seconds": str(poll_s)}
        if version is None:
            return Response(None, 204, headers)
        body = canonical_json({"schema": SCHEMA, "model": str(path), "version": version, "poll_s": poll_s})
        headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if matches(request.headers.get("if-none-match", ""), headers["ETag"]):
            return Response(None, 304, headers)
        return Response(body, 200, headers, media_type="application/json")

    @router.post("/v1/devices/me/reports")
    async def report(request: Request) -> Response:
        device = accepted_device(request, service)
        data = await read_body(request, max_bytes=reports.MAX_ENVELOPE_BYTES)
        now = service.clock()
        try:
            said = reports.verify_report(data, device=device, audience=service.audience, now=now)
        except ApiError as error:
            raise refuse(request, service, error, actor=device.device_id.hex) from None
        outcome = await asyncio.wrap_future(
            service.database.write(lambda connection: reports.store_report(connection, said, device_id=device.device_id, now=now))
        )
        answer = {"schema": SCHEMA, "counter": said.counter, "status": outcome.value}
        return JSONResponse(answer, 202 if outcome is Outcome.STORED else 200)

    return router


def accepted_device(request: Request, service: Service) -> Device:
    """The device whose token the request carries, if it may ask.

    Raises:
        ApiError: 401, or 403 ``token_role``, ``device_pending``, ``device_blocked``.
    """
    bearer = authorise(request, service, kind=Kind.DEVICE)
    device = service.database.read(lambda connection: load_device(connection, bearer.subject))
    try:
        return device.check_accepted()
    except ApiError as error:
        raise refuse(request, service, error, actor=device.device_id.hex) from None


def poll_interval_s(device_id: str) -> int:
    """Seconds between polls: spread over the fleet, the same for a device each time, so that answers can be cached."""
    share = int(device_id[:8], 16) / 0xFFFFFFFF
    return round(POLL_S * (1 + POLL_SPREAD * (2 * share - 1)))


def is_local(request: Request, audience: str) -> bool:
    """Whether a request came straight from this machine: loopback on both ends, and no sign of a proxy."""
    host = request.client.host if request.client else ""
    try:
        from_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
    return from_loopback and is_loopback_url(audience) and not any(name in request.headers for name in _PROXY_HEADERS)
