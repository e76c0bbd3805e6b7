"""What the demo found, for people and for machines. Holds measured values only."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class AttackOutcome:
    """One attack and its control.

    Attributes:
        refused: the device refused, with exactly the expected code.
        still_inferring: the old model answered afterwards, and it was still the old one.
        control_installed: with the defect removed, the same path installed.
    """

    name: str
    holds: str
    expected_code: str
    code: str | None
    refused: bool
    still_inferring: bool
    control_installed: bool


@dataclass
class Report:
    """The whole demo. Accuracies are shares in [0, 1] on held-out digits; intervals are 95 %."""

    accuracy: dict[str, Any] = field(default_factory=dict)
    size: dict[str, Any] = field(default_factory=dict)
    latency_ratio: dict[str, Any] = field(default_factory=dict)
    golden: dict[str, Any] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)
    attacks: list[AttackOutcome] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def attacks_refused(self) -> int:
        """Attacks refused with their code while the old model went on."""
        return sum(item.refused and item.still_inferring for item in self.attacks)

    @property
    def controls_installed(self) -> int:
        """Controls that installed."""
        return sum(item.control_installed for item in self.attacks)

    @property
    def codes_distinct(self) -> bool:
        """Every attack was refused with a code of its own."""
        codes = [item.code for item in self.attacks]
        return None not in codes and len(set(codes)) == len(codes)

    @property
    def ok(self) -> bool:
        """Everything that the demo promises was seen."""
        total = len(self.attacks)
        return (
            total == 7
            and self.attacks_refused == total
            and self.controls_installed == total
            and self.codes_distinct
            and self.accuracy["drop"]["value"] <= 0.01
            and self.size["ratio"] > 3
            and set(self.audit["verdicts"].values()) == {"PASSED"}
        )

    def to_json(self) -> dict[str, object]:
        """The report as one flat object."""
        return {
            "ok": self.ok,
            "accuracy": self.accuracy,
            "size": self.size,
            "latency_ratio": self.latency_ratio,
            "golden": self.golden,
            "audit": self.audit,
            "device": self.device,
            "attacks": [vars(item) for item in self.attacks],
            "attacks_refused": self.attacks_refused,
            "controls_installed": self.controls_installed,
            "seconds": round(self.seconds, 1),
        }

    def summary(self) -> str:
        """A few lines for a person."""
        before, after, drop = (100 * self.accuracy[name]["value"] for name in ("before", "after", "drop"))
        low, high = (100 * end for end in self.accuracy["drop"]["interval"])
        sizes = f"{self.size['before']} -> {self.size['after']} bytes"
        verdicts = ", ".join(f"{variant} {verdict}" for variant, verdict in self.audit["verdicts"].items())
        total = len(self.attacks)
        return "\n".join(
            [
                f"accuracy   {before:.2f} % -> {after:.2f} %, drop {drop:.2f} points [{low:.2f}, {high:.2f}]",
                f"size       {sizes}, {self.size['ratio']:.2f} times smaller",
                f"audit      {verdicts} ({self.audit['network']} network)",
                f"attacks    {self.attacks_refused} of {total} refused with a code of their own, the old model still inferring",
                f"controls   {self.controls_installed} of {total} installed once the defect was removed",
                f"time       {self.seconds:.0f} s",
            ]
        )

    def by_hand(self, folder: Path, *, url: str) -> list[str]:
        """Commands to go on with, as typed in a shell; the device knows the server under ``url``."""
        here = shlex.quote(str(folder))
        sign = "--role release-digits --key file:keys/release-a.key --token-file tokens/release-digits.token"
        programs = Path(sys.executable).parent
        found = shutil.which("sealift")
        path = [] if found and Path(found).parent == programs else [f"  export PATH={shlex.quote(str(programs))}:$PATH"]
        serve = f"sealift server serve --data server --port {url.rpartition(':')[2]}"
        return [
            f"  cd {here}",
            *path,
            f"  SEALIFT_PASSPHRASE_FILE=secrets/online {serve} >> server.log 2>&1 &",
            "  sealift inspect bundles/1.1.0",
            "  sealift keys show --repo ceremony",
            "  sealift device status --dir device",
            "  sealift device infer --dir device --model digits/mlp --input samples.npz --output answers.npz",
            "  sealift device poll --dir device",
            f"  sealift pack models/{self.audit['network']}-1.1.0.onnx --data demo.digits:pack_data --recipe recipe.toml \\",
            "      --line digits --name mlp --version 2.0.0 --counter 0.100 --out bundles/2.0.0",
            f"  SEALIFT_PASSPHRASE_FILE=secrets/release-a sealift sign bundles/2.0.0 --repo {url} {sign}",
            f"  xdg-open {here}/audit/1.1.0/report.html",
        ]
