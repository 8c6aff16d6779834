"""From what each client's files claim to who is authorized: no certificate belongs to two.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from mtlsd.registry.clients import Client
from mtlsd.registry.problems import Problem
from mtlsd.registry.records import Authorization, Snapshot, Tombstone

_Record = TypeVar("_Record")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the claims of all clients come to.

    ``problems`` is what there is to say of certificates that several clients claim; ``contested`` tells whether there
    are any, also those of which there is nothing to say.
    """

    snapshot: Snapshot
    problems: tuple[Problem, ...] = ()
    contested: bool = False


def combined(clients: Mapping[str, Client], tombstones: Mapping[str, Tombstone], before: Snapshot) -> Outcome:
    """Put together what all clients claim.  A certificate that two of them claim stays with the one who had it."""
    authorized: dict[str, Authorization] = {}
    contested: dict[str, list[Authorization]] = {}
    for client in clients.values():
        for claim in client.claims:
            fingerprint = claim.certificate.fingerprint
            first = authorized.setdefault(fingerprint, claim)
            if first is not claim:
                contested.setdefault(fingerprint, [first]).append(claim)
    problems: list[Problem] = []
    for fingerprint, claims in contested.items():
        holder = before.authorized.get(fingerprint)
        held = next((claim for claim in claims if holder is not None and claim.client == holder.client), None)
        if held is None:
            del authorized[fingerprint]
        else:
            authorized[fingerprint] = held
        # A file that is being renamed is under both names for a moment, and that is nobody's mistake.
        if not any(fingerprint in clients[claim.client].going for claim in claims):
            problems.append(_contest(sorted(claims, key=lambda claim: claim.client), fingerprint, held))
    return Outcome(_snapshot(authorized, tombstones), tuple(problems), bool(contested))


def amended(
    known: Snapshot,
    old: Mapping[str, Client],
    new: Mapping[str, Client],
    touched: AbstractSet[str],
    tombstones: Mapping[str, Tombstone],
) -> tuple[Snapshot, frozenset[str]] | None:
    """Return the snapshot after a change of the *touched* clients alone, and the fingerprints whose standing differs.

    *known* is what :func:`combined` made of the *old* clients, none of whose certificates was contested.  ``None``
    where one is now, so that all claims have to be compared.
    """
    was = {claim.certificate.fingerprint: claim for name in touched & old.keys() for claim in old[name].claims}
    now: dict[str, Authorization] = {}
    for name in touched & new.keys():
        for claim in new[name].claims:
            fingerprint = claim.certificate.fingerprint
            if fingerprint in now or (fingerprint in known.authorized and fingerprint not in was):
                return None
            now[fingerprint] = claim
    moved = {one for one in was.keys() | now.keys() if was.get(one) != now.get(one)}
    buried: set[str] = set()
    if tombstones is not known.tombstones:
        both = tombstones.keys() | known.tombstones.keys()
        buried = {one for one in both if tombstones.get(one) != known.tombstones.get(one)}
    authorized = known.authorized
    if moved:
        fresh = _copied(authorized)
        # In its place: what is taken out first leaves a hole, and a dictionary with holes is copied six times as slowly.
        fresh.update((one, now[one]) for one in moved & now.keys())
        for one in moved - now.keys():
            del fresh[one]
        authorized = fresh
    return _snapshot(authorized, tombstones), frozenset(moved | buried)


def _copied(authorized: Mapping[str, Authorization]) -> dict[str, Authorization]:
    # By its own method: dict() would ask a view for its entries one by one, which takes ten times as long.
    return authorized.copy() if isinstance(authorized, MappingProxyType) else dict(authorized)


def _snapshot(authorized: Mapping[str, Authorization], tombstones: Mapping[str, Tombstone]) -> Snapshot:
    return Snapshot(_view(authorized), _view(tombstones))


def _view(records: Mapping[str, _Record]) -> Mapping[str, _Record]:
    # Whoever made them changes them no more, so they are not copied.
    return records if isinstance(records, MappingProxyType) else MappingProxyType(records)


def _contest(claims: list[Authorization], fingerprint: str, held: Authorization | None) -> Problem:
    others = ", ".join(claim.file for claim in claims[1:])
    follows = "it authorizes neither" if held is None else f"it stays with {held.client}, who had it first"
    return Problem(claims[0].file, f"certificate {fingerprint[:16]} is in {others} as well; {follows}: take it out of one")
