"""Polls under random faults in the C library, in processes that ``random_faults.py`` starts under libfiu.

Imports everything once, then forks one child for each order that comes in, one JSON line each. The faults begin after the fork, so
that they hit the device's work and not the start of Python, and end before the outcome is told.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from device_client.errors import SealiftError
from device_client.install.folder import open_device
from device_client.install.http import HttpClient
from device_client.install.poll import poll
from device_client.trust.fetcher import SealiftFetcher
from device_client.trust.trusted_time import BootTime
from tests.faults.scenarios import passes
from tests.unit.device.world import THE_MODEL

MAX_S = 60  # for one child; beyond it hangs, which is a finding
_FAILURE = -1


@dataclass(frozen=True)
class Order:
    """One process' work: so many polls of a device's folder, each call of ``points`` failing with ``probability``."""

    folder: str
    server: str
    now: str
    seed: int
    probability: float
    points: str = "posix/io/*"
    polls: int = 1

    def line(self) -> str:
        """As it is sent."""
        return json.dumps(asdict(self)) + "\n"


def main() -> None:
    """Reads orders until there are no more; answers each with how its polls ended, and the trace of what must not happen.

    A second line says that the child is gone, and with it its lock: a ``close`` that libfiu made fail has closed nothing.
    """
    library = ctypes.CDLL("libfiu.so.0")
    library.fiu_enable_random.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_float)
    library.fiu_init(0)
    for line in sys.stdin:
        order = Order(**json.loads(line))
        if not order.probability:  # no faults, no child: what is imported late is there for those to come
            _answer({"ends": [_poll(order)], "trace": ""})
            _answer({"over": True})
            continue
        child = os.fork()
        if child == 0:
            _be_child(order, library)
        _, status = os.waitpid(child, 0)
        if status != 0:
            _answer({"ends": [f"ended with status {status}"], "trace": f"the process ended with wait status {status}"})
        _answer({"over": True})


def _be_child(order: Order, library: ctypes.CDLL) -> None:
    signal.alarm(MAX_S)
    ends, trace = [], ""
    library.fiu_set_prng_seed(order.seed)
    library.fiu_enable_random(order.points.encode(), 1, None, 0, order.probability)
    for _ in range(order.polls):
        try:
            ends.append(_poll(order))
        except SealiftError as error:
            ends.append(error.code)
            if error.code == "internal":
                trace = _trace(error, library, order)
        except BaseException as error:  # noqa: BLE001  # whatever it is: it must not have come this far
            ends.append(type(error).__name__)
            trace = _trace(error, library, order)
    library.fiu_disable(order.points.encode())
    _answer({"ends": ends, "trace": trace})
    os._exit(0)


def _poll(order: Order) -> str:
    device = open_device(Path(order.folder))
    now = datetime.fromisoformat(order.now)
    return poll(
        device,
        THE_MODEL,
        clock=lambda: now,
        uptime=lambda: BootTime("boot-1", 1000.0),
        http=HttpClient(order.server, sleep=lambda _: None),
        fetcher=SealiftFetcher(timeout_s=5.0, deadline_s=10.0, retries=0),
        selftest=passes,
    ).result


def _trace(error: BaseException, library: ctypes.CDLL, order: Order) -> str:
    library.fiu_disable(order.points.encode())
    text = "".join(traceback.format_exception(error))
    library.fiu_enable_random(order.points.encode(), 1, None, 0, order.probability)
    return text


def _answer(answer: dict[str, object]) -> None:
    os.write(1, (json.dumps(answer) + "\n").encode())


if __name__ == "__main__":
    main()
