"""The servers behind the door: their connections, kept for the next request, and how well they are."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias
from typing import Protocol as Interface

from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from mtlsd.deadlines import Deadline, Deadlines
from mtlsd.proxy.response import BadResponse, Head, ResponseParser
from mtlsd.proxy.upgraded import Upgrades
from mtlsd.routing.rules import Target
from mtlsd.web.headers import HeaderNames
from mtlsd.web.patience import Patience

#: Connections to one backend that wait for the next request, and seconds that they do: less than most servers let them.  One that
#: a server has closed is found out before it is used.
_MOST_IDLE, _IDLE = 64, 4.0
#: Given a descriptor, returns what tells whether something has come on it.
Watch: TypeAlias = Callable[[Any], Callable[[], object]]
#: RFC 6761 6.3: what localhost is, without a look into any file or at any server.  Where the first refuses, the other is tried.
_LOCALHOST = ("127.0.0.1", "::1")
#: Seconds that a backend which could not be reached, or did not answer, is passed over: at first, and at most.
_FIRST_REST, _LONGEST_REST = 1.0, 30.0


def watch(handle: Any) -> Callable[[], object]:
    """Return what tells, as a truth, whether something has come on a descriptor: bytes, the end, or an error.

    It asks the kernel, which knows before the reactor does.  (To look with a recv that takes nothing costs four times as
    much, for that there is nothing is an exception.)
    """
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return partial(poll.poll, 0)


class Waiting(Interface):
    """Who waits for a response."""

    def interim(self, head: Head) -> None: ...

    def answered(self, head: Head, body: bytes) -> None:
        """All of the response has come in one piece, and to all of the request: instead of the three that follow."""

    def responded(self, head: Head) -> None: ...

    def body(self, data: bytes) -> None: ...

    def ended(self) -> None: ...

    def switched(self, connection: BackendConnection, head: Head, behind: bytes) -> None: ...

    def broken(self, why: str, *, answered: bool) -> None: ...


class BackendConnection(Protocol):
    """One connection to a backend, which serves one request at a time."""

    transport: Any
    #: Whether nothing else is asked on it, whatever the response says.
    is_last = False

    def __init__(self, backend: Backend, made: Callable[[BackendConnection], object]) -> None:
        self._backend = backend
        self._made = made
        self._waiting: Waiting | None = None
        self._parser = ResponseParser(backend.names)
        #: Tells whether something has come, if only the end, that the reactor has not told of yet.
        self.has_news: Callable[[], object]
        self._is_lost = False
        self._is_answered = False
        self._is_held = False
        self.patience = Patience(backend.deadlines)
        #: Whether all of the request has been sent: an answer may come before that.
        self.is_asked = False
        #: Whether not a byte has come since it was asked.
        self.is_silent = True

    # From the reactor.

    def connectionMade(self) -> None:
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        self.has_news = self._backend.watch(self.transport.getHandle())
        made = self._made
        # Whoever asked for it is not kept for as long as it is.
        del self._made
        made(self)

    def dataReceived(self, data: bytes) -> None:
        parser, waiting = self._parser, self._waiting
        if waiting is None:
            # Nobody has asked for anything.
            self.close()
            return
        self.is_silent = False
        try:
            parser.feed(data)
        except BadResponse as error:
            self._break(waiting, str(error))
            return
        self._hand_on(parser, waiting)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._is_lost = True
        self.patience.end()
        self._backend.forget(self)
        parser, waiting = self._parser, self._waiting
        if waiting is None:
            parser.let_go()
            return
        try:
            if not reason.check(ConnectionDone):
                raise BadResponse("the connection was lost")
            parser.end()
        except BadResponse as error:
            self._break(waiting, str(error))
            return
        self._hand_on(parser, waiting)

    # From an exchange.

    def ask(
        self, head: bytes, waiting: Waiting, *, is_head: bool, is_whole: bool = False, protocols: tuple[bytes, ...] = ()
    ) -> None:
        """Send the head of a request; *waiting* hears of the response.

        *is_whole*: no body follows, with which it could go out in one piece.  *protocols* it may switch to.
        """
        self._parser.begin(is_head=is_head, protocols=protocols)
        self._waiting = waiting
        self._is_answered = self.is_asked = False
        self.is_silent = True
        # Not any more for a request.
        self.patience.rest()
        if is_whole:
            self._send_now(head)
        else:
            self.transport.write(head)

    def hold(self) -> None:
        """Let no more of the answer come, for now."""
        self._is_held = True
        self.transport.pauseProducing()
        self.patience.rest()

    def go_on(self) -> None:
        """Let the rest of the answer come."""
        self._is_held = False
        self.transport.resumeProducing()

    def hand_over(self, protocol: Protocol) -> None:
        """Let *protocol* have the connection, which is no longer HTTP's: nothing here hears of it again."""
        self.patience.end()
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)

    def let_go(self) -> None:
        """Whoever waited is gone: so is the connection, for an answer to nobody is on it."""
        self.close()

    def close(self) -> None:
        """Close at once."""
        self._waiting = None
        self._parser.let_go()
        self.patience.end()
        self._backend.forget(self)
        if not self._is_lost:
            self.transport.abortConnection()

    # Its own.

    def _send_now(self, data: bytes) -> None:
        """Send *data* without asking the poller first, which for a small request costs as much as to send it."""
        transport = self.transport
        if not transport.dataBuffer and not transport._tempDataLen:
            try:
                sent = transport.getHandle().send(data)
            except OSError:
                sent = 0
            data = data[sent:]
        # The poller sends what is left, and finds what went wrong.
        if data:
            transport.write(data)

    def _hand_on(self, parser: ResponseParser, waiting: Waiting) -> None:
        if parser.interim:
            interim, parser.interim = parser.interim, []
            for hint in interim:
                waiting.interim(hint)
        if self._waiting is not waiting:
            # A hint was the last that its client took.
            return
        if parser.switched is not None:
            self._waiting = None
            parser.let_go()
            self._backend.is_well()
            waiting.switched(self, parser.switched, parser.behind)
            return
        head = parser.head
        if head is None:
            return
        if self._backend.down_until:
            self._backend.is_well()
        pieces, parser.pieces = parser.pieces, []
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if parser.done and self.is_asked and not self._is_answered:
            self._settle(parser)
            waiting.answered(head, body)
            return
        if not self._is_answered:
            self._is_answered = True
            waiting.responded(head)
        if body and self._waiting is waiting:
            waiting.body(body)
        if parser.done and self._waiting is waiting:
            self._settle(parser)
            waiting.ended()

    def _settle(self, parser: ResponseParser) -> None:
        """The response is complete: keep the connection for the next request, where that may be."""
        self._waiting = None
        self.patience.rest()
        transport = self.transport
        # An answer may come before the transport has let go of all that was asked: the next request would go out behind the rest.
        has_sent_all = not transport.dataBuffer and not transport._tempDataLen
        if parser.reusable and has_sent_all and self.is_asked and not self.is_last and not self._is_lost:
            if self._is_held:
                # It is the client of this answer that is slow; the next one would wait for ever.
                self.go_on()
            self._backend.keep(self)
        else:
            self.close()

    def _break(self, waiting: Waiting, why: str) -> None:
        self.close()
        waiting.broken(why, answered=self._is_answered)


