"""How the command shows things: tables that fit a terminal, and JSON."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from mtlsd.audit.events import rfc3339
from mtlsd.enrol.invite import Invite
from mtlsd.errors import CertificateError
from mtlsd.explain import Explanation
from mtlsd.identity import GRANT_DIGITS, LOOKUP_DIGITS, Certificate
from mtlsd.keys import hosts_in
from mtlsd.policy import Reason
from mtlsd.registry.knock import Knock
from mtlsd.registry.records import Authorization, Tombstone
from mtlsd.text import columns, cut, days_left, printable, shortened

SOON = timedelta(days=30)
_GAP = "  "
_LEAST_NAME = 12
#: The columns of `mtlsd history`.
HISTORY_HEADS = ("TIME (UTC)", "EVENT", "CLIENT", "FINGERPRINT", "ACTOR", "DETAIL")
_DAY = len("2026-11-23")
_INDENT = "    "
_WHOLE_PRINT = re.compile(r"\b[0-9a-f]{64}\b")
#: Columns of an IPv6 address that are shown before times give way: its network.
_LEAST_ADDRESS = 20
_MOST_SUBJECT = 500

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
    shown: list[list[str]] = []
    for number, layout in enumerate(layouts):
        room, shown = width - sum(max(map(len, column)) + len(_GAP) for column in layout), layout
        # Words are worth less than a name, the other columns more than a long one.
        if room >= (wanted if number == 0 else min(wanted, _LEAST_NAME)):
            break
    fitted = [shortened(name, max(room, 1)) for name in names]
    return "\n".join(shortened(line, width) for line in table([fitted, *shown]).splitlines())


def history_table(rows: Iterable[Sequence[str]], width: int | None) -> list[str]:
    """Return the rows of the table of events, heads first, whose lines are of at most *width* columns each (``None``: any).

    In a narrow terminal the actor, the time of the day and half of the fingerprint give way before names do.  A detail that finds
    no room beside the rest stands below it, whole.
    """
    times, events, clients, long, actors, details = zip(HISTORY_HEADS, *rows, strict=True)
    details = tuple(_WHOLE_PRINT.sub(lambda found: found[0][:GRANT_DIGITS], detail) for detail in details)
    if width is None:
        return table([times, events, clients, long, actors, details]).splitlines()
    days = ["DAY", *(time[:_DAY] for time in times[1:])]
    short = ["PRINT", *(one[:LOOKUP_DIGITS] for one in long[1:])]
    wanted, room = max(map(columns, clients)), 0
    front: Sequence[Sequence[str]] = ()
    back: Sequence[Sequence[str]] = ()
    for front, back in (
        ((times, events), (long, actors)),
        ((times, events), (long,)),
        ((days, events), (long,)),
        ((days, events), (short,)),
    ):
        room = width - sum(max(map(columns, column)) + len(_GAP) for column in (*front, *back))
        if room >= min(wanted, _LEAST_NAME):
            break
    fitted = [cut(client, max(room, 1)) for client in clients]
    lines = table([*front, fitted, *back], padded=True).splitlines()
    return [_with_detail(line, detail, width) for line, detail in zip(lines, details, strict=True)]


def _with_detail(line: str, detail: str, width: int) -> str:
    beside = f"{line}{_GAP}{detail}"
    if columns(beside) <= width:
        return beside
    line = cut(line.rstrip(), width)
    if detail in ("-", HISTORY_HEADS[-1]):
        return line
    # A character may take two columns, which textwrap does not know of.
    breadth = max(width, 2 * len(_INDENT)) // (1 if detail.isascii() else 2)
    return "\n".join([line, *textwrap.wrap(detail, breadth, initial_indent=_INDENT, subsequent_indent=_INDENT)])


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
    """Return the table of who has knocked, in lines of at most *width* columns (``None``: as long as it takes).

    In a narrow terminal the first time gives way, then the end of a long address, then the last time, then the address.  The
    fingerprint stays: 16 digits of it are what `mtlsd approve` takes.  The subject is a stranger's: it stands last, so that letters
    that are wide, or written from right to left, move nothing else.
    """
    rows = list(knocks)
    prints = ["FINGERPRINT", *(knock.certificate.fingerprint[:GRANT_DIGITS] for knock in rows)]
    subjects = ["CLAIMS TO BE", *(knock.certificate.subject or "(no subject)" for knock in rows)]
    addresses = ["FROM", *(knock.address for knock in rows)]
    networks = [cut(address, _LEAST_ADDRESS) for address in addresses]
    first = ["FIRST", *(f"{knock.first:%Y-%m-%d %H:%M}" for knock in rows)]
    last = ["LAST", *(f"{knock.last:%Y-%m-%d %H:%M}" for knock in rows)]
    counts = ["COUNT", *(f"{knock.count}" for knock in rows)]
    layouts = (
        [addresses, first, last, counts],
        [addresses, last, counts],
        [networks, last, counts],
        [networks, counts],
        [counts],
    )
    room, shown = _MOST_SUBJECT, layouts[0]
    if width is not None:
        for layout in layouts:
            shown = layout
            room = width - sum(max(map(columns, column)) + len(_GAP) for column in (prints, *layout))
            if room >= min(max(map(columns, subjects)), _LEAST_NAME):
                break
    lines = table([prints, *shown, [cut(subject, max(room, 1)) for subject in subjects]]).splitlines()
    return "\n".join(lines if width is None else (cut(line, width) for line in lines))


def invites_table(invites: Iterable[Invite], width: int | None) -> str:
    """Return the table of who is invited, in lines of at most *width* columns (``None``: as long as it takes).

    In a narrow terminal the groups are cut, then who has invited goes, then names are cut.
    """
    rows = list(invites)
    names = ["NAME", *(one.name for one in rows)]
    until = ["UNTIL (UTC)", *(f"{one.expires:%Y-%m-%d %H:%M}" for one in rows)]
    actors = ["BY", *(printable(one.actor) for one in rows)]
    groups = ["GROUPS", *(", ".join(one.groups) or "-" for one in rows)]
    if width is None:
        return table([names, until, actors, groups])
    wanted, room = max(map(columns, names)), 0
    back: list[list[str]] = []
    for back in ([until, actors], [until]):
        room = width - sum(max(map(columns, column)) + len(_GAP) for column in back) - len(_GAP) - _LEAST_NAME
        if room >= wanted:
            break
    fitted = [cut(name, max(room, _LEAST_NAME)) for name in names]
    return "\n".join(cut(line, width) for line in table([fitted, *back, groups]).splitlines())


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


def trusted_table(ders: Iterable[bytes], now: datetime, width: int | None) -> str:
    """Return the table of a server's certificates (DER) that a client trusts, in lines of at most *width* columns."""
    rows = [(Certificate.from_der(der), der) for der in ders]
    prints = ["FINGERPRINT", *(certificate.fingerprint[:GRANT_DIGITS] for certificate, _ in rows)]
    until = [
        "UNTIL",
        *(f"{certificate.not_after:%Y-%m-%d}{' EXPIRED' if certificate.not_after < now else ''}" for certificate, _ in rows),
    ]
    names = ["NAMES", *(", ".join(_names_in(der)) or "-" for _, der in rows)]
    lines = table([prints, until, names]).splitlines()
    return "\n".join(lines if width is None else (cut(line, width) for line in lines))


