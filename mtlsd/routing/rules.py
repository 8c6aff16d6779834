"""Who may ask for what: a decision on a client, a method and a canonical path.  Pure.

The route with the longest path that matches decides alone.  Fails closed: what no route names is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from mtlsd.routing.namedheaders import NamedHeaders
from mtlsd.routing.paths import alike

#: In ``allow``: every authorized client.
EVERYONE = "*"
#: In ``allow``, before the name of a group.
GROUP = "group:"
#: What TRACE tells back to a client are the headers that the door has added (RFC 9110 9.3.8); CONNECT would be a tunnel.
NOT_PASSED_ON = (b"CONNECT", b"TRACE")
#: Below this path mtlsd answers itself, where there are routes.
RESERVED = "/.mtlsd"

_SLASH = b"/"


def is_tunnel(method: bytes, target: bytes) -> bool:
    """Tell whether a request asks for a tunnel to another server (RFC 9110 9.3.6): it names one, and no path."""
    return method == b"CONNECT" and not target.startswith(_SLASH)


@dataclass(frozen=True, slots=True)
class Static:
    """Files of a folder; ``listing``: whether a folder without an index page is listed."""

    folder: Path
    listing: bool = False

    def __str__(self) -> str:
        return f"the files in {self.folder}"


@dataclass(frozen=True, slots=True)
class Wsgi:
    """A WSGI application (PEP 3333): ``module:name``."""

    name: str

    def __str__(self) -> str:
        return f"the WSGI application {self.name}"


@dataclass(frozen=True, slots=True)
class Made:
    """A twisted.web resource that ``module:name`` makes when it is called."""

    name: str

    def __str__(self) -> str:
        return f"the resource of {self.name}"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server behind the door listens: ``host`` and ``port``, or the ``path`` of a unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"http+unix:{self.path}"
        return f"http://{self.authority}"

    @property
    def authority(self) -> str:
        """What a request to it says in Host where its client has said nothing."""
        if self.path is not None:
            return "localhost"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Upstream:
    """Servers behind the door, which take turns.  Times are seconds.

    ``connect_timeout`` is for a connection to one of them, ``response_timeout`` from the whole request to the head of its
    answer, ``idle_timeout`` for each further byte of it.  ``strip_prefix``: the route's path is taken off before.
    ``upgrade``: another protocol may take HTTP's place on the connection, if the server agrees (RFC 9110 7.8).
    """

    targets: tuple[Target, ...]
    strip_prefix: bool = False
    connect_timeout: float = 5.0
    response_timeout: float = 60.0
    idle_timeout: float = 60.0
    upgrade: bool = False

    def __str__(self) -> str:
        return " or ".join(map(str, self.targets))


Destination: TypeAlias = Static | Wsgi | Made | Upstream


@dataclass(frozen=True, slots=True)
class Allow:
    """Who a route is for: everyone who is authorized, or clients by name and by group."""

    everyone: bool = False
    clients: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    @classmethod
    def of(cls, entries: Iterable[str]) -> Allow:
        """Read the entries of ``allow``: ``*``, ``group:NAME`` and names of clients."""
        entries = tuple(entries)
        return cls(
            EVERYONE in entries,
            frozenset(entry for entry in entries if entry != EVERYONE and not entry.startswith(GROUP)),
            frozenset(entry.removeprefix(GROUP) for entry in entries if entry.startswith(GROUP)),
        )

    def admits(self, client: str, groups: Iterable[str]) -> bool:
        """Tell whether *client*, a member of *groups*, is meant."""
        return self.everyone or client in self.clients or not self.groups.isdisjoint(groups)

    def __str__(self) -> str:
        if self.everyone:
            return EVERYONE
        return ", ".join([*sorted(self.clients), *(f"{GROUP}{group}" for group in sorted(self.groups))]) or "nobody"


@dataclass(frozen=True, slots=True)
class Route:
    """One rule.  ``path`` is canonical and without a slash at its end (``/`` is empty); ``methods`` ``None``: any.

    ``strip`` are the headers that are taken out of a request, besides those by which a client could say who it is.
    ``number`` is its place in the file, from 0.
    """

    number: int
    path: bytes
    allow: Allow
    destination: Destination
    methods: frozenset[bytes] | None = None
    strip: NamedHeaders | None = None

    def takes(self, method: bytes) -> bool:
        """Tell whether it may be asked with *method*."""
        methods = self.methods
        # RFC 9110 9.3.2: HEAD asks for what GET would say.
        return methods is None or method in methods or (method == b"HEAD" and b"GET" in methods)

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"route[{self.number}] {self.path.decode('ascii') or '/'}"

    def below(self, path: bytes) -> bytes:
        """Return what comes behind this route's path in the canonical *path* that it matches, whose spelling may be another."""
        if path.startswith(self.path):
            return path[len(self.path) :]
        depth = self.path.count(_SLASH)
        return b"".join(_SLASH + segment for segment in path.split(_SLASH)[depth + 1 :])


