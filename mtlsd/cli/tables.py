"""How the command shows things: tables that fit a terminal, and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from mtlsd.audit.events import rfc3339
from mtlsd.explain import Explanation
from mtlsd.identity import GRANT_DIGITS, LOOKUP_DIGITS
from mtlsd.policy import Reason
from mtlsd.registry.knock import Knock
from mtlsd.registry.records import Authorization, Tombstone
from mtlsd.text import days_left, printable, shortened

SOON = timedelta(days=30)
_GAP = "  "
_LEAST_NAME = 12
#: The columns of `mtlsd history`.
HISTORY_HEADS = ("TIME (UTC)", "EVENT", "CLIENT", "FINGERPRINT", "ACTOR", "DETAIL")
_LEAST_DETAIL = 16
_DAY = len("2026-11-23")
_MOST_SUBJECT = 60

_IN_WORDS = {
    Reason.UNKNOWN_CERTIFICATE: "nobody has authorized it",
    Reason.REVOKED: "it was revoked",
    Reason.EXPIRED: "it has expired",
    Reason.NOT_YET_VALID: "it is not valid yet",
    Reason.WEAK_KEY: "its key is too weak, or of a kind that is not used",
    Reason.TOO_LARGE: "it is too large",
}


def clients_table(clients: Iterable[Authorization], now: datetime, width: int | None) -> str:
    """Return the table of clients, in lines of at most *width* characters (``None``: as long as it takes).

    In a narrow terminal the words about days, the kind of key and half of the fingerprint give way before names do.
    """
    rows = [(client, client.certificate) for client in clients]
    names = ["NAME", *(client.client for client, _ in rows)]
    keys = ["KEY", *(certificate.key.label for _, certificate in rows)]
    long = ["FINGERPRINT", *(certificate.fingerprint[:GRANT_DIGITS] for _, certificate in rows)]
    # As many digits as a lookup takes: shortened, a fingerprint is still good for `mtlsd revoke --fingerprint`.
    short = ["PRINT", *(certificate.fingerprint[:LOOKUP_DIGITS] for _, certificate in rows)]
    worded = ["EXPIRES", *(_expiry(client, now, words=True) for client, _ in rows)]
    terse = ["EXPIRES", *(_expiry(client, now, words=False) for client, _ in rows)]
    layouts = ([long, keys, worded], [long, keys, terse], [long, terse], [short, terse])
    if width is None:
        return table([names, *layouts[0]])
    wanted = max(map(len, names))
    room = 0
    columns: list[list[str]] = []
    for number, layout in enumerate(layouts):
        room, columns = width - sum(max(map(len, column)) + len(_GAP) for column in layout), layout
        # Words are worth less than a name, the other columns more than a long one.
        if room >= (wanted if number == 0 else min(wanted, _LEAST_NAME)):
            break
    fitted = [shortened(name, max(room, 1)) for name in names]
    return "\n".join(shortened(line, width) for line in table([fitted, *columns]).splitlines())


def history_table(rows: Iterable[Sequence[str]], width: int | None) -> list[str]:
    """Return the lines of the table of events, heads first, of at most *width* characters each (``None``: any).

    In a narrow terminal the actor, the time of the day and half of the fingerprint give way before names do; the detail
    takes what is left, and goes where that is next to nothing.
    """
    times, events, clients, long, actors, details = zip(HISTORY_HEADS, *rows, strict=True)
    if width is None:
        return table([times, events, clients, long, actors, details]).splitlines()
    days = ["DAY", *(time[:_DAY] for time in times[1:])]
    short = ["PRINT", *(one[:LOOKUP_DIGITS] for one in long[1:])]
    wanted, detail = max(map(len, clients)), min(max(map(len, details)), _LEAST_DETAIL) + len(_GAP)
    room = 0
    front: Sequence[Sequence[str]] = ()
    back: Sequence[Sequence[str]] = ()
    for front, back, with_detail in (
        ((times, events), (long, actors), True),
        ((times, events), (long,), True),
        ((days, events), (long,), True),
        ((days, events), (short,), True),
        ((days, events), (short,), False),
    ):
        if not with_detail:
            detail = 0
        room = width - sum(max(map(len, column)) + len(_GAP) for column in (*front, *back)) - detail
        if room >= min(wanted, _LEAST_NAME):
            break
    fitted = [shortened(client, max(room, 1)) for client in clients]
    columns = [*front, fitted, *back, *([details] if detail else [])]
    return [shortened(line, width) for line in table(columns).splitlines()]


def clients_json(clients: Iterable[Authorization], folder: Path, now: datetime) -> list[dict[str, object]]:
    """Return the list of ``mtlsd clients --json``; its keys are a contract.  ``file`` counts from *folder*."""
    shown = printable(str(folder)) + "/"
    return [
        {
            "name": client.client,
            "fingerprint": client.certificate.fingerprint,
            "key_type": client.certificate.key.label,
            "subject": client.certificate.subject,
            "not_before": rfc3339(client.certificate.not_before),
            "not_after": rfc3339(client.certificate.not_after),
            "ends": rfc3339(client.ends),
            "on_grace": client.on_grace(now),
            "groups": list(client.groups),
            "file": client.file.removeprefix(shown),
        }
        for client in clients
    ]


def knocks_table(knocks: Iterable[Knock], width: int | None) -> str:
    """Return the table of who has knocked, in lines of at most *width* characters (``None``: as long as it takes).

    In a narrow terminal the first time gives way, then the last one, then the address, before the subject is cut short.  The
    fingerprint stays: 16 digits of it are what `mtlsd approve` takes.
    """
    rows = list(knocks)
    prints = ["FINGERPRINT", *(knock.certificate.fingerprint[:GRANT_DIGITS] for knock in rows)]
    subjects = ["CLAIMS TO BE", *(knock.certificate.subject or "(no subject)" for knock in rows)]
    addresses = ["FROM", *(knock.address for knock in rows)]
    first = ["FIRST", *(f"{knock.first:%Y-%m-%d %H:%M}" for knock in rows)]
    last = ["LAST", *(f"{knock.last:%Y-%m-%d %H:%M}" for knock in rows)]
    counts = ["COUNT", *(f"{knock.count}" for knock in rows)]
    layouts = ([addresses, first, last, counts], [addresses, last, counts], [addresses, counts], [counts])
    wanted = min(max(map(len, subjects)), _MOST_SUBJECT)
    room, columns = wanted, layouts[0]
    if width is not None:
        for layout in layouts:
            columns = layout
            room = width - sum(max(map(len, column)) + len(_GAP) for column in (prints, *layout))
            if room >= min(wanted, _LEAST_NAME):
                break
    fitted = [shortened(subject, max(min(room, wanted), 1)) for subject in subjects]
    lines = table([prints, fitted, *columns]).splitlines()
    return "\n".join(lines if width is None else (shortened(line, width) for line in lines))


def knocks_json(knocks: Iterable[Knock]) -> list[dict[str, object]]:
    """Return the list of ``mtlsd pending --json``; its keys are a contract."""
    return [
        {
            "fingerprint": knock.certificate.fingerprint,
            "key_type": knock.certificate.key.label,
            "subject": knock.certificate.subject,
            "not_before": rfc3339(knock.certificate.not_before),
            "not_after": rfc3339(knock.certificate.not_after),
            "address": knock.address,
            "first": rfc3339(knock.first),
            "last": rfc3339(knock.last),
            "count": knock.count,
        }
        for knock in knocks
    ]


def knock_text(knock: Knock) -> str:
    """Return what an operator has to see before a certificate is let in."""
    certificate, count = knock.certificate, knock.count
    times = "once" if count == 1 else f"{count:,} times"
    lines = [
        f"fingerprint  {certificate.fingerprint}",
        f"key          {certificate.key.label}",
        f"valid        {certificate.not_before:%Y-%m-%d %H:%M} to {certificate.not_after:%Y-%m-%d %H:%M} UTC",
        f"claims to be {shortened(certificate.subject, 500) or '(nobody)'}",
        f"knocked      {times}, first from {knock.address}, {knock.first:%Y-%m-%d %H:%M} to {knock.last:%Y-%m-%d %H:%M} UTC",
    ]
    return "\n".join(lines)


def explanation_text(explanation: Explanation) -> str:
    """Return the lines of ``mtlsd explain``."""
    certificate, standing = explanation.certificate, explanation.standing
    if explanation.accepted:
        lines = [f"yes, as {explanation.client}"]
    else:
        words = _IN_WORDS[explanation.reason]
        if isinstance(standing, Tombstone):
            words += f", as {standing.client}" if standing.client else ""
            words += f", {standing.time}" if standing.time else ""
            words += f": {standing.reason}" if standing.reason else ""
        lines = [f"no ({explanation.reason}): {words}"]
        if explanation.client is not None:
            lines.append(f"client       {explanation.client}")
    lines += [
        f"fingerprint  {certificate.fingerprint}",
        f"subject      {shortened(certificate.subject, 500) or '(none)'}",
        f"key          {certificate.key.label}",
        f"valid        {certificate.not_before:%Y-%m-%d %H:%M} to {certificate.not_after:%Y-%m-%d %H:%M} UTC",
    ]
    if isinstance(standing, Authorization) and standing.ends != certificate.not_after:
        lines.append(f"let in until {standing.ends:%Y-%m-%d %H:%M} UTC, by its NAME.toml")
    if explanation.remedy is not None:
        lines.append(f"remedy       {explanation.remedy}")
    return "\n".join(lines)


def table(columns: Sequence[Sequence[str]]) -> str:
    """Return columns, each with its heading, as lines."""
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    )


def _expiry(client: Authorization, now: datetime, *, words: bool) -> str:
    day, left = f"{client.ends:%Y-%m-%d}", client.ends - now
    if left < timedelta():
        return f"{day} EXPIRED" if words else "EXPIRED"
    on_grace = client.on_grace(now)
    if not words:
        return "ON GRACE" if on_grace else day
    told = [*(["on grace"] if on_grace else []), *([days_left(left)] if left < SOON else [])]
    return f"{day} ({', '.join(told)})" if told else day
