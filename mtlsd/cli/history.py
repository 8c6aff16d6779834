"""``mtlsd history``: reads the ledger back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

import click

from mtlsd.cli import shared
from mtlsd.cli.group import DONE, complain
from mtlsd.cli.tables import HISTORY_HEADS, history_table
from mtlsd.identity import GRANT_DIGITS, LOOKUP_DIGITS, parse_fingerprint
from mtlsd.registry.ledger import Entry, History
from mtlsd.text import columns, printable, shortened

#: Rows whose columns are measured together.  A ledger may have millions: they are neither kept nor waited for.
_ROWS = 1000


@click.command(short_help="What was changed, when, by whom.", epilog="Example: mtlsd history alice --since 7d")
@click.argument("name", required=False)
@click.option(
    "--fingerprint",
    metavar="F",
    callback=shared.checked(lambda text: parse_fingerprint(text, LOOKUP_DIGITS)),
    help="Only events of certificates that begin with these 8 digits or more.",
)
@shared.duration("--since", "Only events of this last stretch of time")
@shared.as_json
@shared.certs
def history(name: str | None, fingerprint: str | None, since: timedelta | None, as_json: bool, certs: Path) -> int:
    """What was changed, when and by whom, as the ledger has it, the newest last; with NAME, only what concerns that client.

    The keys of --json are those of the audit log (docs/events.md).
    """
    ledger = History(certs)
    begin = None if since is None else shared.now() - since
    entries = (entry for entry in ledger if _wanted(entry, name, fingerprint, begin))
    count = _print_json(entries) if as_json else _print_table(entries, shared.width())
    if ledger.damaged:
        lines = "1 line is" if ledger.damaged == 1 else f"{ledger.damaged:,} lines are"
        complain(f"{ledger.path}: {lines} no event, the first is line {ledger.first_damaged}; the rest is shown")
    if not count and not as_json:
        complain("nothing of that is recorded" if name or fingerprint or since else "nothing is recorded yet")
    return DONE


def _wanted(entry: Entry, name: str | None, fingerprint: str | None, begin: datetime | None) -> bool:
    return (
        (begin is None or entry.time >= begin)
        and (name is None or entry.told.get("client") == name)
        and (fingerprint is None or (entry.text("fingerprint") or "").startswith(fingerprint))
    )


def _print_json(entries: Iterable[Entry]) -> int:
    """Print a list, an event a line, while the ledger is being read."""
    count = 0
    for entry in entries:
        # ASCII, whatever stands in the ledger: nothing of it reaches the terminal raw.
        click.echo(("," if count else "[") + "\n  " + json.dumps(entry.told, ensure_ascii=True), nl=False)
        count += 1
    click.echo("\n]" if count else "[]")
    return count


def _print_table(entries: Iterator[Entry], width: int | None) -> int:
    """Print the table, some rows at a time, each with columns at least as wide as those before."""
    count = 0
    widest = HISTORY_HEADS
    while part := [_row(entry) for entry in islice(entries, _ROWS)]:
        lines = history_table([widest, *part], width)
        # The row of the widest only measures, and the heads are printed once.
        click.echo("\n".join(lines[2:] if count else [lines[0], *lines[2:]]))
        widest = tuple(max(column, key=columns) for column in zip(widest, *part, strict=True))
        count += len(part)
    return count


def _row(entry: Entry) -> tuple[str, ...]:
    return (
        f"{entry.time:%Y-%m-%d %H:%M:%S}",
        _shown(entry.event),
        _shown(entry.text("client")),
        _shown(entry.text("fingerprint"))[:GRANT_DIGITS],
        _shown(entry.text("actor")),
        _shown(", ".join(filter(None, (entry.text("detail") or entry.text("reason"), _whence(entry))))),
    )


def _whence(entry: Entry) -> str | None:
    """Return from where a client has joined or renewed, for the operator to wonder at."""
    peer = entry.told.get("peer")
    address = peer.get("address") if isinstance(peer, dict) else None
    return f"from {address}" if isinstance(address, str) else None


def _shown(text: str | None) -> str:
    # A cell is never longer than this, or one mad line would make all others wide.
    return shortened(printable(text), 300) if text else "-"
