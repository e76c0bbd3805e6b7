"""What the attacks of a run found, before it becomes findings: identities, and images from outside under relabellings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from audits.retrieval.identity import Gallery, Retrieval
from audits.retrieval.masking import Masking
from audits.retrieval.relabelled import Table
from audits.retrieval.sights import Seen


@dataclass(frozen=True)
class Identities:
    """What images retrieved.

    Attributes:
        gallery: of the held-outs; None where a class has none, or the test does not run.
        retrieved: by subject and attack.
        masking: by subject.
        no_gradient: by subject, why the white-box attacks could not be made; None where they were.
    """

    gallery: Gallery | None
    retrieved: Mapping[str, Mapping[str, Retrieval]]
    masking: Mapping[str, Masking]
    no_gradient: Mapping[str, str | None]

    def strongest(self, subject: str) -> tuple[str, Retrieval]:
        """The attack that retrieved most; the first of equals."""
        return max(self.retrieved[subject].items(), key=lambda item: item[1].retrieved)


@dataclass(frozen=True)
class Outside:
    """Attacks from outside: the images, and how relabelled memberships judge them; ``thin`` says why they cannot."""

    seen: Mapping[str, Seen]
    table: Table
    thin: str | None
