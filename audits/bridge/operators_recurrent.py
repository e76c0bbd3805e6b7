"""LSTM and GRU with their usual activations, step by step, in one or two directions.

Not translated: peepholes, clipping, rows of different lengths, other activations, and layout 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from audits.bridge.calls import Call, Registry, Tensor

recurrent_operators = Registry()

_ACTIVATIONS = {"LSTM": [b"Sigmoid", b"Tanh", b"Tanh"], "GRU": [b"Sigmoid", b"Tanh"]}
_STATE = {"LSTM": 2, "GRU": 1}  # tensors that are handed from step to step

State = tuple[Tensor, ...]
Cell = Callable[[Call, int, Tensor, State], State]


@recurrent_operators.register("LSTM", "GRU")
def recurrent(call: Call) -> tuple[Tensor, ...]:
    """X (T, N, I) to Y (T, D, N, H), the last h (D, N, H) and, for LSTM, the last c."""
    _check(call)
    x, weights = call.tensor(0), call.tensor(2)
    directions, hidden = weights.shape[0], weights.shape[2]
    outputs, last = [], []
    for direction in range(directions):
        backwards = (directions == 2 and direction == 1) or call.attribute("direction", b"forward") == b"reverse"
        state = tuple(_start(call, 5 + index, direction, x, hidden) for index in range(_STATE[call.node.op]))
        steps = []
        for time in reversed(range(x.shape[0])) if backwards else range(x.shape[0]):
            state = (_lstm if call.node.op == "LSTM" else _gru)(call, direction, x[time], state)
            steps.append(state[0])
        outputs.append(torch.stack(steps[::-1] if backwards else steps))
        last.append(state)
    return torch.stack(outputs, dim=1), *(torch.stack(parts) for parts in zip(*last, strict=True))


def _check(call: Call) -> None:
    usual = _ACTIVATIONS[call.node.op] * call.tensor(2).shape[0]
    if call.attribute("activations", usual) != usual or call.attribute("clip", None) is not None:
        raise call.unsupported("unusual activations or clip")
    if call.optional(4) is not None or call.optional(7) is not None:
        raise call.unsupported("sequence lengths or peepholes")
    if call.attribute("layout", 0) or call.attribute("input_forget", 0):
        raise call.unsupported("layout or input_forget")


def _start(call: Call, index: int, direction: int, x: Tensor, hidden: int) -> Tensor:
    given = call.optional(index)
    return x.new_zeros(x.shape[1], hidden) if given is None else given[direction]


def _parts(call: Call, direction: int, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """What the input and the state give to all gates, (N, gates * H) each, with their biases."""
    w, r = call.tensor(1)[direction], call.tensor(2)[direction]
    from_x, from_h = torch.matmul(x, w.T), torch.matmul(h, r.T)
    bias = call.optional(3)
    if bias is not None:
        of_w, of_r = bias[direction].chunk(2)
        from_x, from_h = from_x + of_w, from_h + of_r
    return from_x, from_h


def _lstm(call: Call, direction: int, x: Tensor, state: State) -> State:
    """Gates in the order input, output, forget, cell."""
    from_x, from_h = _parts(call, direction, x, state[0])
    i, o, f, c = (from_x + from_h).chunk(4, dim=-1)
    cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(c)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _gru(call: Call, direction: int, x: Tensor, state: State) -> State:
    """Gates in the order update, reset, hidden; the reset gate acts before or after the product."""
    h = state[0]
    from_x, from_h = _parts(call, direction, x, h)
    (xz, xr, xh), (hz, hr, hh) = from_x.chunk(3, dim=-1), from_h.chunk(3, dim=-1)
    z, r = torch.sigmoid(xz + hz), torch.sigmoid(xr + hr)
    if call.attribute("linear_before_reset", 0):
        return (torch.lerp(torch.tanh(xh + r * hh), h, z),)
    _, from_reset = _parts(call, direction, x, r * h)
    return (torch.lerp(torch.tanh(xh + from_reset.chunk(3, dim=-1)[2]), h, z),)
