"""The built-in student: a small network that learns the original's answers on records that are no members.

For auditors whose training entry point takes no ``fix``, or who have none. It never sees a member or a true label, so what it
knows of members went through the original's answers on other records; the audit measures how much that is. Vectors get one
hidden layer, images two small convolutions. Records are also mixed with each other (convex pairs), which makes more of few
records and lets the student memorise fewer of them.

Deterministic in the seed, one thread. Cost: ``_EPOCHS`` passes over ``1 + _MIXED`` times the records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from audits.bridge.tap import Tail
from audits.data import Floats
from audits.whitebox import WhiteBox
from device_client.inference.walker import CheckedModel

_EPOCHS = 40
_BATCH = 64
_RATE = 3e-3
_MIXED = 2


@dataclass(frozen=True)
class Head:
    """What a student takes over from the original: names of input and output, and what the output is."""

    given: str
    result: str
    tail: Tail


def distil(original: CheckedModel, x: Floats, *, width: int, seed: int) -> bytes:
    """ONNX bytes of a student.

    Args:
        original: the teacher; asked through the runtime, one record at a time.
        x: records that are no members, (N, ...).
        width: hidden units of a vector's student; images get a quarter of it as channels.
        seed: of mixing, first weights and order.

    Raises:
        BridgeError: the original is not one float input and one score per class.
    """
    mixed = _mix(x, seed=seed)
    with WhiteBox(original, records=x) as box:
        targets = box.probabilities(mixed)
        head = Head(original.inputs[0].name, original.outputs[0].name, box.tap.tail)
    net = _fit(mixed, targets, width=width, seed=seed)
    return _export(net, head, shape=x.shape[1:], classes=targets.shape[1])


def _mix(x: Floats, *, seed: int) -> Floats:
    """The records and ``_MIXED`` times as many convex pairs of them."""
    rng = np.random.default_rng([seed, 11])
    pairs = [(x[rng.permutation(len(x))], rng.uniform(0.2, 0.8, size=(len(x), *[1] * (x.ndim - 1)))) for _ in range(_MIXED)]
    mixed = [(share * x + (1.0 - share) * other).astype(np.float32) for other, share in pairs]
    return np.concatenate([x, *mixed])


def _fit(x: Floats, targets: npt.NDArray[np.float64], *, width: int, seed: int) -> nn.Sequential:
    inputs, wanted = torch.from_numpy(x), torch.from_numpy(targets.astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _network(x.shape[1:], width=width, classes=targets.shape[1])
        optimiser = torch.optim.Adam(net.parameters(), lr=_RATE, weight_decay=1e-5)
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(inputs)).split(_BATCH):
                optimiser.zero_grad()
                nn.functional.cross_entropy(net(inputs[rows]), wanted[rows]).backward()  # soft targets
                optimiser.step()
    return net


def _network(shape: tuple[int, ...], *, width: int, classes: int) -> nn.Sequential:
    if len(shape) == 3 and min(shape[1:]) >= 8:
        channels = max(4, width // 4)
        return nn.Sequential(
            nn.Conv2d(shape[0], channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * channels * (shape[1] // 4) * (shape[2] // 4), classes),
        )
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), width), nn.ReLU(), nn.Linear(width, classes))


def _export(net: nn.Sequential, head: Head, *, shape: tuple[int, ...], classes: int) -> bytes:
    """Layer by layer: the six kinds above, and the tail that the original has."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    current = head.given

    def add(operator: str, index: int, parameters: list[str], **attributes: object) -> None:
        nonlocal current
        nodes.append(helper.make_node(operator, [current, *parameters], [f"s{index}"], name=f"s{index}/{operator}", **attributes))
        current = f"s{index}"

    for index, layer in enumerate(net):
        names = []
        for name, parameter in layer.named_parameters():
            weights.append(numpy_helper.from_array(parameter.detach().numpy(), f"s{index}/{name}"))
            names.append(f"s{index}/{name}")
        if isinstance(layer, nn.Linear):
            add("Gemm", index, names, transB=1)
        elif isinstance(layer, nn.Conv2d):
            add("Conv", index, names, pads=[1, 1, 1, 1], kernel_shape=[3, 3])
        elif isinstance(layer, nn.MaxPool2d):
            add("MaxPool", index, [], kernel_shape=[2, 2], strides=[2, 2])
        elif isinstance(layer, nn.Flatten):
            add("Flatten", index, [], axis=1)
        else:
            add("Relu", index, [])
    tails = {
        Tail.SOFTMAX: ("Softmax", {"axis": 1}),
        Tail.LOG_SOFTMAX: ("LogSoftmax", {"axis": 1}),
        Tail.NONE: ("Identity", {}),
        Tail.PROBABILITIES: ("Softmax", {"axis": 1}),
    }
    operator, attributes = tails[head.tail]
    nodes.append(helper.make_node(operator, [current], [head.result], name=f"s/{operator}", **attributes))
    graph = helper.make_graph(
        nodes,
        "student",
        [helper.make_tensor_value_info(head.given, TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info(head.result, TensorProto.FLOAT, ["n", classes])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data
