"""A front door in memory over a real folder, with a writer that works for it as it does for the server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mtlsd.registry.atomic import System
from mtlsd.registry.directory import DirectoryRegistry
from mtlsd.registry.store import Store
from mtlsd.settings import Settings
from tests.memory_tls import FrontDoor

T = TypeVar("T")


class Disk(System):
    """A disk that can be full."""

    full = False

    def write(self, descriptor: int, data: bytes) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(descriptor, data)


class FolderDoor(FrontDoor):
    """A front door whose registry is a folder."""

    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        for part in ("authorized", "revoked"):
            (folder / part).mkdir(parents=True)
        clock = Clock()
        registry = DirectoryRegistry(folder, reactor=clock, seconds=clock.seconds, in_thread=maybeDeferred)
        registry.load()
        registry.start()
        super().__init__(settings, registry=registry, clock=clock)
        #: Where the server's writer writes.
        self.disk = Disk()
        #: Work that waits for :meth:`work`; ``None``: it is done at once.
        self.held: list[Callable[[], object]] | None = None
        #: The operator's writer.
        self.store = Store(folder, self.now, "operator")

    def in_thread(self, work: Callable[[], T]) -> Deferred[T]:
        if self.held is None:
            return maybeDeferred(work)
        done: Deferred[T] = Deferred()
        self.held.append(lambda: maybeDeferred(work).chainDeferred(done))
        return done

    def work(self) -> None:
        """Do what waits."""
        held, self.held = self.held, None
        for work in held or ():
            work()

    def look(self) -> None:
        """Let what was changed in the folder be seen, and believed."""
        self.registry.look()
        for _ in range(4):
            self.clock.advance(0.25)


def lines_said(test: SynchronousTestCase) -> list[str]:
    """Return the list to which each line that mtlsd logs during *test* is added."""
    said: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_namespace") == "mtlsd":
            said.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    test.addCleanup(globalLogPublisher.removeObserver, observe)
    return said
