"""References from signed records to blobs: a digest with the length that the reader will not exceed."""

from __future__ import annotations

from dataclasses import dataclass

from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields
from device_client.limits import DEFAULT_LIMITS


@dataclass(frozen=True)
class BlobRef:
    """A blob named by signed metadata; ``length`` in bytes, read to exactly that size."""

    digest: Digest
    length: int

    @classmethod
    def of(cls, data: bytes) -> BlobRef:
        """The reference to ``data``."""
        return cls(Digest.of(data), len(data))

    @classmethod
    def from_json(cls, value: object, where: str) -> BlobRef:
        """Reads ``{"digest": "sha256:...", "length": n}``; a closed schema."""
        fields = Fields(value, where=where, known=("digest", "length"))
        return cls(
            Digest.parse(fields.raw("digest"), where=f"{where}.digest"),
            fields.integer("length", minimum=1, maximum=DEFAULT_LIMITS.max_blob_bytes),
        )

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        return {"digest": str(self.digest), "length": self.length}
