"""Training with a fix in a child process: the auditor's function, without keys and without network.

The command's ``FixTrainer``. Each training is a child of its own, since trials are few and far between; what the function takes is
asked of a child, too, because importing it runs its module.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from audits.data import Floats, Integers
from audits.isolated.limits import IsolationLimits
from audits.isolated.process import Job, run_tasks
from audits.trainer import ChildTrainer
from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields
from device_client.bundle.strict_json import parse_strict
from device_client.inference.walker import CheckedModel

_MAX_DESCRIPTION_BYTES = 1024


class ChildFixTrainer:
    """See ``FixTrainer``.

    Args:
        entry_point: ``module:function``, importable from the folder of the command.
        like: the audited model.
        limits: bounds of each child.

    Raises:
        UsageError: not an entry point (``entry_point``).
    """

    def __init__(self, entry_point: str, *, like: CheckedModel, limits: IsolationLimits) -> None:
        self._entry, self._like, self._limits = entry_point, like, limits
        ChildTrainer(entry_point, like=like)  # refuses what is none

    @property
    def takes_fix(self) -> bool:
        """See ``FixTrainer``.

        Raises:
            SealiftError: the module cannot be imported (``isolated_failed``).
        """
        return self._described[0]

    @property
    def identity(self) -> str:
        """The name and the digest of the file that holds the function; other files that it imports are not in it."""
        source = self._described[1]
        return self._entry if source is None else f"{self._entry}@{source}"

    def train(self, x: Floats, y: Integers, *, seed: int, fix: Mapping[str, Any]) -> bytes:
        """See ``FixTrainer``.

        Raises:
            SealiftError: see ``ChildTrainer.train_many``.
        """
        return ChildTrainer(self._entry, like=self._like, limits=self._limits, fix=fix).train(x, y, seed=seed)

    @cached_property
    def _described(self) -> tuple[bool, Digest | None]:
        """Whether it takes ``fix``, and the digest of its file."""
        (answer,) = run_tasks(Job(entry=self._entry, kind="describe", tasks=1), limits=self._limits).results
        found = Fields(
            parse_strict(answer, max_bytes=_MAX_DESCRIPTION_BYTES, where=self._entry),
            where=self._entry,
            known=("takes_fix", "source"),
        )
        source = found.raw("source")
        return found.boolean("takes_fix"), None if source is None else Digest.parse(source, where=self._entry)
