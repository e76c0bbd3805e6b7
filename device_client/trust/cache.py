"""The folder in which python-tuf keeps metadata between refreshes: disposable, and cleared of what does not belong there."""

from __future__ import annotations

import logging
import shutil
import stat
from pathlib import Path

logger = logging.getLogger(__name__)


def clear_strangers(cache: Path) -> None:
    """Makes the cache folder, and takes out of it what python-tuf did not put there: it holds files, and one link.

    A folder or a link in a file's place would fail every poll, a pipe would hang it (F06).

    Raises:
        OSError: it cannot be made or cleared.
    """
    if not cache.is_dir():
        cache.unlink(missing_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    history = cache / "root_history"
    if history.is_symlink() or not history.is_dir():
        history.unlink(missing_ok=True)
    for entry in [*cache.iterdir(), *(history.iterdir() if history.is_dir() else ())]:
        kind = entry.lstat().st_mode
        if stat.S_ISREG(kind) or entry == history or (entry == cache / "root.json" and stat.S_ISLNK(kind)):
            continue
        logger.warning("removed from the metadata cache: %r", entry.name)
        shutil.rmtree(entry) if stat.S_ISDIR(kind) else entry.unlink()
