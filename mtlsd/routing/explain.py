"""What would become of a request, and why: the same rules, asked ahead of time.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from mtlsd.routing.paths import PathError, canonical
from mtlsd.routing.rules import RESERVED, Route, Routed, Rules, Upstream

_OWN = RESERVED.encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """``destination`` is who would get the request; ``None``: it is refused.

    ``status`` is what the door would answer by itself, ``None`` where it is not the door that answers, or where nobody does.
    """

    client: str
    groups: tuple[str, ...]
    method: str
    path: str
    route: Route | None
    status: HTTPStatus | None
    reason: str
    destination: str | None

    @property
    def allowed(self) -> bool:
        return self.destination is not None

    @property
    def upgrade(self) -> bool:
        """Whether it may ask for another protocol on its connection."""
        return (
            self.allowed
            and self.method == "GET"
            and self.route is not None
            and isinstance(self.route.destination, Upstream)
            and self.route.destination.upgrade
        )

    def as_dict(self) -> dict[str, object]:
        """Return the JSON object of ``mtlsd route --json``; its keys are a contract."""
        route = self.route
        return {
            "allowed": self.allowed,
            "status": None if self.status is None else int(self.status),
            "reason": self.reason,
            "client": self.client,
            "groups": list(self.groups),
            "method": self.method,
            "path": self.path,
            "route": None if route is None else {"number": route.number, "path": route.path.decode("ascii") or "/"},
            "destination": self.destination,
            "upgrade": self.upgrade,
        }

    def as_text(self) -> str:
        """Return it as one line for a person."""
        if self.allowed:
            upgrade = ", also to be upgraded" if self.upgrade else ""
            return f"allowed: {self.client} {self.method} {self.path} goes to {self.destination}{upgrade} ({self.reason})"
        status = "" if self.status is None else f" with {int(self.status)}"
        return f"refused{status}: {self.client} {self.method} {self.path}: {self.reason}"


def answered(rules: Rules, client: str, own: tuple[str, ...], method: str, target: str) -> Answer:
    """Tell what would become of a request for *target* (a path, with or without a query).

    *own* are the groups that *client* has in the registry.
    """
    groups = rules.groups_of(client, own)
    path, _, _ = target.partition("?")
    try:
        spelled = canonical(path.encode("utf-8", "surrogateescape"))
    except PathError as error:
        return Answer(client, groups, method, path, None, HTTPStatus.BAD_REQUEST, str(error), None)
    shown = spelled.decode("ascii")
    if not rules.routes or spelled == _OWN or spelled.startswith(_OWN + b"/"):
        own_pages = "there are no routes" if not rules.routes else f"{RESERVED} is for every authorized client"
        return Answer(client, groups, method, shown, None, None, own_pages, "mtlsd's own pages")
    ruling = rules.rule(client, groups, method.encode("utf-8", "surrogateescape"), spelled)
    if isinstance(ruling, Routed):
        route = ruling.route
        reason = f"{route.label} allows {route.allow}"
        return Answer(client, groups, method, shown, route, None, reason, str(route.destination))
    return Answer(client, groups, method, shown, ruling.route, ruling.status, ruling.reason, None)
