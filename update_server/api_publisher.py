"""The publisher's side of the API: blobs, drafts, publish (``docs/http-api.md`` section 5)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import asdict

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from device_client.bundle.digest import Digest
from device_client.limits import DEFAULT_LIMITS
from update_server.auth import authorise
from update_server.bodies import iterate_body, read_body, read_json
from update_server.http_range import matches
from update_server.problem import ApiError
from update_server.service import Service
from update_server.tokens import Kind

SCHEMA = 1
MAX_JSON_BYTES = 4 * 1024
_WRITE_BYTES = 1 << 20  # uploads go to disk in pieces of about this size, each in a thread


def publisher_routes(service: Service) -> APIRouter:
    """The routes, bound to one service."""
    router = APIRouter()
    publisher = service.publisher

    @router.put("/v1/blobs/sha256/{name}")
    async def put_blob(name: str, request: Request) -> Response:
        authorise(request, service, kind=Kind.PUBLISHER)
        digest = Digest(name)
        is_new = service.blobs.size_of(digest) is None
        with service.blobs.begin_upload(digest) as upload:
            async for piece in _pieces(iterate_body(request, max_bytes=DEFAULT_LIMITS.max_blob_bytes)):
                await asyncio.to_thread(upload.write, piece)
            ref = await asyncio.to_thread(upload.commit)
        return JSONResponse({"schema": SCHEMA, "digest": str(ref.digest), "length": ref.length}, 201 if is_new else 200)

    @router.get("/v1/roles/{role}")
    async def get_role(role: str, request: Request) -> Response:
        data = await asyncio.to_thread(publisher.role_bytes, role)
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Cache-Control": "no-cache"}
        if matches(request.headers.get("if-none-match", ""), headers["ETag"]):
            return Response(None, 304, headers)
        return Response(data, 200, headers, media_type="application/json")

    @router.get("/v1/drafts/{role}")
    async def get_draft(role: str, request: Request) -> Response:
        authorise(request, service, kind=Kind.PUBLISHER, subject=role)
        data = await asyncio.to_thread(publisher.draft_bytes, role)
        return Response(data, 200, {"Cache-Control": "no-store"}, media_type="application/json")

    @router.put("/v1/drafts/{role}")
    async def put_draft(role: str, request: Request) -> Response:
        authorise(request, service, kind=Kind.PUBLISHER, subject=role)
        replace = _is_true(request, "replace")
        data = await read_body(request, max_bytes=DEFAULT_LIMITS.max_targets_bytes)
        draft, is_new = await asyncio.to_thread(publisher.put_draft, role, data, replace=replace)
        answer = {
            "schema": SCHEMA,
            "role": role,
            "version": draft.version,
            "keyids": list(draft.keyids),
            "threshold": draft.threshold,
            "missing": draft.missing,
        }
        return JSONResponse(answer, 201 if is_new else 200)

    @router.post("/v1/publish")
    async def publish(request: Request) -> Response:
        # the token before the body, so that a stranger's body is never read; its role is compared once it is known
        authorise(request, service, kind=Kind.PUBLISHER)
        fields = await read_json(request, max_bytes=MAX_JSON_BYTES, known=("role", "version"))
        role = fields.text("role", max_chars=100)
        version = fields.integer("version", minimum=1, maximum=2**31 - 1) if "version" in fields else None
        authorise(request, service, kind=Kind.PUBLISHER, subject=role)
        done = await asyncio.to_thread(publisher.publish, role, version=version)
        return JSONResponse({"schema": SCHEMA, **asdict(done)})

    return router


async def _pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of at least ``_WRITE_BYTES``, but for the last."""
    waiting = bytearray()
    async for chunk in chunks:
        waiting += chunk
        if len(waiting) >= _WRITE_BYTES:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


def _is_true(request: Request, name: str) -> bool:
    """A query flag: absent or ``false``, or ``true``; never a guess."""
    values = request.query_params.getlist(name)
    if values in ([], ["false"]):
        return False
    if values == ["true"]:
        return True
    raise ApiError("not a flag", status=400, code="bad_request", where=name, expected="true or false")
