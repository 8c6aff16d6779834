"""A request that nobody has sent: what the door would make of it, by the parser and the rules that a real one meets."""

from __future__ import annotations

import re
from dataclasses import replace
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from mtlsd import settings
from mtlsd.config import Config
from mtlsd.routing.explain import Answer, answered
from mtlsd.routing.rules import NOT_PASSED_ON, RESERVED, Route, Static, Upstream, is_tunnel
from mtlsd.web.headers import HeaderNames
from mtlsd.web.heads import KnownHeads
from mtlsd.web.message import Message
from mtlsd.web.parser import Refusal, RequestParser
from mtlsd.web.request import METHODS

_READING = (b"GET", b"HEAD")
_BREAK = re.compile(rb"[\x00-\x20\x7f]")
#: mtlsd's own pages, below ``/.mtlsd`` or ``/``.
_PAGES = (b"", b"hello", b"whoami")


def rehearsed(config: Config, client: str, own: tuple[str, ...] | None, method: str, target: str) -> Answer:
    """Tell what would become of a request for *target*: a path, with or without a query, or any other form of a target.

    *own* are the groups that *client* has in the registry; ``None``: none of its certificates would be let in.
    """
    path = target.partition("?")[0]
    groups = config.rules.groups_of(client, own or ())

    def refused(status: HTTPStatus | None, reason: str) -> Answer:
        return Answer(client, groups, method, path, None, status, reason, None)

    if own is None:
        return refused(None, f"no certificate of {client} would be let in, so the door does not open")
    try:
        message = _message(config, method.encode("utf-8", "surrogateescape"), target.encode("utf-8", "surrogateescape"))
    except Refusal as refusal:
        return refused(HTTPStatus(refusal.status), refusal.text)
    asked = message.target.partition(b"?")[0]
    if asked == b"*":
        if message.method != b"OPTIONS":
            return refused(HTTPStatus.METHOD_NOT_ALLOWED, "only OPTIONS asks about the server, and takes no path")
        reason = "it is about the server, for every authorized client"
        return Answer(client, groups, method, path, None, HTTPStatus.OK, reason, "the door itself")
    if not config.rules.routes:
        shown = asked.decode("ascii")
        answer = Answer(client, groups, method, shown, None, None, "there are no routes", "mtlsd's own pages")
        return _own_page(answer, message.method, asked)
    if is_tunnel(message.method, asked):
        return refused(HTTPStatus.METHOD_NOT_ALLOWED, "the door makes no tunnels")
    answer = answered(config.rules, client, own, method, asked.decode("ascii"))
    if not answer.allowed:
        return answer
    if answer.path == RESERVED:
        return replace(answer, status=HTTPStatus.PERMANENT_REDIRECT, reason=f"it is {RESERVED}/")
    if answer.route is None:
        return _own_page(answer, message.method, answer.path.encode().removeprefix(RESERVED.encode()))
    return _routed(answer, answer.route, message.method)


def _message(config: Config, method: bytes, target: bytes) -> Message:
    """Return the request as the door reads it.  Raises :exc:`~mtlsd.web.parser.Refusal`, as it does."""
    if _BREAK.search(method) or _BREAK.search(target):
        # The words of the line, and the line itself, would end there.
        raise Refusal(HTTPStatus.BAD_REQUEST, "a space or a control character belongs neither to a method nor to a target")
    max_head = settings.load({}, config.server).max_head
    parser = RequestParser(max_head, HeaderNames(), KnownHeads())
    try:
        parser.feed(b"%b %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (method, target))
    except Refusal as refusal:
        if refusal.status == HTTPStatus.BAD_REQUEST and b"#" in target:
            raise Refusal(refusal.status, "what follows a # is never sent, and belongs to no target") from None
        raise
    finally:
        parser.end()
    return parser.messages[0]


def _routed(answer: Answer, route: Route, method: bytes) -> Answer:
    """Tell what becomes of a request that *route* lets through to where it leads."""
    if isinstance(route.destination, Upstream) and method in NOT_PASSED_ON:
        return _wrong_method(answer, method, f"{answer.method} is not passed on to any server")
    if isinstance(route.destination, Static) and method not in _READING:
        return _wrong_method(answer, method, f"{route.label} leads to files, which are there for GET and HEAD")
    return answer


def _own_page(answer: Answer, method: bytes, path: bytes) -> Answer:
    """Tell what becomes of a request for mtlsd's own pages: *path* is below where they are."""
    parts = [unquote_to_bytes(part) for part in path[1:].split(b"/")]
    if len(parts) > 1 or parts[0] not in _PAGES:
        return replace(answer, status=HTTPStatus.NOT_FOUND, reason="no such page", destination=None)
    return answer if method in _READING else _wrong_method(answer, method, "mtlsd's own pages are there for GET and HEAD")


def _wrong_method(answer: Answer, method: bytes, reason: str) -> Answer:
    status = HTTPStatus.METHOD_NOT_ALLOWED if method in METHODS else HTTPStatus.NOT_IMPLEMENTED
    return replace(answer, status=status, reason=reason, destination=None)
