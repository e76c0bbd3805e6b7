"""The server as a staging repository: the publisher's side of ``docs/http-api.md``.

Holds a token for one role; the server refuses what that role may not do. Answers are bounded and never trusted:
roles are parsed strictly by the caller and blobs are checked against their digests.
"""

from __future__ import annotations

import io
import json
from typing import BinaryIO

import urllib3

from device_client.bundle.fields import Fields
from device_client.bundle.strict_json import parse_strict
from device_client.errors import SealiftError, TransportError, UsageError, VerificationError
from device_client.limits import DEFAULT_LIMITS
from device_client.trust.refs import BlobRef
from packager.staging import copy_checked

_TIMEOUT_S = 60.0
_MAX_PROBLEM_BYTES = 64 * 1024


class HttpStaging:
    """A repository behind ``base_url``.

    Args:
        base_url: for example ``http://127.0.0.1:8470``.
        token: bearer token of a publisher; None for reading only.
    """

    def __init__(self, base_url: str, *, token: str | None) -> None:
        self._base_url = base_url.rstrip("/")
        self._token = token
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(_TIMEOUT_S), retries=urllib3.Retry(total=2, redirect=False, status=0)
        )

    @property
    def name(self) -> str:
        """The URL."""
        return self._base_url

    def role_bytes(self, role: str) -> bytes | None:
        """The newest published version of a role; None before the first."""
        return self._get(f"/v1/roles/{role}", max_bytes=DEFAULT_LIMITS.max_targets_bytes)

    def draft(self, role: str) -> bytes | None:
        """The prepared next version of a role; None if there is none."""
        return self._get(f"/v1/drafts/{role}", max_bytes=DEFAULT_LIMITS.max_targets_bytes)

    def put_draft(self, role: str, data: bytes, *, replace: bool) -> None:
        """Stores a prepared version, or the same one with more signatures."""
        suffix = "?replace=true" if replace else ""
        self._send("PUT", f"/v1/drafts/{role}{suffix}", body=data, expected=(200, 201, 204))

    def has_blob(self, ref: BlobRef) -> bool:
        """Whether the server has the blob already."""
        response = self._request("HEAD", f"/blobs/sha256/{ref.digest.hex}")
        return response.status == 200 and response.headers.get("Content-Length") == str(ref.length)

    def blob_bytes(self, ref: BlobRef) -> bytes:
        """A small blob, checked against its digest."""
        data = self._get(f"/blobs/sha256/{ref.digest.hex}", max_bytes=ref.length)
        if data is None:
            raise TransportError("the server does not have the blob", code="blob_missing", where=str(ref.digest))
        out = io.BytesIO()
        copy_checked(io.BytesIO(data), out, ref=ref)
        return out.getvalue()

    def put_blob(self, ref: BlobRef, source: BinaryIO) -> None:
        """Uploads a blob; the server checks its digest again."""
        headers = {"Content-Length": str(ref.length), "Content-Type": "application/octet-stream"}
        self._send("PUT", f"/v1/blobs/sha256/{ref.digest.hex}", body=source, expected=(200, 201), headers=headers)

    def publish(self, role: str) -> int:
        """Asks the server to admit the draft of ``role``; returns the published version."""
        body = json.dumps({"role": role}).encode()
        data = self._send("POST", "/v1/publish", body=body, expected=(200, 201), headers={"Content-Type": "application/json"})
        answer = Fields(parse_strict(data, max_bytes=_MAX_PROBLEM_BYTES, where="publish answer"), where="publish answer")
        return answer.integer("version", minimum=1)

    def _get(self, path: str, *, max_bytes: int) -> bytes | None:
        response = self._request("GET", path)
        try:
            if response.status == 404:
                return None
            data = response.read(max_bytes + 1, decode_content=False)
        except urllib3.exceptions.HTTPError as e:
            raise TransportError("broken answer from the server", code="transport", where=path, hint="try again") from e
        finally:
            response.close()
        if response.status != 200:
            raise self._problem(response.status, data, path)
        if len(data) > max_bytes:
            raise TransportError("the server's answer is too long", code="too_large", where=path)
        return bytes(data)

    def _send(
        self, method: str, path: str, *, body: bytes | BinaryIO, expected: tuple[int, ...], headers: dict[str, str] | None = None
    ) -> bytes:
        response = self._request(method, path, body=body, headers=headers)
        data = bytes(response.read(_MAX_PROBLEM_BYTES, decode_content=False))
        response.close()
        if response.status not in expected:
            raise self._problem(response.status, data, path)
        return data

    def _request(
        self, method: str, path: str, *, body: bytes | BinaryIO | None = None, headers: dict[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        if self._token is not None:
            sent["Authorization"] = f"Bearer {self._token}"
        try:
            return self._pool.request(method, self._base_url + path, body=body, headers=sent, preload_content=False, redirect=False)
        except urllib3.exceptions.HTTPError as e:
            raise TransportError(
                "the server cannot be reached",
                code="transport",
                where=self._base_url,
                hint="check the URL, and that the server runs",
            ) from e

    def _problem(self, status: int, data: bytes, path: str) -> SealiftError:
        """The server's problem document as an error; its text is shown, never acted upon."""
        code, detail, hint = "server_refused", f"status {status}", None
        try:
            fields = Fields(parse_strict(data, max_bytes=_MAX_PROBLEM_BYTES, where="problem"), where="problem")
            code = fields.text("code") if "code" in fields else code
            detail = fields.text("detail") if "detail" in fields else detail
            hint = fields.text("hint") if "hint" in fields else None
        except VerificationError:
            pass  # not a problem document: the status says enough
        kind = UsageError if status in {401, 403} else TransportError if status >= 500 else VerificationError
        return kind(f"the server refused: {detail}", code=code, where=path, hint=hint)