class Backend:
    """One server behind the door."""

    def __init__(self, target: Target, reactor: Any, deadlines: Deadlines, names: HeaderNames, watch: Watch) -> None:
        self.target = target
        self.watch = watch
        self.deadlines = deadlines
        self.names = names
        self._reactor = reactor
        self._idle: list[BackendConnection] = []
        self._rest = _FIRST_REST
        #: Until when it is passed over, in seconds of the monotonic clock; 0 where it is well.
        self.down_until = 0.0
        self._log = Logger()

    def idle(self) -> BackendConnection | None:
        """Return a connection that is waiting for a request, if there is one: the last that was used."""
        while self._idle:
            connection = self._idle.pop()
            # What has come already would be taken for the answer to the next request.
            if not connection.has_news():
                return connection
            connection.close()
        return None

    def connect(self, timeout: float, made: Callable[[BackendConnection], object], failed: Callable[[str], object]) -> None:
        """Make a connection.  Either *made* or *failed* is called, once."""
        factory = _Factory(self, self._reactor, made, failed)
        factory.deadline = self.deadlines.set(timeout, factory.late)
        factory.connect()

    def keep(self, connection: BackendConnection) -> None:
        """Keep a connection for the next request."""
        if len(self._idle) >= _MOST_IDLE:
            connection.close()
            return
        self._idle.append(connection)
        connection.patience.wait(_IDLE, connection.close)

    def forget(self, connection: BackendConnection) -> None:
        """Let go of a connection that is no longer any good."""
        if connection in self._idle:
            self._idle.remove(connection)

    def is_well(self) -> None:
        """It has answered.  That it can be reached says little: a server that hangs has a kernel that does not."""
        if self.down_until:
            self._log.info("{target} answers again", target=self.target)
        self._rest, self.down_until = _FIRST_REST, 0.0

    def is_down(self, why: str) -> None:
        """It could not be reached, or did not answer: pass it over, each time for twice as long."""
        if self.deadlines.seconds() < self.down_until:
            # Of requests that come together, the first has said so; and where all are down, each is tried all the time.
            return
        if not self.down_until:
            # Once: every request that failed for it has a line of its own.
            self._log.warn("{target} is passed over: {why}", target=self.target, why=why)
        self._pass_over()

    def is_tried(self) -> None:
        """It is asked first.  Where it was down, one request finds out how it is: others wait for no silent server meanwhile."""
        if self.down_until and self.deadlines.seconds() >= self.down_until:
            self._pass_over()

    def _pass_over(self) -> None:
        self.down_until = self.deadlines.seconds() + self._rest
        self._rest = min(2 * self._rest, _LONGEST_REST)

    def close(self) -> None:
        """Let go of the connections that wait."""
        for connection in self._idle[:]:
            connection.close()


