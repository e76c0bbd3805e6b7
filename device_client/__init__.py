"""The verifier: bundle format, trust, policy, install and inference.

Everything a device needs to refuse a model that was not released and audited for it. The other packages
import this one and never the reverse. Importing it needs only the base install (tuf, cryptography, click):
no numpy, no torch, no onnx.

A program on the device runs its model with

    from device_client import open_model

    with open_model("ecg") as model:
        outputs = model.run({"x": array})
"""

from __future__ import annotations

TYPE_CHECKING = False  # true for type checkers; importing `typing` would cost the resident agent half a MiB
if TYPE_CHECKING:
    from device_client.inference.by_name import open_model

__all__ = ["__version__", "open_model"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """``open_model`` is loaded when somebody asks for it: most of what imports this package never runs a model."""
    if name == "open_model":
        from device_client.inference.by_name import open_model

        return open_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
