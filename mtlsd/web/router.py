"""From a request to the resource that answers it, where there is a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes as unquote

from twisted.logger import Logger
from twisted.web.resource import IResource

from mtlsd.applications import found, told
from mtlsd.config import ConfigError
from mtlsd.errors import SettingsError
from mtlsd.identity import Identity
from mtlsd.proxy.backend import Backends
from mtlsd.proxy.exchange import Exchange
from mtlsd.routing.paths import PathError, canonical
from mtlsd.routing.rules import (
    NOT_PASSED_ON,
    RESERVED,
    Destination,
    Made,
    Routed,
    Rules,
    Static,
    Target,
    Upstream,
    Wsgi,
    is_tunnel,
)
from mtlsd.text import shortened
from mtlsd.web.application import Application
from mtlsd.web.claims import without_claims
from mtlsd.web.files import Files
from mtlsd.web.message import Message
from mtlsd.web.request import METHODS, Request

_OWN = RESERVED.encode()
_BELOW_OWN = _OWN + b"/"
#: Identities that are kept with the groups that the configuration gives them.
_MOST_JOINED = 1024
#: Characters of a path that are logged.
_SHOWN = 200


class Router:
    """The rules in force, and the resource of each route.  A reload makes another one, and swaps it in whole."""

    _log = Logger()

    def __init__(self, rules: Rules, resources: Mapping[Destination, IResource], own: IResource, backends: Backends) -> None:
        """*own* is mtlsd's own tree: below ``/.mtlsd`` where there are routes, at ``/`` where there are none.

        *backends* are the servers behind the door; those that no route has any more are let go.
        """
        self.rules = rules
        self._resources = resources
        self._own = own
        self._backends = backends
        # Of these rules, and only for as long as they are in force.
        self._joined: dict[int, tuple[Identity, Identity]] = {}
        targets = [
            target for route in rules.routes if isinstance(route.destination, Upstream) for target in route.destination.targets
        ]
        #: Whether any route leads to a server behind the door.
        self.has_upstreams = bool(targets)
        backends.keep_only(targets)

    def joined(self, identity: Identity) -> Identity:
        """Return *identity* with the groups that the configuration gives it too."""
        known = self._joined.get(id(identity))
        if known is not None and known[0] is identity:
            return known[1]
        groups = self.rules.groups_of(identity.client, identity.groups)
        if groups is identity.groups:
            return identity
        joined = replace(identity, groups=groups)
        if len(self._joined) >= _MOST_JOINED:
            self._joined.clear()
        # The identity is held, so that its id is no other's.
        self._joined[id(identity)] = identity, joined
        return joined

    def exchange(self, channel: Any, message: Message, identity: Identity) -> Exchange | None:
        """Return the exchange for a request that may be passed on; ``None`` for any other, refusals too."""
        try:
            path = canonical(message.target.partition(b"?")[0])
        except PathError:
            return None
        route = self.rules.match(path)
        if route is None or not isinstance(route.destination, Upstream) or path == _OWN or path.startswith(_BELOW_OWN):
            return None
        if message.method in NOT_PASSED_ON:
            return None
        identity = self.joined(identity)
        # As Rules.rule has it, with the route that is found already.
        if not route.allow.admits(identity.client, identity.groups) or not route.takes(message.method):
            return None
        return Exchange(channel, message, identity, path, route, route.destination, self._backends)

    def turns_away(self, message: Message, identity: Identity) -> bool:
        """Tell whether a request will be refused by the rules, whatever is in its body: that needs not come, then."""
        if not self.rules.routes:
            return False
        try:
            path = canonical(message.target.partition(b"?")[0])
        except PathError:
            return True
        if path == _OWN or path.startswith(_BELOW_OWN):
            return False
        identity = self.joined(identity)
        return not isinstance(self.rules.rule(identity.client, identity.groups, message.method, path), Routed)

    def is_own(self, target: bytes) -> bool:
        """Tell whether a request for *target* is for mtlsd's own tree."""
        if not self.rules.routes:
            return True
        try:
            path = canonical(target.partition(b"?")[0])
        except PathError:
            # It is turned away.
            return False
        return path == _OWN or path.startswith(_BELOW_OWN)

    def objection(self, identity: Identity, path: bytes, target: Target) -> str | None:
        """Return why a connection that was upgraded may not go on: see :meth:`~mtlsd.routing.rules.Rules.objection`."""
        identity = self.joined(identity)
        return self.rules.objection(identity.client, identity.groups, path, target)

    def reconsider(self, changed: frozenset[str] | None = None) -> None:
        """Cut the upgraded connections that these rules do not allow: all of them, or those of the fingerprints *changed*."""
        self._backends.upgrades.reconsider(self.objection, changed)

    def find(self, request: Request, identity: Identity) -> IResource | None:
        """Return the resource where *request* begins its way down, which is told its path; ``None``: it is answered."""
        if not self.rules.routes:
            return _beginning(request, self._own, b"")
        try:
            path = canonical(request.path)
        except PathError as error:
            if is_tunnel(request.method, request.path):
                _not_passed_on(request)
            else:
                request.answer(400, f"bad path: {error}")
            return None
        if path != request.path:
            # What is judged is what the application sees.
            request.uri = path + request.uri[len(request.path) :]
            request.path = path
        if path == _OWN:
            # The link on that page counts from the slash.
            request.setHeader(b"Location", _OWN + b"/")
            request.answer(308, f"it is {RESERVED}/")
            return None
        if path.startswith(_BELOW_OWN):
            return _beginning(request, self._own, _OWN)
        ruling = self.rules.rule(identity.client, identity.groups, request.method, path)
        if isinstance(ruling, Routed) and isinstance(ruling.route.destination, Upstream):
            # When its head came the rules were others, or it is one that goes no further.
            if request.method in NOT_PASSED_ON:
                _not_passed_on(request)
            else:
                request.answer(503, "the configuration has changed: ask again")
            return None
        if isinstance(ruling, Routed):
            without_claims(request.requestHeaders, ruling.route.strip)
            at = path[: len(path) - len(ruling.route.below(path))]
            return _beginning(request, self._resources[ruling.route.destination], at)
        self._log.info(
            "{client} was refused {method} {path}: {reason} [{connection}]",
            client=identity.client,
            method=request.method.decode("ascii"),
            path=shortened(path.decode("ascii"), _SHOWN),
            reason=ruling.reason,
            connection=request.gate.connection_id,
        )
        if ruling.methods:
            request.setHeader(b"Allow", b", ".join(ruling.methods))
            request.answer(ruling.status, "method not allowed")
        else:
            request.answer(ruling.status, f"not allowed: {identity.client} may not ask for this")
        return None


