"""Writes the test vectors of the bundle format: same bytes on every machine; a test compares them with the files.

    python -m tests.vectors.generate            # rewrites tests/vectors/{manifest,contract,config,bundle,codebook}/*.vec

Imports nothing of Sealift, so that a bug in our writer cannot move the vectors along with it. The form of a vector is
in ``tests/vectors/README.md``. Vectors of a released format are never edited or removed; new ones are added.
"""

from __future__ import annotations

from pathlib import Path

from .bundles import bundle_vectors
from .codebooks import codebook_vectors
from .contracts import contract_vectors
from .manifests import config_vectors, manifest_vectors

HERE = Path(__file__).parent


def all_vectors() -> dict[str, bytes]:
    """Every vector by its path below this folder."""
    kinds = {
        "manifest": manifest_vectors,
        "contract": contract_vectors,
        "config": config_vectors,
        "bundle": bundle_vectors,
        "codebook": codebook_vectors,
    }
    return {f"{kind}/{name}.vec": data for kind, make in kinds.items() for name, data in make().items()}


def main() -> None:
    for name, data in all_vectors().items():
        path = HERE / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()
