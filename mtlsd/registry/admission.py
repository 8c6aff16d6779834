"""Many certificates, taken in as one change: who comes in, under which name, who is in already, and who is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import count

from mtlsd.errors import CertificateError, Refused
from mtlsd.identity import Certificate, is_client_name
from mtlsd.registry.bundle import Offer, free_name
from mtlsd.registry.room import Room
from mtlsd.registry.terms import Terms
from mtlsd.text import printable


class Outcome(StrEnum):
    """What becomes of an offer.  The values are a contract: scripts read them in ``--json``."""

    AUTHORIZED = "authorized"
    THERE = "there"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of one offer: under which name (for a refused one, that which was wanted), and what there is to say."""

    offer: Offer
    outcome: Outcome
    client: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to each offer, in their order; ``problems`` tell what went wrong after the change, which stands."""

    answers: tuple[Answer, ...]
    problems: tuple[str, ...] = ()

    def count(self, outcome: Outcome) -> int:
        """Return how many offers came to this."""
        return sum(answer.outcome is outcome for answer in self.answers)


#: Refuses a certificate that must not be authorized, or returns what the operator should know.
Check = Callable[[Certificate, bytes, str, Terms], list[str]]


@dataclass(slots=True)
class Judgement:
    """Offers, looked at one after another with what the room knows.  Nothing is changed.

    ``texts`` are what the clients' files are to hold, by name.
    """

    room: Room
    add: bool
    check: Check
    answers: list[Answer] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)
    _tried: dict[str, int] = field(default_factory=dict)
    _coming: dict[str, list[Offer]] = field(default_factory=dict)
    _seen: dict[str, str] = field(default_factory=dict)

    def of(self, offers: Sequence[Offer]) -> list[Answer]:
        """Return the answer to each."""
        # Names that the operator has written go before those that are made.
        self._names = {offer.name for offer in offers if offer.given}
        answers = [self._answer(offer) for offer in offers]
        refused = {name: why for name, coming in self._coming.items() if (why := self._text(name, coming))}
        return [
            replace(answer, outcome=Outcome.REFUSED, notes=(refused[answer.client],))
            if answer.client in refused and answer.offer.fingerprint in self._seen
            else answer
            for answer in answers
        ]

    def _answer(self, offer: Offer) -> Answer:
        try:
            return self._considered(offer)
        except Refused as error:
            return Answer(offer, Outcome.REFUSED, printable(offer.name), (str(error),))

    def _considered(self, offer: Offer) -> Answer:
        leaf, known = offer.leaf, self.room.seen.snapshot
        if leaf is None:
            raise Refused(offer.flaw)
        standing = known.authorized.get(leaf.fingerprint)
        if standing is not None and leaf.fingerprint not in known.tombstones:
            return Answer(offer, Outcome.THERE, standing.client, ("it is authorized already",))
        before = self._seen.get(leaf.fingerprint)
        if before is not None:
            if offer.given and offer.name != before:
                raise Refused(f"it comes in as {before} already, and one certificate is one client")
            return Answer(offer, Outcome.THERE, before, ("it is there twice",))
        if offer.given and not is_client_name(offer.name):
            raise Refused(
                f"{printable(offer.name)!r} is no client's name: up to 64 letters, digits and . _ @ -, a letter or digit first"
            )
        name = offer.name if offer.given else self._free(offer.name)
        terms, notes = self.room.terms(name)
        notes += self.check(leaf, offer.der, name, terms)
        if name != offer.name:
            notes.append(f"the name {offer.name} is taken")
        self._names.add(name)
        self._seen[leaf.fingerprint] = name
        self._coming.setdefault(name, []).append(offer)
        return Answer(offer, Outcome.AUTHORIZED, name, tuple(notes))

    def _free(self, name: str) -> str:
        """Return a name that nobody has, nobody is to get, and no terms wait for.

        What a certificate says of itself is its maker's claim: it must not come by groups that the operator has written
        down for somebody of that name.
        """
        for nth in count(self._tried.get(name, 1)):
            tried = free_name(name, nth)
            if tried not in self._names and not any(self.room.authorized.has(tried + end) for end in (".pem", ".toml")):
                self._tried[name] = nth
                return tried
        raise AssertionError("there is always another number")

    def _text(self, name: str, coming: Sequence[Offer]) -> str | None:
        """Make the text of a client's file; return why it cannot be."""
        try:
            self.texts[name] = self.room.text_with(name, [offer.der for offer in coming], self.add)
        except (Refused, CertificateError) as error:
            return str(error)
        return None
