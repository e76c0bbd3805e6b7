"""Names of a product line, a model and a version, and the TUF target paths made of them.

The one owner of the path rules of DESIGN 4. Names are limited so that no path, URL or file name built from them
can climb, collide by case or be read differently by two programs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from device_client.errors import FormatError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_RESERVED_VERSIONS = frozenset({"channel"})


def check_name(value: object, *, what: str, where: str = "name") -> str:
    """Returns ``value`` if it is a legal name.

    Raises:
        FormatError: not 1 to 64 characters of ``[a-z0-9._-]`` that begin with a letter or digit, or containing ``..``.
    """
    if not isinstance(value, str) or not _NAME.match(value) or ".." in value:
        raise FormatError(
            f"not a legal {what}",
            code="name_syntax",
            where=where,
            expected="1 to 64 of [a-z0-9._-], first a letter or digit, no '..'",
            actual=repr(value)[:90],
        )
    return value


@dataclass(frozen=True, order=True)
class ModelPath:
    """A model of a product line, written ``line/model``."""

    line: str
    model: str

    def __post_init__(self) -> None:
        check_name(self.line, what="line")
        check_name(self.model, what="model")

    @classmethod
    def parse(cls, text: str) -> ModelPath:
        """Reads ``line/model``.

        Raises:
            FormatError: not exactly two legal names.
        """
        parts = text.split("/")
        if len(parts) != 2:
            raise FormatError("not a model path", code="name_syntax", expected="LINE/MODEL", actual=repr(text)[:90])
        return cls(parts[0], parts[1])

    @property
    def channel_target(self) -> str:
        """TUF target path of the channel document."""
        return f"release/{self.line}/{self.model}/channel.json"

    @property
    def release_role(self) -> str:
        """The delegated role that releases this line."""
        return f"release-{self.line}"

    @property
    def audit_role(self) -> str:
        """The delegated role that audits this line."""
        return f"audit-{self.line}"

    def __str__(self) -> str:
        return f"{self.line}/{self.model}"


@dataclass(frozen=True, order=True)
class BundlePath:
    """One version of a model, written ``line/model/version``."""

    line: str
    model: str
    version: str

    def __post_init__(self) -> None:
        check_name(self.line, what="line")
        check_name(self.model, what="model")
        check_name(self.version, what="version")
        if self.version in _RESERVED_VERSIONS:
            raise FormatError("not a legal version", code="name_syntax", actual=self.version)

    @property
    def of_model(self) -> ModelPath:
        """The model that this is a version of."""
        return ModelPath(self.line, self.model)

    @property
    def release_target(self) -> str:
        """TUF target path under which the release role lists the manifest."""
        return f"release/{self.line}/{self.model}/{self.version}.json"

    @property
    def audit_target(self) -> str:
        """TUF target path under which the audit role lists the same manifest."""
        return f"audit/{self.line}/{self.model}/{self.version}.json"

    def __str__(self) -> str:
        return f"{self.line}/{self.model}/{self.version}"
