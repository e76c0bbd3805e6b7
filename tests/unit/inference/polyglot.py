"""One file that is two models: an ORT flatbuffer for a runtime that guesses the format, an ONNX model for a protobuf reader.

A flatbuffer begins with the offset of its root table, and ``ORTM``. The eight bytes are chosen such that they also begin
an ONNX model: ``28 08`` is model_version 8, ``12 01 O`` a producer_name of one byte, ``R T`` an unknown field of 84 bytes. Read as
an offset, the first four say where the table lies: at 18 MB. So the flatbuffer is moved up by that much, inside a
``doc_string``, and the ONNX model's own fields follow after it.
"""

from __future__ import annotations

import struct
from pathlib import Path

from device_client.inference.runtime import import_runtime
from tests.unit.inference.wire import LEN, tag, varint

_HEAD = bytes.fromhex("28081201") + b"ORTM"
_UNKNOWN_END = 7 + ord("T")


def as_ort(onnx_bytes: bytes, folder: Path) -> bytes:
    """The model in the runtime's own format, by its own converter."""
    onnxruntime = import_runtime()
    target = folder / "model.ort"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
    return target.read_bytes()


def polyglot(*, ort: bytes, onnx: bytes) -> bytes:
    """``ort`` and ``onnx`` in one file."""
    shift = struct.unpack("<I", _HEAD[:4])[0] - struct.unpack("<I", ort[:4])[0]
    assert ort[4:8] == b"ORTM"
    assert shift % 16 == 0, "the table keeps its alignment"
    inside = shift + len(ort) - _UNKNOWN_END - 5  # a tag of one byte, a length of four
    head = _HEAD.ljust(_UNKNOWN_END, b"\0") + tag(6, LEN) + varint(inside)
    return head.ljust(shift + 8, b"\0") + ort[8:] + onnx