class Backends:
    """Every backend of the configuration, each once: what is known of them outlives a reload."""

    def __init__(self, reactor: Any, deadlines: Deadlines, names: HeaderNames, watch: Watch = watch) -> None:
        self._reactor = reactor
        self._watch = watch
        self._deadlines = deadlines
        self._names = names
        self._by_target: dict[Target, Backend] = {}
        # Of each list of servers: with one for all, two routes that are asked alternately would each have one server.
        self._turns: dict[tuple[Target, ...], int] = {}
        #: The connections that have become another protocol's.
        self.upgrades = Upgrades()

    def in_turn(self, targets: tuple[Target, ...]) -> list[Backend]:
        """Return the backends in the order in which a request is to try them: the next in turn, and the ill ones last."""
        backends = [self._of(target) for target in targets]
        if len(backends) == 1:
            return backends
        start = self._turns.get(targets, 0)
        self._turns[targets] = (start + 1) % len(backends)
        backends = backends[start:] + backends[:start]
        now = self._deadlines.seconds()
        backends.sort(key=lambda backend: max(0.0, backend.down_until - now))
        backends[0].is_tried()
        return backends

    def keep_only(self, targets: Iterable[Target]) -> None:
        """Forget the backends that no route has any more."""
        self._turns.clear()
        for target in self._by_target.keys() - set(targets):
            self._by_target.pop(target).close()

    def _of(self, target: Target) -> Backend:
        found = self._by_target.get(target)
        if found is None:
            found = self._by_target[target] = Backend(target, self._reactor, self._deadlines, self._names, self._watch)
        return found


class _Factory(ClientFactory):
    noisy = False

    def __init__(
        self, backend: Backend, reactor: Any, made: Callable[[BackendConnection], object], failed: Callable[[str], object]
    ) -> None:
        self._backend = backend
        self._reactor = reactor
        host = backend.target.host
        self._hosts = list(_LOCALHOST) if host == "localhost" else [host]
        self._why: str | None = None
        self._made = made
        self._failed = failed
        self.connector: Any = None
        self.deadline: Deadline
        self._is_late = False

    def connect(self) -> None:
        """Try the next address."""
        where, host = self._backend.target, self._hosts.pop(0)
        # The reactor's own timeout goes by the wall clock.
        if where.path is not None:
            self.connector = self._reactor.connectUNIX(where.path, self, timeout=None)
        else:
            self.connector = self._reactor.connectTCP(host, where.port, self, timeout=None)

    def late(self) -> None:
        """It takes too long."""
        self._is_late = True
        self.connector.stopConnecting()

    def buildProtocol(self, addr: object) -> BackendConnection:
        self.deadline.cancel()
        return BackendConnection(self._backend, self._made)

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        # Of the first address: that there is no IPv6 here is no answer to why a server cannot be reached.
        self._why = self._why or _told(reason)
        if self._hosts and not self._is_late:
            self.connect()
            return
        self.deadline.cancel()
        self._failed("it takes too long" if self._is_late else self._why)


def _told(reason: Failure) -> str:
    """Return, in a line, why there is no connection."""
    error = reason.value
    if isinstance(error, ConnectError) and error.osError is None and isinstance(error.args[0], Failure):
        # Over a unix socket (unix(7), EAGAIN): nothing is begun there, and the reactor sees a connection that has ended.
        return "more connections wait for it than it lets wait"
    return reason.getErrorMessage()
