"""``python -m examples.factory [--data DIR] [--out DIR] [--seeds 5] [--json]``."""

from __future__ import annotations

from examples.factory.study import study
from examples.options import command

if __name__ == "__main__":
    command(study, name="factory", seeds=5)()
