"""A reference from a manifest to a blob: media type, digest and exact size.

A closed form of the OCI descriptor. Fields that could bring bytes from elsewhere (``urls``), bring them inline
(``data``) or select by platform are refused, so that a digest and a size are all there is to check.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from device_client.bundle import media_types
from device_client.bundle.digest import Digest
from device_client.bundle.fields import Fields, shown
from device_client.errors import FormatError

MAX_ANNOTATIONS = 32
_FORBIDDEN = ("urls", "data", "platform", "artifactType")
_KNOWN = ("mediaType", "digest", "size", "annotations")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}\Z")
_ANNOTATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,127}\Z")


@dataclass(frozen=True)
class Descriptor:
    """A blob that a signed document names; ``size`` in bytes, ``annotations`` sorted by name."""

    media_type: str
    digest: Digest
    size: int
    annotations: tuple[tuple[str, str], ...] = ()

    def annotation(self, name: str) -> str | None:
        """The value of an annotation, or ``None``."""
        return dict(self.annotations).get(name)

    @classmethod
    def from_json(cls, value: object, where: str) -> Descriptor:
        """Reads a descriptor.

        Raises:
            FormatError: a forbidden, unknown, missing or ill-typed field, a digest that is not sha256, an annotation
                of ours that we do not know.
        """
        refuse_forbidden(value, _FORBIDDEN, where=where)
        fields = Fields(value, where=where, known=_KNOWN)
        media_type = fields.text("mediaType", max_chars=255)
        if not _MEDIA_TYPE.match(media_type):
            raise FormatError("not a media type", code="field_value", where=f"{where}.mediaType", actual=repr(media_type)[:80])
        return cls(
            media_type,
            Digest.parse(fields.raw("digest"), where=f"{where}.digest"),
            fields.integer("size", minimum=1),
            read_annotations(fields),
        )

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        value: dict[str, object] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        return value


def read_annotations(fields: Fields) -> tuple[tuple[str, str], ...]:
    """The optional ``annotations`` of a manifest or descriptor, sorted by name.

    Raises:
        FormatError: not a map of short strings, more than ``MAX_ANNOTATIONS``, or a name under ``org.sealift.`` that this
            reader does not know.
    """
    if "annotations" not in fields:
        return ()
    found = fields.mapping("annotations", _read_annotation, max_items=MAX_ANNOTATIONS)
    ours = (media_types.ANNOTATION_VARIANT, media_types.ANNOTATION_ENCODING)
    for name in found:
        if not _ANNOTATION.match(name):
            raise FormatError("not an annotation name", code="field_value", where=f"{fields.where}.annotations", actual=shown(name))
        if name.startswith(media_types.ANNOTATION_PREFIX) and name not in ours:
            raise FormatError("unknown annotation", code="annotation_unknown", where=f"{fields.where}.annotations", actual=name)
    return tuple(sorted(found.items()))


def refuse_forbidden(value: object, names: tuple[str, ...], *, where: str) -> None:
    """Refuses fields that OCI allows and Sealift does not, with a code of their own."""
    for name in names:
        if isinstance(value, dict) and name in value:
            raise FormatError(
                f"'{name}' is not allowed in a bundle",
                code="field_forbidden",
                where=where,
                hint="build the bundle with `sealift pack`; do not edit or convert it",
            )


def _read_annotation(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > 1024:
        raise FormatError("wrong type", code="field_type", where=where, expected="a string of at most 1024 characters")
    return value
