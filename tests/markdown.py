"""The fenced blocks of the pages, so that a test can do what a page has its reader do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_FENCE = re.compile(r"(?:<!-- ([^\n]*?) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its lines, and the HTML comment above it."""

    language: str
    lines: list[str]
    note: str

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)


def page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def section(text: str, heading: str) -> str:
    """Return what stands under the heading, up to the next one of its level."""
    level = heading.split(" ", 1)[0]
    found = re.search(rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of every row of every table, without the heads."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    heads = [at - 1 for at, cells in enumerate(found) if all(set(cell) <= {"-", ":"} for cell in cells)]
    return [cells for at, cells in enumerate(found) if at not in heads and at - 1 not in heads]


def terms(text: str) -> list[str]:
    """Return what stands in backticks in the first column of the tables."""
    return [term for cells in rows(text) for term in re.findall(r"`([^`]+)`", cells[0])]


def blocks(text: str) -> list[Block]:
    """Return every fenced block, in order."""
    return [Block(found[2], found[3].splitlines(), found[1] or "") for found in _FENCE.finditer(text)]