class Resources:
    """Makes what the routes lead to, each once: an application keeps its state over a reload of the configuration."""

    def __init__(self, reactor: Any, config: Path, threads: Any) -> None:
        """*config* is the configuration file, *threads* the pool of the applications."""
        self._reactor = reactor
        self._threads = threads
        self._config = config
        self._made: Mapping[Destination, IResource] = {}

    def make(self, rules: Rules) -> Mapping[Destination, IResource]:
        """Return the resource of each destination.  Raises :exc:`~mtlsd.config.ConfigError` with every mistake."""
        made: dict[Destination, IResource] = {}
        mistakes = []
        for route in rules.routes:
            destination = route.destination
            if isinstance(destination, Upstream):
                continue
            try:
                # A folder has no state to be kept, but may be a link that leads elsewhere by now.
                known = None if isinstance(destination, Static) else self._made.get(destination)
                made[destination] = known or made.get(destination) or self._one(destination)
            except SettingsError as error:
                mistakes.append(f"route[{route.number}].{error}")
        if mistakes:
            raise ConfigError(self._config, mistakes)
        self._made = made
        return made

    def _one(self, destination: Static | Wsgi | Made) -> IResource:
        what = found(destination, self._config.parent)
        if isinstance(destination, Static):
            return Files(what, listing=destination.listing)
        if not isinstance(destination, Made):
            return Application(self._reactor, self._threads, what)
        try:
            resource: IResource = what()
        except (Exception, SystemExit) as error:
            raise SettingsError(f"resource: {destination.name}: {told(error)}") from error
        if not IResource.providedBy(resource):
            raise SettingsError(f"resource: {destination.name}: what it made is no twisted.web resource")
        return resource


def _not_passed_on(request: Request) -> None:
    request.setHeader(b"Allow", b", ".join(method for method in METHODS if method not in NOT_PASSED_ON))
    request.answer(405, "method not allowed")


def _beginning(request: Request, resource: IResource, at: bytes) -> IResource:
    request.prepath = [unquote(part) for part in at[1:].split(b"/")] if at else []
    rest = request.path[len(at) :]
    request.postpath = [unquote(part) for part in rest[1:].split(b"/")] if rest else []
    return resource
