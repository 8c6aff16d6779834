"""One client's files, and what of them is in force: a pure step from one look at them to the next.

``cp`` truncates a file before it writes it, and ``git checkout`` and ``install`` remove it first.  A registry that
believed each look would cut a client off, or forget when it retires, because somebody copied the very same file
once more.  So a loss, and a change of terms, is believed only after it has stood for :data:`SETTLE` seconds.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, TypeVar

from mtlsd.identity import Certificate
from mtlsd.registry.problems import Problem, Severity
from mtlsd.registry.records import Authorization
from mtlsd.registry.terms import Terms

#: Seconds for which a file has to have lost something before that is believed.
SETTLE = 0.2
# A timer that is set for the rest of the time may come a rounding error early.
_ROUNDING = 0.001

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class Reading(Generic[Content]):
    """What one look at a file found.

    ``signature`` is ``b""`` for a file that is not there, and ``None`` for one that has to be read again at the next
    look.  ``content`` is ``None`` where there is an ``error``; ``refused`` tells a file that is not to be trusted
    (what it said before counts no more) from one that is damaged or cannot be read (what it said before stays).
    """

    signature: bytes | None
    content: Content | None
    error: str | None = None
    refused: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Client:
    """What is known of ``NAME.pem`` and ``NAME.toml``.

    ``claims`` are the authorizations in force under this name (unless another client holds the certificate);
    ``going`` are those of them that the PEM no longer has, by fingerprint, with the time of the loss; ``terms`` are
    those in force, and ``terms_since`` is when the file began to say otherwise.
    """

    pem: Reading[tuple[Certificate, ...]]
    toml: Reading[Terms]
    claims: tuple[Authorization, ...] = ()
    going: Mapping[str, float] = field(default_factory=lambda: _NONE_GOING)
    terms: Terms | None = None
    terms_since: float | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def settled(self) -> bool:
        return self.terms_since is None and not self.going

    @property
    def held(self) -> frozenset[str]:
        """The fingerprints of what stands in the PEM, in force or not."""
        return frozenset(leaf.fingerprint for leaf in self.pem.content or ())

    @property
    def claims_all(self) -> bool:
        """Whether there is nothing in the PEM that is not claimed."""
        return self.held <= {claim.certificate.fingerprint for claim in self.claims}

    def again_in(self, now: float) -> float | None:
        """Return the seconds after which another look will tell more, or ``None``."""
        times = list(self.going.values())
        if self.terms_since is not None:
            times.append(self.terms_since)
        return None if not times else max(_ROUNDING, SETTLE - (now - min(times)))


_NONE_GOING: Mapping[str, float] = MappingProxyType({})
_NO_CERTIFICATES: Reading[tuple[Certificate, ...]] = Reading(b"", ())


def gone() -> Reading[tuple[Certificate, ...]]:
    """Return the reading of a PEM file that is not there."""
    return _NO_CERTIFICATES


def believed(since: float, now: float) -> bool:
    """Tell whether what began at *since* has stood long enough.  Both are seconds of one monotonic clock."""
    return now - since >= SETTLE - _ROUNDING


def stepped(
    name: str,
    file: str,
    before: Client | None,
    pem: Reading[tuple[Certificate, ...]],
    toml: Reading[Terms],
    now: float,
    tombstones: Container[str],
) -> Client:
    """Return the state of client *name* after a look at its files.

    *file* is the shown path of the PEM; *now* is seconds of a monotonic clock; a loss that has a tombstone is believed
    at once.  Parts of *before* that are unchanged are the same objects afterwards.
    """
    problems = _problems(file, pem, toml, before)
    if pem.refused or toml.refused:
        return Client(pem, toml, problems=problems)
    old = {claim.certificate.fingerprint: claim for claim in before.claims} if before else {}
    terms, terms_since = _terms(before if old else None, toml, now)
    certificates, going = _certificates(old, before, pem, now, tombstones)
    if terms is None:
        certificates = {}
    elif terms is not toml.content:
        # New certificates wait for the terms under which they come: their retirement may be among them.
        certificates = {fingerprint: kept for fingerprint, kept in certificates.items() if fingerprint in old}
    claims = (
        tuple(_claim(name, file, certificate, terms, old, certificates) for certificate in certificates.values()) if terms else ()
    )
    if before and claims == before.claims:
        claims = before.claims
    return Client(pem, toml, claims, going, terms, terms_since, problems)


def _terms(before: Client | None, toml: Reading[Terms], now: float) -> tuple[Terms | None, float | None]:
    in_force = before.terms if before else None
    if toml.content is None:
        return in_force, None
    if before is None or in_force is None or in_force == toml.content:
        return toml.content, None
    # Half of a TOML file can be a whole one with less in it.  So it has to have said the same all the time.
    since = before.terms_since
    if since is None or before.toml.content != toml.content:
        since = now
    return (toml.content, None) if believed(since, now) else (in_force, since)


def _certificates(
    old: Mapping[str, Authorization],
    before: Client | None,
    pem: Reading[tuple[Certificate, ...]],
    now: float,
    tombstones: Container[str],
) -> tuple[dict[str, Certificate], Mapping[str, float]]:
    """Return what is to be authorized, and what of it is going, since when."""
    if pem.content is None:
        return {fingerprint: claim.certificate for fingerprint, claim in old.items()}, _NONE_GOING
    certificates = {certificate.fingerprint: certificate for certificate in pem.content}
    lost = [fingerprint for fingerprint in old if fingerprint not in certificates and fingerprint not in tombstones]
    going: dict[str, float] = {}
    for fingerprint in lost:
        since = before.going.get(fingerprint, now) if before else now
        if not believed(since, now):
            going[fingerprint] = since
            certificates[fingerprint] = old[fingerprint].certificate
    return certificates, going or _NONE_GOING


def _claim(
    name: str,
    file: str,
    certificate: Certificate,
    terms: Terms,
    old: Mapping[str, Authorization],
    held: Container[str],
) -> Authorization:
    ends = terms.ends(certificate.fingerprint, certificate.not_after)
    before = terms.renewed.get(certificate.fingerprint)
    retires = before if before is not None and before in held and before not in terms.retire else None
    replaced = certificate.fingerprint in terms.retire and any(
        of == certificate.fingerprint and new in held for new, of in terms.renewed.items()
    )
    claim = Authorization(name, certificate, ends, terms.groups, file, retires, replaced)
    known = old.get(certificate.fingerprint)
    return known if known is not None and known == claim else claim


def _problems(
    file: str, pem: Reading[tuple[Certificate, ...]], toml: Reading[Terms], before: Client | None
) -> tuple[Problem, ...]:
    if pem.error is None and toml.error is None and not pem.warnings and not toml.warnings:
        return ()
    follows = "what it authorized before stays" if before and before.claims else "it authorizes nobody"
    problems = []
    reading: Reading[tuple[Certificate, ...]] | Reading[Terms]
    for path, reading in ((file, pem), (file.removesuffix(".pem") + ".toml", toml)):
        if reading.refused:
            problems.append(Problem(path, f"refused, so the client is not authorized: {reading.error}"))
        elif reading.error is not None:
            problems.append(Problem(path, f"{reading.error}; {follows}"))
        problems += [Problem(path, warning, Severity.WARNING) for warning in reading.warnings]
    return tuple(problems)
