"""The running service: starts and stops what :func:`mtlsd.tap.makeService` has wired."""

from __future__ import annotations

import resource
import signal
import socket
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.logger import Logger

from mtlsd.audit.events import endpoint
from mtlsd.audit.sinks import LineFile
from mtlsd.configwatch import ConfigWatcher
from mtlsd.enrol.join import Joins
from mtlsd.enrol.pending import Pending
from mtlsd.enrol.renewal import Successions
from mtlsd.heartbeat import Heartbeat
from mtlsd.registry.directory import DirectoryRegistry
from mtlsd.tls.context import ConnectionCreator
from mtlsd.tls.door import Door
from mtlsd.tls.farewell import Farewells
from mtlsd.tls.gate import plain_address
from mtlsd.tls.pair import PairWatcher
from mtlsd.tls.port import Port

#: Deadlines that are fired in one go.
_AT_ONCE = 200


class EarlyHangup:
    """Remembers a SIGHUP that comes while the service starts; left alone it would end the process.

    With 100,000 clients the start takes seconds, and systemd may reload what has only just been executed.
    """

    def __init__(self) -> None:
        self.came = False
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            signal.signal(signal.SIGHUP, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True


class FrontDoor(Service):
    """The service that ``twistd mtlsd`` runs."""

    def __init__(
        self,
        *,
        reactor: Any,
        listening: socket.socket,
        creator: ConnectionCreator,
        farewells: Farewells,
        door: Door,
        registry: DirectoryRegistry,
        pair: PairWatcher,
        config: ConfigWatcher | None,
        pending: Pending | None,
        joins: Joins | None,
        successions: Successions | None,
        heartbeat: Heartbeat,
        files: Sequence[LineFile],
        drain_timeout: float,
        early: EarlyHangup,
    ) -> None:
        """*listening* is bound already; *creator* makes the TLS of each connection; *files* are reopened on SIGUSR1."""
        self.setName("mtlsd")
        self._reactor = reactor
        self._listening: socket.socket | None = listening
        self._creator = creator
        self._farewells = farewells
        self._door = door
        self._registry = registry
        self._pair = pair
        self._config = config
        self._pending = pending
        self._joins = joins
        self._successions = successions
        self._heartbeat = heartbeat
        self._files = files
        self._drain_timeout = drain_timeout
        self._early = early
        self._port: Port | None = None
        self._restore: dict[int, Any] = {}
        self._stopping = False
        self._log = Logger()

    def privilegedStartService(self) -> None:
        """Take the bound socket into the reactor."""
        super().privilegedStartService()
        if self._listening is not None:
            listening, self._listening = self._listening, None
            self._port = Port.adopt(self._reactor, listening, self._door, self._creator, self._farewells)
            listening.close()

    def startService(self) -> None:
        """Begin: the heartbeat, the watch on the folder, and the signals once the reactor has set its own."""
        if self._port is None:
            self.privilegedStartService()
        super().startService()
        for beat in (self._expire, self._registry.beat, self._pair.beat, self._door.beat):
            self._heartbeat.add(beat)
        if self._config is not None:
            self._heartbeat.add(self._config.beat)
        if self._pending is not None:
            self._pending.start()
            self._heartbeat.add(self._pending.beat)
        if self._joins is not None:
            self._joins.start()
        if self._successions is not None:
            self._successions.start()
        self._registry.start()
        self._heartbeat.start()
        self._reactor.callWhenRunning(self._ready)

    @inlineCallbacks
    def stopService(self) -> Any:
        """Stop accepting, let the responses in flight finish (``drain_timeout``), then let go of everything."""
        super().stopService()
        self._stopping = True
        if self._port is not None:
            port, self._port = self._port, None
            yield port.stopListening()
        self._log.info("no longer listening; {live} connections to finish", live=len(self._door.live))
        yield self._door.drain(self._drain_timeout)
        self._heartbeat.stop()
        self._registry.stop()
        if self._pending is not None:
            self._pending.stop()
        for file in self._files:
            file.close()
        self._log.info("stopped")

    def reload(self) -> Deferred[None]:
        """Read everything again: the server's pair, the configuration and the folder (SIGHUP)."""
        self._log.info("reading everything again")
        self._pair.reload()
        if self._config is not None:
            self._config.reload()
        return self._registry.look()

    def reopen(self) -> None:
        """Open the logs again, for logrotate (SIGUSR1)."""
        for file in self._files:
            file.reopen()

    def terminate(self) -> None:
        """Stop the reactor, which stops this service first; asked a second time, do not wait for anybody (SIGTERM)."""
        if self._stopping:
            self._door.cut_everything()
        elif self._reactor.running:
            self._reactor.stop()

    def _expire(self) -> None:
        # A flood comes to its deadline all at once; whoever is being served must not wait for the whole of it.
        if self._door.deadlines.expire(_AT_ONCE):
            self._reactor.callFromThread(self._expire)

    def _ready(self) -> None:
        if self._port is None:
            return
        # The signals first: whoever sends SIGHUP because of the line in the log must not kill the service with it.
        self._handle_signals()
        self._log.info(
            "listening on {endpoint} for {clients} authorized certificates",
            endpoint=endpoint(*plain_address(self._port.getHost())),
            clients=len(self._registry.snapshot().authorized),
        )

    def _handle_signals(self) -> None:
        # twistd's own SIGTERM handler raises the signal again once the reactor has ended, so a clean stop would end
        # with 143; and with a log file it has SIGUSR1 already (rotateLog), which has to go on working.
        self._handle(signal.SIGTERM, self.terminate)
        self._handle(signal.SIGINT, self.terminate)
        self._handle(signal.SIGHUP, self.reload)
        self._handle(signal.SIGUSR1, self.reopen, keep=True)
        # After the reactor has ended, not before: a second SIGTERM while it drains would be twistd's.
        self._reactor.addSystemEventTrigger("after", "shutdown", self._restore_signals)
        if self._early.came:
            self.reload()

    def _restore_signals(self) -> None:
        for number, handler in self._restore.items():
            signal.signal(number, handler)
        self._restore.clear()

    def _handle(self, number: signal.Signals, act: Callable[[], object], *, keep: bool = False) -> None:
        before = signal.getsignal(number)

        def handler(received: int, frame: FrameType | None) -> None:
            if keep and callable(before):
                before(received, frame)
            self._reactor.callFromThread(act)

        self._restore[number] = before
        signal.signal(number, handler)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of file descriptors to the hard one, and return how many there are then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard
