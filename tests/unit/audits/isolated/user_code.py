"""Functions that stand for an auditor's own code, good and bad."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def _spread(values: list[int]) -> dict[str, Any]:
    return {"x": np.asarray(values, dtype=np.int64)}


def good() -> dict[str, Any]:
    return {"x": np.arange(6.0).reshape(3, 2), "y": np.asarray([0, 1, 1]), "member": np.asarray([True, False, True])}


def environment() -> dict[str, Any]:
    return {"x": np.frombuffer("\n".join(f"{k}={v}" for k, v in os.environ.items()).encode(), dtype=np.uint8)}


def descriptors() -> dict[str, Any]:
    names = []
    for number in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(number.readlink()))
        except OSError:
            continue
    return {"x": np.frombuffer("\n".join(names).encode(), dtype=np.uint8)}


def environment_of_the_parent() -> dict[str, Any]:
    return {"x": np.frombuffer(Path(f"/proc/{os.getppid()}/environ").read_bytes(), dtype=np.uint8)}


def memory_of_the_parent() -> dict[str, Any]:
    return {"x": np.frombuffer(Path(f"/proc/{os.getppid()}/maps").read_bytes(), dtype=np.uint8)}


def sends() -> dict[str, Any]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(b"secret", ("127.0.0.1", int(Path("port.txt").read_text())))
    return _spread([1])


def reads_outside() -> dict[str, Any]:
    return {"x": np.frombuffer(Path(Path("secret_path.txt").read_text()).read_bytes(), dtype=np.uint8)}


def writes_outside() -> dict[str, Any]:
    Path("written.txt").write_text("was here")
    return _spread([1])


def sleeps() -> dict[str, Any]:
    time.sleep(60)
    return _spread([1])


def hoards() -> dict[str, Any]:
    return {"x": np.ones(400_000_000)}


def chatters() -> dict[str, Any]:
    while True:
        print("x" * 1000)


def raises() -> dict[str, Any]:
    raise KeyError("no such column")


def gives_objects() -> dict[str, Any]:
    return {"x": np.asarray([{}], dtype=object)}


def gives_a_list() -> list[int]:
    return [1]


def exits() -> None:
    sys.exit(0)


def leaves_a_link() -> None:
    here = Path(sys.argv[1])
    for index in range(3):
        (here / f"{index:06d}.result").symlink_to("/etc/hostname")
    os._exit(0)


def leaves_a_child() -> dict[str, Any]:
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    return good()


def train_with_fix(x: Any, y: Any, *, seed: int, fix: Any = None) -> Any:
    changes = dict(fix or {})
    if set(changes) - {"weight_decay"}:
        raise NotImplementedError("only weight decay")
    return train(x, y, seed, weight_decay=changes.get("weight_decay", 0.0))


def train(x: Any, y: Any, seed: int, weight_decay: float = 0.0) -> Any:
    import torch

    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(x.shape[1], 3), torch.nn.Softmax(dim=1))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.1, weight_decay=weight_decay)
    for _ in range(20):
        optimiser.zero_grad()
        torch.nn.functional.nll_loss(torch.log(net(torch.from_numpy(x))), torch.from_numpy(y)).backward()
        optimiser.step()
    return net


def train_a_wrong_model(x: Any, y: Any, seed: int) -> Any:
    import torch

    del y, seed
    return torch.nn.Linear(x.shape[1], 7)


def train_garbage(x: Any, y: Any, seed: int) -> bytes:
    del x, y, seed
    return b"\x00" * 64


def train_nothing(x: Any, y: Any, seed: int) -> bytes:
    raise NotImplementedError("not today")


def reads_settings() -> dict[str, Any]:
    found = []
    for name in ("passwd", "shadow", "ssl/private"):
        try:
            path = Path("/etc", name)
            found.append(len(list(path.iterdir())) if path.is_dir() else len(path.read_bytes()))
        except PermissionError:
            found.append(-1)
        except FileNotFoundError:
            found.append(-2)
    return _spread(found)
