"""One libFuzzer process: ``python -m tests.fuzz.child TARGET [libFuzzer options and folders]``. Started by ``run.py``.

Instruments ``device_client`` (for roles also the part of python-tuf that parses), so that libFuzzer sees which lines an input
reaches. Half of the changes are libFuzzer's own, half keep the structure.
"""

from __future__ import annotations

import importlib
import random
import sys
from typing import Any


def main() -> None:
    """Does not return: libFuzzer ends the process."""
    atheris: Any = importlib.import_module("atheris")  # of requirements/proofs.lock; the other tests run without it
    name = sys.argv[1]
    with atheris.instrument_imports(include=["device_client", "tuf.api", "tuf.ngclient._internal"]):
        from tests.fuzz.target import load

        target = load(name)

    def custom_mutator(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = atheris.Mutate(data, max_size) if rng.random() < 0.5 else target.mutate(bytes(data), rng)
        return bytes(changed[:max_size])

    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.fuzz_one, custom_mutator=custom_mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