def trusted_json(ders: Iterable[bytes]) -> list[dict[str, object]]:
    """Return the list of a server's certificates in ``mtlsd trust --json``; its keys are a contract."""
    rows = [(Certificate.from_der(der), der) for der in ders]
    return [
        {
            "fingerprint": certificate.fingerprint,
            "key_type": certificate.key.label,
            "names": _names_in(der),
            "not_before": rfc3339(certificate.not_before),
            "not_after": rfc3339(certificate.not_after),
        }
        for certificate, der in rows
    ]


def _names_in(der: bytes) -> list[str]:
    try:
        hosts = hosts_in(der)
    except CertificateError:
        return []
    return [*hosts.names, *hosts.addresses, *([hosts.common_name] if hosts.common_name else [])]


def knock_text(knock: Knock) -> str:
    """Return what an operator has to see before a certificate is let in."""
    certificate, count = knock.certificate, knock.count
    times = f"once, at {knock.last:%Y-%m-%d %H:%M} UTC"
    if count > 1:
        times = f"{count:,} times, {knock.first:%Y-%m-%d %H:%M} to {knock.last:%Y-%m-%d %H:%M} UTC"
    lines = [
        f"fingerprint  {certificate.fingerprint}",
        f"key          {certificate.key.label}",
        f"valid        {certificate.not_before:%Y-%m-%d %H:%M} to {certificate.not_after:%Y-%m-%d %H:%M} UTC",
        f"claims to be {shortened(certificate.subject, 500) or '(nobody)'}",
        f"knocked      {times}",
        f"first from   {knock.address}",
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


def table(cells: Sequence[Sequence[str]], *, padded: bool = False) -> str:
    """Return columns, each with its heading, as lines; *padded*: all of them as long as the longest."""
    widths = [max(map(columns, column)) for column in cells]
    lines = (
        _GAP.join(cell + " " * (width - columns(cell)) for cell, width in zip(row, widths, strict=True))
        for row in zip(*cells, strict=True)
    )
    return "\n".join(lines if padded else map(str.rstrip, lines))


def _expiry(client: Authorization, now: datetime, *, words: bool) -> str:
    day, left = f"{client.ends:%Y-%m-%d}", client.ends - now
    if left < timedelta():
        return f"{day} EXPIRED" if words else "EXPIRED"
    on_grace = client.on_grace(now)
    if not words:
        return "ON GRACE" if on_grace else day
    told = [
        *(["replaced"] if client.replaced else []),
        *(["on grace"] if on_grace else []),
        *([days_left(left)] if left < SOON else []),
    ]
    return f"{day} ({', '.join(told)})" if told else day
