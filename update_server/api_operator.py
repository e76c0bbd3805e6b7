"""The operator's side of the API: which devices there are and whether they may ask (``docs/http-api.md`` section 7)."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from update_server.auth import authorise
from update_server.bodies import read_json
from update_server.devices import DeviceState, list_devices, set_state
from update_server.service import Service
from update_server.tokens import Kind

SCHEMA = 1
MAX_JSON_BYTES = 4 * 1024


def operator_routes(service: Service) -> APIRouter:
    """The routes, bound to one service."""
    router = APIRouter()

    @router.get("/v1/devices")
    async def get_devices(request: Request, after: Annotated[str, Query(max_length=64)] = "") -> Response:
        authorise(request, service, kind=Kind.OPERATOR)
        devices, more = service.database.read(lambda connection: list_devices(connection, after=after))
        return JSONResponse({"schema": SCHEMA, "devices": devices, "more": more}, headers={"Cache-Control": "no-store"})

    @router.put("/v1/devices/{device_id}/state")
    async def put_state(device_id: str, request: Request) -> Response:
        authorise(request, service, kind=Kind.OPERATOR)
        fields = await read_json(request, max_bytes=MAX_JSON_BYTES, known=("state",))
        state = DeviceState(fields.text("state", choices=(DeviceState.ACCEPTED.value, DeviceState.BLOCKED.value)))
        now = service.clock()
        await asyncio.wrap_future(service.database.write(lambda connection: set_state(connection, device_id, state, now=now)))
        return JSONResponse({"schema": SCHEMA, "device_id": device_id, "state": state.value})

    return router