@dataclass(frozen=True, slots=True)
class Routed:
    """The request may go where ``route`` leads."""

    route: Route


@dataclass(frozen=True, slots=True)
class Turned:
    """The request is turned away: a status, what decided it, and for 405 what could be asked instead."""

    status: HTTPStatus
    reason: str
    route: Route | None = None
    methods: tuple[bytes, ...] = ()


Ruling: TypeAlias = Routed | Turned


@dataclass(frozen=True)
class Rules:
    """Every route, and the clients of each group that the configuration names."""

    routes: tuple[Route, ...] = ()
    groups: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))

    @cached_property
    def _by_path(self) -> Mapping[bytes, Route]:
        return {alike(route.path): route for route in self.routes}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._by_path), default=0)

    @cached_property
    def _memberships(self) -> Mapping[str, tuple[str, ...]]:
        of: dict[str, list[str]] = {}
        for group, clients in self.groups.items():
            for client in clients:
                of.setdefault(client, []).append(group)
        return {client: tuple(groups) for client, groups in of.items()}

    def groups_of(self, client: str, own: tuple[str, ...]) -> tuple[str, ...]:
        """Return the groups of *client*: its *own*, as the registry has them, and those of the configuration."""
        more = self._memberships.get(client)
        return own if more is None else tuple(dict.fromkeys((*own, *more)))

    def match(self, path: bytes) -> Route | None:
        """Return the route with the longest path that is *path* (canonical) or whole segments of its beginning.

        In whatever spelling: the application behind `/@keys` takes `/%40keys` for the same, so this must not go by its rule.
        """
        path = alike(path)
        by_path = self._by_path
        if len(path) <= self._longest:
            found = by_path.get(path)
            if found is not None:
                return found
        end = path.rfind(_SLASH, 0, self._longest + 1)
        while end >= 0:
            found = by_path.get(path[:end])
            if found is not None:
                return found
            end = path.rfind(_SLASH, 0, end)
        return None

    def rule(self, client: str, groups: tuple[str, ...], method: bytes, path: bytes) -> Ruling:
        """Decide on a request of *client*, a member of *groups* (all of them), for a canonical *path*.

        Whoever is not allowed does not learn which methods there are.
        """
        route = self.match(path)
        if route is None:
            return Turned(HTTPStatus.FORBIDDEN, "no route has this path")
        if not route.allow.admits(client, groups):
            return Turned(HTTPStatus.FORBIDDEN, f"{route.label} allows {route.allow}", route)
        methods = route.methods
        if methods is None or route.takes(method):
            return Routed(route)
        known = methods | {b"HEAD"} if b"GET" in methods else methods
        names = ", ".join(sorted(name.decode("ascii") for name in methods))
        return Turned(HTTPStatus.METHOD_NOT_ALLOWED, f"{route.label} takes {names}", route, tuple(sorted(known)))

    def objection(self, client: str, groups: tuple[str, ...], path: bytes, target: Target) -> str | None:
        """Return why a connection that was upgraded to another protocol may not go on, ``None``: it may.

        *client*, a member of *groups*, asked for *path* (canonical) with GET, for nothing else is upgraded, and was
        connected to *target*.
        """
        ruling = self.rule(client, groups, b"GET", path)
        if isinstance(ruling, Turned):
            return ruling.reason
        route = ruling.route
        if not isinstance(route.destination, Upstream) or target not in route.destination.targets:
            return f"{route.label} leads to {route.destination}"
        return None if route.destination.upgrade else f"{route.label} has no upgrade = true"
