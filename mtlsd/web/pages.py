"""The page at ``/``: tells a person in a browser who they are to this server.

No script and nothing from elsewhere: the page is one answer, and its policy allows its own style alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import resources

from twisted.python.failure import Failure
from twisted.web.iweb import IRequest, ITemplateLoader
from twisted.web.template import Element, Flattenable, Tag, XMLString, flattenString, renderer, tags

from mtlsd.identity import Certificate, Identity
from mtlsd.text import days_left, printable

#: With this much left, or less, the end of a certificate stands out.
_SOON = timedelta(days=14)

#: A name longer than this is set smaller.
_LONG_NAME = 16


class HomePage:
    """Makes the page for a client."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        """*now* returns the wall-clock time, aware."""
        folder = resources.files("mtlsd.web")
        self._now = now
        self._style = folder.joinpath("page.css").read_text("utf-8")
        self._template = XMLString(folder.joinpath("page.xml").read_text("utf-8"))
        digest = base64.b64encode(hashlib.sha256(self._style.encode()).digest()).decode("ascii")
        #: The Content-Security-Policy that the page needs, and nothing more.
        self.policy = (
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    def html(self, peer: Identity) -> bytes:
        """Return the page for *peer*, UTF-8."""
        return b"<!DOCTYPE html>\n" + _flat(_Page(self._template, self._style, peer, self._now()))


class _Page(Element):
    """The template's parts that depend on the client.  The template escapes all text."""

    def __init__(self, loader: ITemplateLoader, style: str, peer: Identity, now: datetime) -> None:
        super().__init__(loader)
        self._style = style
        self._peer = peer
        self._now = now

    def render(self, request: IRequest | None) -> Flattenable:
        peer = self._peer
        loaded = super().render(request)
        return tags.transparent(loaded).fillSlots(
            style=self._style,
            client=peer.client,
            name=_breakable(peer.client),
            length="long" if len(peer.client) > _LONG_NAME else "short",
            subject=printable(peer.certificate.subject) or "(empty)",
            key=peer.certificate.key.label,
            version=peer.tls.version.replace("TLSv", "TLS "),
            cipher=peer.tls.cipher or "unknown",
            group=peer.tls.group or "unknown",
            session="resumed" if peer.tls.resumed else "new",
        )

    @renderer
    def groups(self, request: IRequest | None, tag: Tag) -> Flattenable:
        if not self._peer.groups:
            return ""
        return tags.ul([tags.li(printable(group)) for group in self._peer.groups], class_="groups", **{"aria-label": "Groups"})

    @renderer
    def fingerprint(self, request: IRequest | None, tag: Tag) -> Flattenable:
        # In fours for the eye; copied, it is one run of digits, as every command takes it.
        digits = self._peer.certificate.fingerprint
        groups = [digits[at : at + 4] for at in range(0, len(digits), 4)]
        return tags.span([(tags.span(group), tags.wbr()) for group in groups], class_="fingerprint")

    @renderer
    def validity(self, request: IRequest | None, tag: Tag) -> Flattenable:
        certificate = self._peer.certificate
        left = certificate.not_after - self._now
        soon = left <= _SOON
        return [
            tags.span(time_left(left), class_="left soon" if soon else "left"),
            _bar(percent_left(certificate, self._now), soon),
            tags.span(_date(certificate.not_before), " to ", _date(certificate.not_after), class_="span"),
        ]


def time_left(left: timedelta) -> str:
    """Return how long a certificate is still valid, in words."""
    if left < timedelta(0):
        # Let in all the same, for the operator has given it grace.
        return "Ended; let in for a period of grace"
    if left < timedelta(days=1):
        return "Less than a day left"
    return days_left(left)


def percent_left(certificate: Certificate, now: datetime) -> int:
    """Return how much of a certificate's life is still to come, in percent, 0 to 100."""
    life = certificate.not_after - certificate.not_before
    if life <= timedelta(0):
        return 0
    return round(100 * min(1.0, max(0.0, (certificate.not_after - now) / life)))


def _bar(percent: int, soon: bool) -> Flattenable:
    # A drawing, not a style attribute: the policy allows none of those.  It repeats what the text says, so it is hidden
    # from a screen reader.
    svg = Tag("svg", attributes={"viewBox": "0 0 100 1", "preserveAspectRatio": "none", "aria-hidden": "true"})
    svg.attributes["class"] = "life soon" if soon else "life"
    return svg(Tag("rect", attributes={"width": str(percent), "height": "1"})())


def _breakable(name: str) -> Flattenable:
    """Return *name* with places to break a line at: a host's name is wider than a phone."""
    first, *rest = name.split(".")
    return [first, [(".", tags.wbr(), part) for part in rest]]


def _date(moment: datetime) -> Flattenable:
    utc = moment.astimezone(UTC)
    return tags.time(f"{utc:%Y-%m-%d %H:%M} UTC", datetime=f"{utc:%Y-%m-%dT%H:%M:%SZ}", class_="date")


def _flat(element: Element) -> bytes:
    """Return the bytes of an element that waits for nothing."""
    pages: list[bytes] = []
    failures: list[Failure] = []
    flattenString(None, element).addCallbacks(pages.append, failures.append)
    for failure in failures:
        failure.raiseException()
    return pages[0]
