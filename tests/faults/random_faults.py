"""Random faults of the C library's input and output, SQLite's calls among them, while a device polls a server over sockets.

Each run: a fresh copy of a device, one or two polls in a process in which every call of ``posix/io/*`` fails with some
probability, then a look, then one poll without faults, then a look again. libfiu makes the faults (``apt-get install fiu-utils``).

    with Faulty(folder) as faulty:
        for seed in range(500):
            faulty.run("update", seed=seed)
"""

from __future__ import annotations

import ctypes.util
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from tests.faults.aftermath import InvariantError, check_recovery, reboot, weights
from tests.faults.front import Front
from tests.faults.power import DEVICE, Prepared, prepare, remove
from tests.faults.random_child import Order
from tests.faults.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
PROBABILITIES = (0.001, 0.003, 0.01, 0.03)
POINTS = ("posix/io/*", "posix/io/rw/*", "posix/io/sync/*", "posix/io/oc/*", "posix/io/dir/*")
_PRELOAD = Path("/usr/lib/fiu/fiu_posix_preload.so")


def is_available() -> bool:
    """Whether libfiu is installed here."""
    return _PRELOAD.is_file() and ctypes.util.find_library("fiu") is not None


class Faulty:
    """Runs devices under faults; one process serves many runs. Attributes: ``ends``, how the disturbed polls ended."""

    def __init__(self, folder: Path, *, scenarios: tuple[str, ...] = ("first install", "update", "withdrawal")) -> None:
        self._folder = folder
        self._scenarios = scenarios
        self._prepared: dict[str, Prepared] = {}
        self._stack = ExitStack()
        self.ends: Counter[str] = Counter()
        self.runs = 0

    def __enter__(self) -> Faulty:
        for name in self._scenarios:
            self._prepared[name] = prepare(name, self._folder / name.replace(" ", "-"))
        self._front = self._stack.enter_context(Front(next(iter(self._prepared.values())).world))
        environment = {
            "PATH": os.defpath,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "LD_PRELOAD": str(_PRELOAD),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._process = self._stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "tests.faults.random_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd=ROOT,
                text=True,
            )
        )
        for name in self._scenarios:  # without faults: it works at all, and everything that is imported late is imported
            self.run(name, seed=0, probability=0.0)
        self.ends.clear()
        self.runs = 0
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._process.kill()
        elif self._process.stdin:
            self._process.stdin.close()
        self._stack.close()

    def run(self, name: str, *, seed: int, probability: float | None = None) -> None:
        """One run.

        Raises:
            InvariantError: a trace, a process that died or hung, or a device that did not come back.
        """
        prepared, choice = self._prepared[name], random.Random(seed)
        place = self._folder / "run"
        shutil.copytree(self._folder / name.replace(" ", "-"), place, symlinks=True)
        config = place / DEVICE / "device.toml"
        config.write_text(config.read_text().replace(prepared.world.device.config.server, self._front.url))
        world = reboot(prepared.world, place / DEVICE, reports=prepared.world.server.reports)
        self._front.world = world
        order = Order(
            folder=str(place / DEVICE),
            server=self._front.url,
            now=world.now.isoformat(),
            seed=seed,
            probability=choice.choice(PROBABILITIES) if probability is None else probability,
            points=choice.choice(POINTS) if seed % 2 else POINTS[0],
            polls=choice.choice((1, 2)),
        )
        answer = self._send(order)
        self.ends.update(answer["ends"])
        if answer["trace"]:
            raise InvariantError(f"{order}: {answer['trace']}")
        after = reboot(world, place / DEVICE, reports=world.server.reports)
        try:
            check_recovery(after, prepared.expected, acknowledged=prepared.memory, weights=weights(after), may_fail=True)
        except Exception as error:
            raise InvariantError(f"{name}, {order}, {answer['ends']}: {error!r}") from error
        remove(place)
        self.runs += 1

    def clear(self) -> None:
        """Removes what a failed run left."""
        shutil.rmtree(self._folder / "run", ignore_errors=True)

    def _send(self, order: Order) -> dict[str, list[str]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise InvariantError("no process")
        stdin.write(order.line())
        stdin.flush()
        found: dict[str, list[str]] = json.loads(stdout.readline())
        stdout.readline()  # the child is gone
        return found


__all__ = ["SCENARIOS", "Faulty", "is_available"]
