"""A WSGI application makes no more than its client takes: its thread is this one, and its waiting is a script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mtlsd.web.application import Application
from tests.site_in_memory import Answer, FrontDoor, Gate, ask
from tests.test_router import Threads

PIECE = bytes(48 * 1024)


class Narrow(Gate):
    """A client whose connection is full with every piece."""

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.producer is not None:
            self.producer.pauseProducing()


class Flag:
    """A threading.Event, whose wait is what *meanwhile* does."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self.is_set = False
        self._meanwhile = meanwhile

    def set(self) -> None:
        self.is_set = True

    def clear(self) -> None:
        self.is_set = False

    def wait(self) -> None:
        if not self.is_set:
            self._meanwhile()
        assert self.is_set, "it would wait for ever"


class Pieces:
    """What an application returns; it counts."""

    def __init__(self, count: int, failure: Exception | None = None, piece: Any = PIECE) -> None:
        self.left = count
        self.piece = piece
        self.made = self.closed = 0
        self.failure = failure

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self.left):
            self.made += 1
            yield self.piece
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        self.closed += 1


class PacedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.gate = Narrow()
        self.waits = 0
        self.meanwhile: Callable[[], object] = self.go_on

    def wait(self) -> None:
        self.waits += 1
        self.meanwhile()

    def go_on(self) -> None:
        self.gate.protocol.resumeProducing()

    def stop(self) -> None:
        self.gate.protocol.stopProducing()

    def get(self, application: Callable[[dict[str, Any], Any], Iterable[bytes]], *more: bytes) -> bytes:
        door = FrontDoor(Application(Threads(), Threads(), application, lambda: Flag(self.wait)))
        door.connect(self.gate)
        self.gate.protocol.dataReceived(ask("/") + b"".join(more))
        return self.gate.taken()

    def answering(self, pieces: Iterable[bytes]) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [("Content-Length", str(len(PIECE) * 10))])
            return pieces

        return application

    def test_it_waits_for_room(self) -> None:
        """Whatever an application makes for a client that reads nothing would lie in this process' memory."""
        pieces = Pieces(10)
        answer = Answer(self.get(self.answering(pieces)))
        self.assertEqual((answer.body, pieces.closed), (PIECE * 10, 1))
        # But for what is let go before anybody looks.
        self.assertEqual(self.waits, 9)

    def test_the_client_goes(self) -> None:
        """Its thread would wait for ever; the reactor has ten of them."""
        pieces = Pieces(10)
        self.meanwhile = self.gate.lose
        self.get(self.answering(pieces))
        self.assertEqual((pieces.closed, self.waits), (1, 1))
        self.assertLessEqual(pieces.made, 3)

    def test_the_client_stops(self) -> None:
        """The same, for one that has said goodbye with the rest of its answer still on the way."""
        pieces = Pieces(10)
        self.meanwhile = self.stop
        self.get(self.answering(pieces))
        self.assertEqual((pieces.closed, self.waits), (1, 1))
        self.assertLessEqual(pieces.made, 3)

    def test_small_answers_do_not_wait(self) -> None:
        """Nearly every answer is one piece: it would ask the reactor twice more, and be cut where its client has half closed."""
        answer = self.get(self.answering([b"abc"]))
        self.assertTrue(answer.endswith(b"abc"))
        self.assertEqual(self.waits, 0)

    def test_what_is_written(self) -> None:
        """`write`, as start_response returns it, is the other way to answer; and it ends where the client has."""
        written = 0

        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            nonlocal written
            write = start_response("200 OK", [])
            for _ in range(10):
                write(PIECE)
                written += 1
                if written == 5:
                    self.meanwhile = self.gate.lose
            return []

        self.get(application)
        self.assertEqual((written, self.waits), (6, 5))

    def test_the_next_request(self) -> None:
        """A producer that stays behind would be an error in the log, and the connection of no more use."""
        pieces = Pieces(3)

        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [("Content-Length", str(len(PIECE) * 3 if environ["PATH_INFO"] == "/" else 2))])
            return pieces if environ["PATH_INFO"] == "/" else [b"ok"]

        self.assertTrue(self.get(application, ask("/next")).endswith(b"\r\n\r\nok"))
        self.assertFalse(self.gate.aborted)

    def test_a_failure_on_the_way(self) -> None:
        """What an application holds is let go, and half an answer does not look like a whole one."""
        pieces = Pieces(3, ValueError("secret"))
        self.get(self.answering(pieces))
        self.assertEqual(pieces.closed, 1)
        self.assertTrue(self.gate.disconnecting)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_what_is_no_bytes(self) -> None:
        """The mistake is the application's; what it holds is let go all the same."""
        pieces = Pieces(1, piece="text")
        self.assertEqual(Answer(self.get(self.answering(pieces))).status, 500)
        self.assertEqual(pieces.closed, 1)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_no_start(self) -> None:
        """A client would wait for an answer that nobody gives."""
        for count in (0, 1):
            self.gate, pieces = Narrow(), Pieces(count)
            self.assertEqual(Answer(self.get(lambda *_: pieces)).status, 500)  # noqa: B023
            self.assertEqual(pieces.closed, 1)
            self.assertEqual(len(self.flushLoggedErrors(AssertionError)), 1)
