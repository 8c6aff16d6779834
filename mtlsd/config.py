"""The configuration file: TOML, checked as a whole into frozen values.

Strict: nothing is coerced, and every mistake is named at once, by its key path.  ``allow = "ops"`` is a mistake, not
three clients called o, p and s; ``"*"`` out of place would be everybody.  Pure but for :func:`read`, and for
the current folder where the file's own is relative to it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mtlsd import settings
from mtlsd.errors import SettingsError
from mtlsd.identity import is_client_name
from mtlsd.registry.terms import GROUP_NAME
from mtlsd.routing.namedheaders import NamedHeaders, objection
from mtlsd.routing.paths import PathError, alike, canonical
from mtlsd.routing.rules import (
    EVERYONE,
    GROUP,
    NOT_PASSED_ON,
    RESERVED,
    Allow,
    Destination,
    Made,
    Route,
    Rules,
    Static,
    Target,
    Upstream,
    Wsgi,
)
from mtlsd.text import printable, shortened

#: The methods that the parser of requests knows (llhttp, which has them from IANA's registry, WebDAV and UPnP).
METHODS = frozenset(
    b"ACL BIND CHECKOUT CONNECT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY OPTIONS PATCH"
    b" POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE".split()
)
_OBJECT = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\Z", re.ASCII)
_LARGEST = 1 << 20
_TABLES = ("server", "groups", "route")
_DESTINATIONS = ("upstream", "static", "wsgi", "resource")
_SWITCHES = {"listing": "static", "strip_prefix": "upstream", "allow_remote": "upstream", "upgrade": "upstream"}
_LEAST, _MOST = 0.1, 1_000_000
_TIMES = ("connect_timeout", "response_timeout", "idle_timeout")
# RFC 1035 2.3.4: of another name the resolver would raise, and leave each request to its deadline.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_URL = re.compile(rf"http://(?:\[([0-9A-Fa-f:.]+)\]|(?=[^:]{{1,253}}:)({_LABEL}(?:\.{_LABEL})*)):([0-9]{{1,5}})/?\Z")
_UNIX = "http+unix:"
#: unix(7): sun_path has 108 bytes, the NUL at its end among them.
_LONGEST_SOCKET = 107
#: The keys of a route.
ROUTE_KEYS = ("path", "allow", "methods", "strip", *_DESTINATIONS, *_SWITCHES, *_TIMES)


class ConfigError(SettingsError):
    """A configuration file is wrong.  ``mistakes`` are all there are, a line each; the text is all of them in one.

    ``seen`` is what could be read of it all the same, ``None``: nothing.  It is there to be looked over, for what else is
    wrong, and must never be in force: a rule with a mistake says less than it should, or more.
    """

    def __init__(self, path: Path, mistakes: Iterable[str], seen: Config | None = None) -> None:
        self.mistakes = tuple(mistakes)
        self.seen = seen
        super().__init__(f"{printable(str(path))}: {'; '.join(self.mistakes)}")


@dataclass(frozen=True)
class Config:
    """What a configuration file says: ``server`` holds the settings that it gives, ``rules`` the routes and groups."""

    server: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    rules: Rules = field(default_factory=Rules)

    def unknown(self, clients: Collection[str]) -> list[str]:
        """Return a line for each client that is named, but is not among *clients*.  It may be authorized later."""
        named = [(f"groups.{group}", members) for group, members in self.rules.groups.items()]
        named += [(f"route[{route.number}].allow", route.allow.clients) for route in self.rules.routes]
        return [
            f"{where}: unknown client {client}" for where, names in named for client in sorted(names) if client not in clients
        ]


def read(path: Path) -> Config:
    """Read the file *path*.  Raises :exc:`ConfigError` with every mistake in it."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(path, [str(error.strerror)]) from None
    if len(data) > _LARGEST:
        raise ConfigError(path, ["larger than 1 MiB"])
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(path, [f"not UTF-8 ({_place(data, error.start)})"]) from None
    return parse(text, path)


