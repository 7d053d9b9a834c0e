"""Findings of the doctor, and their order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from avsync._checks import check_choice

SEVERITIES = ("error", "warning", "note")
"""An error makes a training fail or its result wrong; a warning may; a note is good to know."""
_NAMED = 5  # clips that a message names before it counts the rest


@dataclass(frozen=True)
class Finding:
    """Error, warning or note of the doctor.

    Attributes:
        severity: "error", "warning" or "note".
        code: A short name that scripts may rely on, such as "misaligned".
        message: Description of the fault and the remedy.
        clips: Ids of the clips or names of the speakers concerned; empty if the finding concerns all.
        numbers: Measurements that the finding is based on.

    Example:
        >>> print(Finding("warning", "silence", "nobody speaks", clips=("a", "b")))
        warning (silence): nobody speaks [a, b]

    Source: ours.
    """

    severity: str
    code: str
    message: str
    clips: tuple[str, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the severity."""
        check_choice("severity", self.severity, SEVERITIES)

    def __str__(self) -> str:
        """Return the finding as one line."""
        named = ", ".join(self.clips[:_NAMED]) + (f" and {len(self.clips) - _NAMED} more" if len(self.clips) > _NAMED else "")
        return f"{self.severity} ({self.code}): {self.message}" + (f" [{named}]" if named else "")


def by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort findings: errors, then warnings, then notes, each in the given order."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))
