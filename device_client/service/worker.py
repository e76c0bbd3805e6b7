"""A worker: limits itself, gets one model through its socket, and answers inferences until the socket closes.

The order is the point: interpreter and runtime load first, from our own files; then the limits; then the first byte of the
model is looked at, in memory that is this process' alone. It has no keys, no environment, an empty working directory, and where
the kernel allows no network and no files. Nothing here is imported by the service. It runs as the same user: where the kernel has
no Landlock, what stands against a runtime that a model has taken over is the device's hardening.

    first message    header: contract_bytes, variant, deadline...; body: contract, then model
    afterwards       {"op": "infer", "tensors": [...]} and an answer to each
"""

from __future__ import annotations

import math
import os
import signal
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from device_client.bundle.contract import Contract, parse_contract
from device_client.bundle.features import KNOWN_ENCODINGS
from device_client.bundle.fields import read_text
from device_client.errors import FormatError, LimitError, SealiftError, TransportError, UsageError
from device_client.inference.confine import drop_privileges, leave_files, leave_network, limit_process
from device_client.inference.inputs import InputPlan
from device_client.inference.runtime import import_runtime
from device_client.inference.session import Session, open_session
from device_client.inference.walker import check_model
from device_client.limits import DEFAULT_LIMITS
from device_client.service.protocol import SIZES, Message, Tensor, native, read_tensors, receive, send

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MEMORY_STATUS = 77
"""Exit status of a worker that ran out of memory."""
_MEMORY_SIGNS = ("bad_alloc", "bad allocation", "failed to allocate", "cannot allocate memory", "out of memory")
_PATIENCE_S = 86_400.0  # for the service, which has deadlines of its own and ends this process when they pass
_OPEN_FILES = 64


def main() -> None:
    """Entry point of the worker process; its socket is its standard input."""
    network = leave_network()
    _load_runtime()
    privileges = drop_privileges()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the service, which ends its workers in its own order
    connection = socket.socket(fileno=0)
    try:
        _serve(connection, {"network": network, "privileges": privileges})
    except TransportError:
        pass  # the service is gone
    except MemoryError:
        os._exit(MEMORY_STATUS)
    os._exit(0)  # the runtime's destructors are not ours to wait for


def _serve(connection: socket.socket, left: dict[str, str]) -> None:
    first = receive(connection, max_body_bytes=_most_bytes(), timeout_s=_PATIENCE_S, where="service")
    if first is None:
        return
    limit_process(memory_bytes=first.header.integer("memory_bytes"), open_files=_OPEN_FILES)
    files = leave_files()
    try:
        loaded = _load(first)
    except SealiftError as error:
        _exit_if_memory(error)
        send(connection, {"ok": False, **error.to_json()}, timeout_s=_PATIENCE_S)
        return
    most = first.header.integer("max_message_bytes")
    del first  # a copy of the model
    send(connection, {"ok": True, **left, "files": files}, timeout_s=_PATIENCE_S)
    while (message := receive(connection, max_body_bytes=most, timeout_s=_PATIENCE_S, idle_s=math.inf)) is not None:
        # Ends this process also in the middle of a computation, and should the service have died meanwhile.
        signal.setitimer(signal.ITIMER_REAL, message.header.integer("kill_after_ms") / 1000)
        header, tensors = loaded.answer(message, max_bytes=most)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(connection, header, tensors, timeout_s=_PATIENCE_S)


def _load(first: Message) -> _Loaded:
    header, length = first.header, first.header.integer("contract_bytes")
    contract = parse_contract(bytes(memoryview(first.body)[:length]), encodings=KNOWN_ENCODINGS)
    data = bytes(memoryview(first.body)[length:])
    variant = contract.variant(header.text("variant"))
    model = check_model(data, features=contract.features, where=f"variant {variant.id}")
    if model.digest != variant.model.digest:
        raise FormatError("other bytes than the contract names", code="contract_model_mismatch", where=f"variant {variant.id}")
    return _Loaded(open_session(model, providers=header.items("providers", read_text)), contract)


class _Loaded:
    """The session with its contract: from a message to the answer."""

    def __init__(self, session: Session, contract: Contract) -> None:
        self._session = session
        self._plan = InputPlan(contract.inputs, session.inputs)

    def answer(self, message: Message, *, max_bytes: int) -> tuple[dict[str, object], list[Tensor]]:
        try:
            feed = self._plan.check(_arrays(read_tensors(message)))
        except (UsageError, FormatError) as error:
            return {"ok": False, "fault": "client", **error.to_json()}, []
        try:
            outputs = self._session.compute(feed)
        except FormatError as error:
            _exit_if_memory(error)
            return {"ok": False, "fault": "model", **error.to_json()}, []
        try:
            tensors = [_tensor(name, value) for name, value in outputs.items()]
            length = sum(memoryview(tensor.data).nbytes for tensor in tensors)
            if length > max_bytes:
                raise LimitError("outputs too long", code="too_large", where="outputs", expected=max_bytes, actual=length)
        except SealiftError as error:
            return {"ok": False, "fault": "none", **error.to_json()}, []
        return {"ok": True, "finite": _is_finite(outputs)}, tensors


def _arrays(tensors: tuple[Tensor, ...]) -> dict[str, Array]:
    import numpy as np

    found = {}
    for tensor in tensors:
        array = np.frombuffer(native(tensor.data, tensor.dtype), np.dtype(tensor.dtype)).reshape(tensor.shape)
        found[tensor.name] = np.require(array, requirements="A")  # a tensor behind three single bytes is not aligned
    return found


def _tensor(name: str, value: object) -> Tensor:
    import numpy as np

    if not isinstance(value, np.ndarray) or value.dtype.name not in SIZES:
        raise FormatError(
            "an output of a type that the service does not carry",
            code="output_unsupported",
            where=name,
            expected=", ".join(SIZES),
            actual=value.dtype.name if isinstance(value, np.ndarray) else type(value).__name__,
            hint="run this model in the program itself, with device_client.open_model",
        )
    data = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data if value.size else b""
    return Tensor(name, value.dtype.name, value.shape, native(data, value.dtype.name))


def _is_finite(outputs: Mapping[str, Array]) -> bool:
    import numpy as np

    return all(bool(np.isfinite(value).all()) for value in outputs.values() if value.dtype.kind in "fc")


def _exit_if_memory(error: SealiftError) -> None:
    """A process without memory gives no trustworthy answers: another one takes its place."""
    if any(sign in str(error).lower() for sign in _MEMORY_SIGNS):
        os._exit(MEMORY_STATUS)


def _load_runtime() -> None:
    """Imports everything while there is still memory, files and threads to do so."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"  # the service gives an empty environment
    import array  # noqa: F401  # for machines of the other byte order

    import numpy as np

    import device_client.bundle.contract_reader  # noqa: F401  # parse_contract imports it late

    np.seterr(all="ignore")  # what overflows in a conversion shows in the values
    import_runtime()


def _most_bytes() -> int:
    return DEFAULT_LIMITS.max_contract_bytes + DEFAULT_LIMITS.max_model_bytes


if __name__ == "__main__":
    main()
