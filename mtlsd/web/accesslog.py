"""The access log: one line a request, in the combined log format with the connection's id at its end.

    ADDRESS - CLIENT [TIME] "METHOD TARGET VERSION" STATUS BYTES "REFERER" "USER-AGENT" CONNECTION

The client's authorized name stands where the user name goes; the connection's id is the one in the audit log.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime

from twisted.logger import Logger
from twisted.web.http import datetimeToLogString

from mtlsd.audit.sinks import LineFile
from mtlsd.identity import Identity
from mtlsd.web.interfaces import IAuthenticatedTransport
from mtlsd.web.request import Request

#: Nothing was sent when the connection ended: nginx's number for it, which programs that read such logs know.
CLIENT_CLOSED = 499

_UNSAFE = re.compile(rb'[^\x20-\x7e]|["\\]')


class AccessLog:
    """Writes the lines to a file, or to the service's own log."""

    def __init__(self, file: LineFile | None, now: Callable[[], datetime]) -> None:
        """*file* ``None`` is the service's log; *now* returns the wall-clock time, aware."""
        self._log = Logger()
        self._write = self._to_log if file is None else file.write
        self._now = now

    def answered(self, request: Request) -> None:
        """Write the line of a request that came through the door: answered, or cut short while it was."""
        status = request.code if request.startedWriting else CLIENT_CLOSED
        line = b" ".join((request.method, request.uri, request.clientproto))
        referer, agent = request.getHeader(b"referer"), request.getHeader(b"user-agent")
        self._line(request.gate, request.identity, line, status, request.sentLength, referer, agent)

    def refused(self, gate: IAuthenticatedTransport, identity: Identity, status: int, length: int) -> None:
        """Write the line of what could not be read as a request."""
        self._line(gate, identity, None, status, length, None, None)

    def _line(
        self,
        gate: IAuthenticatedTransport,
        identity: Identity | None,
        line: bytes | None,
        status: int,
        length: int,
        referer: bytes | None,
        agent: bytes | None,
    ) -> None:
        client = "-" if identity is None else identity.client
        time = datetimeToLogString(self._now().timestamp())
        self._write(
            f'{gate.peer[0]} - {client} {time} "{escaped(line)}" {status} {length or "-"}'
            f' "{escaped(referer)}" "{escaped(agent)}" {gate.connection_id}'
        )

    def _to_log(self, line: str) -> None:
        # The line goes in as a value: a brace in a request is not a format.
        self._log.info("{line}", line=line)


def escaped(text: bytes | None) -> str:
    r"""Return what a client sent as it may stand between quotes: printable ASCII, the rest (and ``"`` and ``\``) as ``\xNN``."""
    if text is None:
        return "-"
    return _UNSAFE.sub(lambda found: b"\\x%02X" % found.group()[0], text).decode("ascii")
