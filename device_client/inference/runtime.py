"""The one place that imports onnxruntime: without its settings from the environment, and without its telemetry.

Measured with the 1.32.0 wheel for Linux: a plain ``import onnxruntime`` writes a device id and a queue of events below
the user's cache folder, starts a thread, and has code to send them to its vendor. ``ORT_DISABLE_TELEMETRY=1`` before the
import prevents all three, so it is set here and stays set for the life of the process. Every other ``ORT_`` variable is
hidden while a session is made: they can switch formats, options and kernels.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from device_client.errors import MissingExtraError

_TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"
_SETTINGS = ("ORT_", "ALLOW_RELEASED_ONNX_OPSET_ONLY")
_environment_lock = threading.Lock()  # the environment is one per process


def import_runtime() -> Any:
    """The ``onnxruntime`` module, loaded with telemetry off.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ[_TELEMETRY_OFF] = "1"
    try:
        import onnxruntime
    except ModuleNotFoundError as e:
        raise MissingExtraError("device", missing=e.name or "onnxruntime") from e
    onnxruntime.disable_telemetry_events()  # for a process that had imported it before
    return onnxruntime


@contextmanager
def clean_runtime() -> Iterator[Any]:
    """Yields the runtime while its environment variables are hidden; they come back afterwards."""
    with _environment_lock:
        hidden = {name: value for name, value in os.environ.items() if name.startswith(_SETTINGS) and name != _TELEMETRY_OFF}
        for name in hidden:
            del os.environ[name]
        try:
            yield import_runtime()
        finally:
            os.environ.update(hidden)
