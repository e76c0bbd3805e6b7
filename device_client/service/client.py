"""A Python client of the inference service, for programs that have this package; others need sixty lines of their own.

    with InferenceClient("/run/sealift/inference.sock") as client:
        result = client.run("ecg", {"x": array})
        result.outputs["y"], result.version

``docs/inference-protocol.md`` shows one with the standard library alone. numpy is imported when arrays are.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from device_client.bundle.fields import Fields
from device_client.errors import FormatError, MissingExtraError, SealiftError, TransportError, UsageError
from device_client.limits import MIB
from device_client.service.protocol import SIZES, Message, Tensor, native, read_tensors, receive, send

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_MAX_ANSWER_BYTES = 1024 * MIB


class ServiceError(SealiftError):
    """What the service refused, with its code, and expected and actual where it named them."""


@dataclass(frozen=True)
class Result:
    """Outputs of one inference, and the version that made them."""

    outputs: dict[str, Array]
    version: str
    manifest: str
    variant: str


class InferenceClient:
    """One connection; one request at a time. Close it, or use it in a ``with`` statement.

    Args:
        path: the service's socket.
        timeout_s: longest wait for an answer.

    Raises:
        TransportError: nobody answers there (``socket_lost``).
    """

    def __init__(self, path: str | Path, *, timeout_s: float = 60.0) -> None:
        self._timeout_s = timeout_s
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connection.settimeout(timeout_s)
            self._connection.connect(str(path))
        except OSError as e:
            self._connection.close()
            raise TransportError(
                "no inference service here",
                code="socket_lost",
                where=str(path),
                actual=e.strerror,
                hint="start it with `sealift device serve`, and see who may use it in docs/inference-protocol.md",
            ) from e

    def ping(self) -> None:
        """Returns if the service answers."""
        self._ask({"op": "ping"})

    def models(self) -> list[dict[str, object]]:
        """The device's models, each with its version and what it does."""
        found = self._ask({"op": "models"}).header.raw("models")
        return found if isinstance(found, list) else []

    def describe(self, model: str) -> dict[str, object]:
        """Inputs and outputs by the contract, with version and variant."""
        header = self._ask({"op": "describe", "model": model}).header
        return {name: header.raw(name) for name in header.keys() if name != "ok"}  # noqa: SIM118  # not a dict

    def run(self, model: str, inputs: Mapping[str, Array]) -> Result:
        """One inference.

        Args:
            model: ``line/model``, or the model alone where that is unambiguous.
            inputs: one array for each of the contract's inputs.

        Raises:
            ServiceError: the service's refusal, such as ``input_mismatch``, ``worker_crashed``, ``stopped_by_policy``.
            TransportError: the connection is gone; open another one.
            UsageError: an element type that the socket does not carry.
        """
        message = self._ask({"op": "infer", "model": model}, [_tensor(name, array) for name, array in inputs.items()])
        outputs = {tensor.name: _array(tensor) for tensor in read_tensors(message)}
        texts = (message.header.text(name) for name in ("version", "manifest", "variant"))
        return Result(outputs, *texts)

    def vote(self, model: str, *, version: str, manifest: str | None = None, good: bool) -> None:
        """Says that a version does well, or does not; counts while it is on probation."""
        request: dict[str, object] = {"op": "vote", "model": model, "version": version, "good": good}
        self._ask(request if manifest is None else {**request, "manifest": manifest})

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def __enter__(self) -> InferenceClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, header: Mapping[str, object], tensors: Sequence[Tensor] = ()) -> Message:
        lost: TransportError | None = None
        try:
            send(self._connection, header, tensors, timeout_s=self._timeout_s)
        except TransportError as e:  # refused while it was still being sent: the answer says why
            lost = e
        message = receive(self._connection, max_body_bytes=_MAX_ANSWER_BYTES, timeout_s=self._timeout_s, where="inference service")
        if message is None:
            raise lost or TransportError("the service closed the connection", code="socket_lost", where="inference service")
        if not message.header.boolean("ok"):
            raise _refusal(message.header)
        return message


def _refusal(fields: Fields) -> ServiceError:
    texts = {name: str(fields.raw(name)) for name in ("where", "expected", "actual", "hint") if fields.raw(name) is not None}
    return ServiceError(fields.text("error"), code=fields.text("code"), **texts)


def _tensor(name: str, array: Array) -> Tensor:
    try:
        import numpy as np
    except ModuleNotFoundError as e:
        raise MissingExtraError("device", missing="numpy") from e
    plain = np.asarray(array)
    if plain.dtype.name not in SIZES:
        raise UsageError(
            "the socket does not carry this element type",
            code="input_mismatch",
            where=name,
            expected=", ".join(SIZES),
            actual=plain.dtype.name,
        )
    plain = np.ascontiguousarray(plain.astype(plain.dtype.newbyteorder("="), copy=False))
    return Tensor(name, plain.dtype.name, array.shape, native(plain.reshape(-1).view(np.uint8).data, plain.dtype.name))


def _array(tensor: Tensor) -> Array:
    import numpy as np

    if tensor.dtype not in SIZES:
        raise FormatError("unknown element type", code="field_value", where=tensor.name)
    flat = np.frombuffer(native(tensor.data, tensor.dtype), np.dtype(tensor.dtype))
    return flat.reshape(tensor.shape)
