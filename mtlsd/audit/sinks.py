"""Where events go: memory, a file of JSON lines, the service's log.

A sink never raises: a full disk stops neither serving nor the log of the problem.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from twisted.logger import Logger
from zope.interface import Interface, implementer

from mtlsd.audit.events import Event, Kind
from mtlsd.errors import SettingsError
from mtlsd.identity import GRANT_DIGITS
from mtlsd.policy import remedy_of_end

#: Seconds between two complaints about one and the same problem.
COMPLAINT_INTERVAL = 60.0
_GOOD_NEWS = (Kind.ACCEPTED, Kind.JOINED, Kind.RENEWED, Kind.RETIRED)
#: Seconds between two words about one certificate that is let in on grace.
DAY = 86_400.0


class IAuditSink(Interface):
    """Takes events, one at a time, and never raises."""

    def write(event: Event) -> None:
        """Take *event*."""


class LineFile:
    """A file that only grows, one line a write, made 0600.

    A line is handed to the kernel before :meth:`write` returns (no buffer of ours); it is not fsync'ed.  After a
    write that failed half-way the next line starts on a line of its own, so a reader loses one record at most.
    """

    def __init__(self, path: Path, seconds: Callable[[], float], owner: int | None = None) -> None:
        """Open *path* for appending.  Raises :exc:`~mtlsd.errors.SettingsError`, naming it, where that fails.

        *owner* is the user that the service will run as, where it is still root: that one has to be able to reopen it.
        """
        self.path = path
        self._seconds = seconds
        self._log = Logger()
        self._torn = False
        self._lost = 0
        self._complained = float("-inf")
        try:
            self._descriptor = _open_for_appending(path)
            if owner is not None:
                os.fchown(self._descriptor, owner, -1)
        except OSError as error:
            raise SettingsError(f"{path}: cannot be written: {error.strerror}") from error

    def write(self, line: str) -> None:
        """Append *line* (without its line end).  Never raises: what is lost is counted, and said once a minute."""
        if self._descriptor < 0:
            return
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        if self._torn:
            data = b"\n" + data
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
                self._torn = True
        except OSError as error:
            self._lost += 1
            self._complain(error.strerror)
            return
        self._torn = False
        if self._lost:
            self._log.warn("{path}: writing again; {lost} lines were lost", path=self.path, lost=self._lost)
            self._lost = 0
            self._complained = float("-inf")

    def reopen(self) -> None:
        """Open the path again, for logrotate.  Where that fails the old file stays in use, and it is said."""
        if self._descriptor < 0:
            return
        try:
            fresh = _open_for_appending(self.path)
        except OSError as error:
            self._log.error(
                "{path}: cannot be opened again, the old file stays in use: {why}", path=self.path, why=error.strerror
            )
            return
        os.close(self._descriptor)
        self._descriptor, self._torn = fresh, False

    def close(self) -> None:
        """Close the file; nothing is written after this."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _complain(self, why: str | None) -> None:
        now = self._seconds()
        if now - self._complained >= COMPLAINT_INTERVAL:
            self._complained = now
            self._log.error(
                "{path}: cannot be written, {lost} lines lost so far: {why}", path=self.path, lost=self._lost, why=why
            )


@implementer(IAuditSink)
class MemorySink:
    """Keeps the events, for tests and for whoever embeds the server."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event) -> None:
        self.events.append(event)


@implementer(IAuditSink)
class JsonLinesSink:
    """The audit log: one JSON object a line."""

    def __init__(self, file: LineFile) -> None:
        self._file = file

    def write(self, event: Event) -> None:
        self._file.write(event.as_json())


@implementer(IAuditSink)
class LogSink:
    """The service's log, in readable words, one line an event."""

    def __init__(self, log: Logger | None = None) -> None:
        self._log = log or Logger()

    def write(self, event: Event) -> None:
        # A brace in a subject is not a format.  (As a value of the format "{verdict}" it would cost more.)
        words = event.in_words()
        if "{" in words or "}" in words:
            words = words.replace("{", "{{").replace("}", "}}")
        emit = self._log.info if event.event in _GOOD_NEWS else self._log.warn
        emit(words, event=event)


@implementer(IAuditSink)
class GraceSink:
    """Says in the service's log who is let in on grace alone: once a day for each certificate, not for each connection."""

    def __init__(self, seconds: Callable[[], float], log: Logger | None = None, *, renews: bool = False) -> None:
        """*seconds* is a monotonic clock; *renews*: clients may renew by themselves."""
        self._seconds = seconds
        self._renews = renews
        self._log = log or Logger()
        # When it was said of which certificate, the longest ago first.
        self._said: dict[str, float] = {}

    def write(self, event: Event) -> None:
        if event.event is not Kind.ACCEPTED or event.not_after is None or event.time <= event.not_after:
            return
        now, fingerprint = self._seconds(), event.fingerprint or ""
        while self._said and now - self._said[oldest := next(iter(self._said))] >= DAY:
            del self._said[oldest]
        if fingerprint in self._said:
            return
        self._said[fingerprint] = now
        self._log.warn(
            "{client} is let in on grace alone: certificate {short} has ended on {end}; to put it right: {remedy}",
            client=event.client,
            short=fingerprint[:GRANT_DIGITS],
            end=f"{event.not_after:%Y-%m-%d}",
            remedy=remedy_of_end(event.client or "NAME", renews=self._renews),
        )


@implementer(IAuditSink)
class Fanout:
    """Hands each event to several sinks; one that fails does not keep it from the others."""

    def __init__(self, sinks: Iterable[IAuditSink]) -> None:
        self._sinks = tuple(sinks)
        self._log = Logger()

    def write(self, event: Event) -> None:
        for sink in self._sinks:
            try:
                sink.write(event)
            except Exception as error:
                self._log.error("an audit sink failed: {error!r}", error=error)


def _open_for_appending(path: Path) -> int:
    # O_NONBLOCK: opening a FIFO that nobody reads fails instead of holding the whole service.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o600)
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
        # A pipe that is full would hold the service, or lose lines.
        os.close(descriptor)
        raise OSError(0, "not a regular file")
    return descriptor