def parse(text: str, path: Path) -> Config:
    """Read *text*, the content of the file *path*.  Raises :exc:`ConfigError` with every mistake in it."""
    try:
        # With a line end behind the last line: what is wrong there would be "at end of document" without one.
        document = tomllib.loads(text if text.endswith("\n") else f"{text}\n")
    except (ValueError, RecursionError) as error:
        raise ConfigError(path, [_shown(str(error) or type(error).__name__)]) from None
    reading = _Reading(path.parent)
    config = reading.config(document)
    if reading.mistakes:
        raise ConfigError(path, reading.mistakes, config)
    return config


class _Reading:
    """Goes through a document and notes what is wrong, each with its key path."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self.mistakes: list[str] = []

    def _wrong(self, where: str, what: str) -> None:
        self.mistakes.append(f"{where}: {what}")

    def config(self, document: Mapping[str, Any]) -> Config:
        for key in document:
            if key not in _TABLES:
                self._wrong(_shown(key), "unknown")
        table = document.get("server", {})
        server: Mapping[str, object] = {}
        if isinstance(table, dict):
            server, mistakes = settings.from_table(table, self._base)
            self.mistakes += mistakes
        else:
            self._wrong("server", "a table is wanted")
        groups = self._groups(document.get("groups", {}))
        routes = self._routes(document.get("route", []), groups)
        return Config(MappingProxyType(dict(server)), Rules(tuple(routes), MappingProxyType(groups)))

    def _groups(self, table: object) -> dict[str, frozenset[str]]:
        groups: dict[str, frozenset[str]] = {}
        if not isinstance(table, dict):
            self._wrong("groups", "a table is wanted")
            return groups
        for name, clients in table.items():
            where = f"groups.{_shown(name)}"
            if not GROUP_NAME.match(name):
                self._wrong(where, "a group's name is letters, digits, dots, dashes and underscores")
            groups[name] = frozenset(self._texts(where, clients, _client))
        return groups

    def _routes(self, tables: object, groups: Mapping[str, object]) -> list[Route]:
        routes: list[Route] = []
        if not isinstance(tables, list):
            self._wrong("route", "[[route]] is wanted, with two brackets")
            return routes
        first: dict[bytes, int] = {}
        for number, table in enumerate(tables):
            where = f"route[{number}]"
            if not isinstance(table, dict):
                self._wrong(where, "a table is wanted")
                continue
            path = self._path(f"{where}.path", table.get("path"))
            if path is not None and first.setdefault(alike(path), number) != number:
                self._wrong(f"{where}.path", f"it is the path of route[{first[alike(path)]}] too")
            for key in table:
                if key not in ROUTE_KEYS:
                    self._wrong(f"{where}.{_shown(key)}", "unknown")
            allow = self._allow(f"{where}.allow", table.get("allow"), groups)
            methods = self._methods(f"{where}.methods", table.get("methods"))
            strip = self._strip(f"{where}.strip", table)
            destination = self._destination(where, table)
            if methods is not None and b"GET" not in methods and isinstance(destination, Upstream) and destination.upgrade:
                self._wrong(f"{where}.upgrade", "it is asked for with GET, which is not in methods")
            if isinstance(destination, Static) and methods and methods.isdisjoint((b"GET", b"HEAD")):
                self._wrong(f"{where}.methods", "files are there for GET and HEAD, so no request gets here")
            if isinstance(destination, Upstream) and methods is not None:
                for method in filter(methods.__contains__, NOT_PASSED_ON):
                    self._wrong(
                        f"{where}.methods", f"{method.decode()} is not passed on to any server: every request with it is 405"
                    )
            # Where something is wrong with it, none of the rules is ever in force (see ConfigError.seen).
            routes.append(Route(number, path or b"", Allow.of(allow), destination or Upstream(()), methods, strip))
        return routes

    def _path(self, where: str, value: object) -> bytes | None:
        if not isinstance(value, str):
            self._wrong(where, "missing" if value is None else "text is wanted")
            return None
        try:
            path = canonical(value.encode("utf-8", "surrogatepass"))
        except PathError as error:
            self._wrong(where, f"no request can have this path: {error}")
            return None
        if b"?" in path or b"#" in path:
            self._wrong(where, "no request can have this path: a query is no part of it")
            return None
        path = path.removesuffix(b"/")
        reserved = RESERVED.encode()
        if path == reserved or path.startswith(reserved + b"/"):
            self._wrong(where, f"no request gets here: {RESERVED} is mtlsd's own")
            return None
        return path

    def _allow(self, where: str, value: object, groups: Mapping[str, object]) -> list[str]:
        if value is None:
            self._wrong(where, f'missing; ["{EVERYONE}"] is every authorized client')
            return []

        def check(entry: str) -> str | None:
            if entry == EVERYONE:
                return None
            if entry.startswith(GROUP):
                known = entry.removeprefix(GROUP) in groups
                return None if known else f"unknown group {_shown(entry.removeprefix(GROUP))}: it has no line under [groups]"
            return _client(entry)

        entries = self._texts(where, value, check)
        if value == []:
            self._wrong(where, "it names nobody, so no request gets here")
        return entries

    def _methods(self, where: str, value: object) -> frozenset[bytes] | None:
        if value is None:
            return None

        def check(entry: str) -> str | None:
            if entry.upper().encode("utf-8", "surrogatepass") not in METHODS:
                return f"unknown method {_shown(entry)}: every request with it is answered 501"
            return None if entry == entry.upper() else f"methods have capital letters: {entry.upper()}"

        methods = self._texts(where, value, check)
        if value == []:
            self._wrong(where, "it names no method, so no request gets here")
        return METHODS & {method.encode() for method in methods}

    def _strip(self, where: str, table: Mapping[str, Any]) -> NamedHeaders | None:
        if "strip" not in table:
            return None
        if "static" in table:
            self._wrong(where, "files are told nothing, so only another route has one")
        spelled: dict[object, str] = {}

        def check(entry: str) -> str | None:
            wrong = objection(entry)
            if wrong is not None:
                return wrong
            first = spelled.setdefault(NamedHeaders.of([entry]), entry)
            return None if first == entry else f"it is there twice: {first} is the same header"

        return NamedHeaders.of(self._texts(where, table["strip"], check))

    def _destination(self, where: str, table: Mapping[str, Any]) -> Destination | None:
        given = [key for key in _DESTINATIONS if key in table]
        if len(given) != 1:
            self._wrong(where, f"exactly one of {', '.join(_DESTINATIONS)} is wanted")
            return None
        key, value = given[0], table[given[0]]
        for name, of in _SWITCHES.items():
            if name in table and key != of:
                self._wrong(f"{where}.{name}", f"only a route with {of} has one")
            elif not isinstance(table.get(name, False), bool):
                self._wrong(f"{where}.{name}", "true or false is wanted")
        times = self._times(where, table, key)
        if key == "upstream":
            targets = self._targets(f"{where}.upstream", value, remote=table.get("allow_remote") is True)
            return Upstream(targets, table.get("strip_prefix") is True, upgrade=table.get("upgrade") is True, **times)
        if not isinstance(value, str):
            self._wrong(f"{where}.{key}", "text is wanted")
        elif key == "static":
            if value and "\0" not in value:
                return Static(self._base / value, table.get("listing") is True)
            self._wrong(f"{where}.{key}", "a path is wanted")
        elif _OBJECT.match(value):
            return Wsgi(value) if key == "wsgi" else Made(value)
        else:
            self._wrong(f"{where}.{key}", '"module:name" is wanted')
        return None

    def _times(self, where: str, table: Mapping[str, Any], key: str) -> dict[str, float]:
        times: dict[str, float] = {}
        for name in _TIMES:
            if name not in table:
                continue
            value = table[name]
            if key != "upstream":
                self._wrong(f"{where}.{name}", "only a route with upstream has one")
            elif isinstance(value, bool) or not isinstance(value, int | float):
                self._wrong(f"{where}.{name}", "a number of seconds is wanted")
            elif not _LEAST <= value <= _MOST:
                # Which of the two: NaN compares with nothing.
                bound = f"at most {_MOST}" if value > _MOST else f"at least {_LEAST}"
                self._wrong(f"{where}.{name}", f"{bound} is wanted")
            else:
                times[name] = float(value)
        return times

    def _targets(self, where: str, value: object, *, remote: bool) -> tuple[Target, ...]:
        if isinstance(value, str):
            wrong = _wrong_target(value, self._base, remote=remote)
            if wrong is not None:
                self._wrong(where, wrong)
                return ()
            return tuple(self._target(value))
        if value == []:
            self._wrong(where, "it names no server")
        spelled: dict[object, str] = {}

        def check(text: str) -> str | None:
            wrong = _wrong_target(text, self._base, remote=remote)
            if wrong is not None:
                return wrong
            (server,) = map(_one_spelling, self._target(text))
            first = spelled.setdefault(server, text)
            return None if first == text else f"it is there twice: {first} is the same server"

        texts = self._texts(where, value, check)
        return tuple(target for text in texts for target in self._target(text))

    def _target(self, text: str) -> Iterator[Target]:
        found = _URL.match(text)
        if text.startswith(_UNIX):
            yield Target(path=str(self._base / text.removeprefix(_UNIX)))
        elif found is not None:
            yield Target(found[1] or found[2], int(found[3]))

    def _texts(self, where: str, value: object, check: Callable[[str], str | None]) -> list[str]:
        """Return the texts of a list, of which *check* says what is wrong with each (``None``: nothing)."""
        if not isinstance(value, list):
            self._wrong(where, "a list is wanted")
            return []
        texts = []
        for number, entry in enumerate(value):
            wrong = check(entry) if isinstance(entry, str) else "text is wanted"
            if wrong is None and entry in texts:
                wrong = "it is there twice"
            if wrong is not None:
                self._wrong(f"{where}[{number}]", wrong)
            elif isinstance(entry, str):
                texts.append(entry)
        return texts


def _one_spelling(target: Target) -> object:
    """Return what is the same for two targets that are one server, as far as their text can tell."""
    if target.path is not None:
        return target.path
    try:
        return ip_address(target.host), target.port
    except ValueError:
        return target.host.lower(), target.port


def _wrong_target(text: str, base: Path, *, remote: bool) -> str | None:
    if text.startswith(_UNIX):
        if len(text) == len(_UNIX) or "\0" in text:
            return "the path of a socket is wanted"
        # The reactor would raise, and leave each request to its deadline.
        size = len(os.fsencode(os.path.join(os.path.abspath(base), text.removeprefix(_UNIX))))
        return None if size <= _LONGEST_SOCKET else f"the path of a socket has {_LONGEST_SOCKET} bytes at most, and this {size}"
    found = _URL.match(text)
    if found is None or not 0 < int(found[3]) < 65536:
        return '"http://HOST:PORT" or "http+unix:PATH" is wanted'
    host = found[1] or found[2]
    try:
        is_local = ip_address(host).is_loopback
    except ValueError:
        if found[1] or re.fullmatch(r"[0-9.]+", host):
            return f"not an address: {host}"
        is_local = host == "localhost"
    if is_local or remote:
        return None
    return f"{host} is not this machine, and who the client is goes there in clear: allow_remote = true says that this is meant"


def _client(name: str) -> str | None:
    return None if is_client_name(name) else f"not the name of a client: {_shown(name)}"


def _place(data: bytes, at: int) -> str:
    """Return where in a file byte *at* is, in the words of tomllib."""
    line, column = data.count(b"\n", 0, at) + 1, at - data.rfind(b"\n", 0, at)
    return f"at line {line}, column {column}"


def _shown(text: str) -> str:
    return shortened(printable(text), 100)
