"""From what each client's files claim to who is authorized: no certificate belongs to two.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import MappingProxyType

from mtlsd.registry.clients import Client
from mtlsd.registry.problems import Problem
from mtlsd.registry.records import Authorization, Snapshot, Tombstone


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
    authorized = dict(known.authorized)
    concerned = {one for one in tombstones.keys() | known.tombstones.keys() if tombstones.get(one) != known.tombstones.get(one)}
    for name in touched & old.keys():
        for claim in old[name].claims:
            del authorized[claim.certificate.fingerprint]
            concerned.add(claim.certificate.fingerprint)
    for name in touched & new.keys():
        for claim in new[name].claims:
            if authorized.setdefault(claim.certificate.fingerprint, claim) is not claim:
                return None
            concerned.add(claim.certificate.fingerprint)
    found = _snapshot(authorized, tombstones)
    return found, frozenset(
        one
        for one in concerned
        if known.authorized.get(one) != authorized.get(one) or known.tombstones.get(one) != tombstones.get(one)
    )


def _snapshot(authorized: dict[str, Authorization], tombstones: Mapping[str, Tombstone]) -> Snapshot:
    return Snapshot(MappingProxyType(authorized), MappingProxyType(dict(tombstones)))


def _contest(claims: list[Authorization], fingerprint: str, held: Authorization | None) -> Problem:
    others = ", ".join(claim.file for claim in claims[1:])
    follows = "it authorizes neither" if held is None else f"it stays with {held.client}, who had it first"
    return Problem(claims[0].file, f"certificate {fingerprint[:16]} is in {others} as well; {follows}: take it out of one")
