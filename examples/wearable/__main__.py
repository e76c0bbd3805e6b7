"""``python -m examples.wearable [--data DIR] [--out DIR] [--seeds 3] [--json]``."""

from __future__ import annotations

from examples.options import command
from examples.wearable.study import study

if __name__ == "__main__":
    command(study, name="wearable", seeds=3)()
