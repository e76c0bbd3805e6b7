"""The verifier: bundle format, trust, policy, install and inference.

Everything a device needs to refuse a model that was not released and audited for it. The other packages
import this one and never the reverse. Importing it needs only the base install (tuf, cryptography, click):
no numpy, no torch, no onnx.
"""

__version__ = "0.1.0"
