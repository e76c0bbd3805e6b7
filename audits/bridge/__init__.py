"""Own ONNX-to-torch bridge: the shipped bytes as a differentiable program, parity with the runtime measured each time."""
