"""What is wrong with the operator's folder, as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """An error keeps somebody out, or keeps a change from taking force; a warning does neither."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: with which file, and what (the cause, what follows, what to do).

    Both are printable text on one line.
    """

    file: str
    cause: str
    severity: Severity = Severity.ERROR

    @property
    def text(self) -> str:
        return f"{self.file}: {self.cause}"
