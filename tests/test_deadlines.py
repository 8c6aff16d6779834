"""Deadlines and the heartbeat, with a clock of the test's own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mtlsd.deadlines import Deadline, Deadlines
from mtlsd.heartbeat import Heartbeat

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 20)),
        st.tuples(st.just("cancel"), st.integers(0, 60)),
        st.tuples(st.just("wait"), st.integers(0, 7)),
    ),
    max_size=200,
)


class DeadlinesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock.seconds)
        self.fired: list[object] = []

    def set(self, due_in: float, name: object) -> Deadline:
        return self.deadlines.set(due_in, lambda: self.fired.append(name))

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.deadlines.expire()

    def test_some_at_a_time(self) -> None:
        """Two thousand silent strangers would come to their deadline at once, and everybody else would wait for that."""
        fired: list[int] = []
        for nth in range(5):
            self.deadlines.set(1, partial(fired.append, nth))
        self.deadlines.set(1, lambda: fired.append(9)).cancel()
        self.clock.advance(1)
        self.assertIs(self.deadlines.expire(2), True)
        self.assertEqual(fired, [0, 1])
        self.assertIs(self.deadlines.expire(2), True)
        self.assertIs(self.deadlines.expire(2), False)
        self.assertEqual(fired, [0, 1, 2, 3, 4])

    @given(STEPS)
    def test_fires_exactly_what_is_due(self, steps: list[tuple[str, int]]) -> None:
        """A connection would be cut although it kept its deadline, or held open although it did not."""
        self.setUp()
        model: dict[int, float] = {}
        handles: list[Deadline] = []
        expected: list[object] = []
        for what, number in steps:
            if what == "set":
                model[len(handles)] = self.clock.seconds() + number
                handles.append(self.set(number, len(handles)))
            elif what == "cancel" and number < len(handles):
                handles[number].cancel()
                model.pop(number, None)
            elif what == "wait":
                self.wait(number)
                due = sorted((at, nth) for nth, at in model.items() if at <= self.clock.seconds())
                expected += [nth for _, nth in due]
                for _, nth in due:
                    del model[nth]
            self.assertEqual(self.fired, expected)
            self.assertEqual(len(self.deadlines), len(model))
            self.assertEqual([handle.active for handle in handles], [nth in model for nth in range(len(handles))])

    def test_not_before_its_time(self) -> None:
        """A slow but honest client would be cut too early."""
        self.set(10, "late")
        self.wait(9.99)
        self.assertEqual(self.fired, [])
        self.wait(0.01)
        self.assertEqual(self.fired, ["late"])
        self.wait(100)
        self.assertEqual(self.fired, ["late"])

    def test_one_that_fails_hinders_no_other(self) -> None:
        """One broken connection would keep all others open for ever."""
        self.deadlines.set(1, lambda: 1 / 0)
        self.set(2, "other")
        self.wait(3)
        self.assertEqual(self.fired, ["other"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_cancelled_by_another_of_the_same_beat(self) -> None:
        """A connection that has just gone would be closed a second time."""
        second: list[Deadline] = []

        def cancel() -> None:
            second[0].cancel()

        self.deadlines.set(1, cancel)
        second.append(self.set(2, "second"))
        self.wait(5)
        self.assertEqual(self.fired, [])

    def test_one_that_sets_itself_again(self) -> None:
        """A deadline that is due at once, again and again, would hold the reactor for ever."""

        def again() -> None:
            self.fired.append("again")
            self.deadlines.set(0, again)

        self.deadlines.set(0, again)
        self.wait(0)
        self.assertEqual(self.fired, ["again"])
        self.wait(0)
        self.assertEqual(self.fired, ["again", "again"])

    def test_the_cancelled_take_no_room(self) -> None:
        """A keep-alive connection with a thousand requests a second would fill the memory."""
        held = [self.set(60, nth) for nth in range(10)]
        for _ in range(100_000):
            self.set(10, "head").cancel()
        self.assertEqual(len(self.deadlines), len(held))
        self.assertLess(len(self.deadlines._heap), 200)

    def test_cancelled_twice(self) -> None:
        """The count of what is pending would drift, and the tidying with it."""
        deadline = self.set(1, "x")
        deadline.cancel()
        deadline.cancel()
        self.assertEqual(len(self.deadlines), 0)


@implementer(IReactorFromThreads)
class Threads:
    """The half of a reactor that a thread sees."""

    def __init__(self) -> None:
        self.calls: queue.Queue[Callable[[], object]] = queue.Queue()

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        self.calls.put(lambda: callable(*args, **kwargs))


class HeartbeatTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.reactor = Threads()
        self.beats: list[str] = []
        self.heart = Heartbeat(self.reactor, self.clock.seconds, 0.001)
        self.addCleanup(self.heart.stop)

    def test_beats_in_the_reactors_thread(self) -> None:
        """Nothing would ever expire: no deadline, no revocation by a changed folder."""
        self.heart.add(lambda: self.beats.append("beat"))
        self.heart.start()
        first = self.reactor.calls.get()
        self.assertEqual(self.beats, [])
        first()
        self.assertEqual(self.beats, ["beat"])
        self.reactor.calls.get()()
        self.assertEqual(self.beats, ["beat", "beat"])

    def test_one_beat_waits_at_most(self) -> None:
        """A reactor that was busy for a minute would find sixty beats in its queue."""
        stop = _CountedStop(100)
        self.heart._keep_time(stop)
        self.assertEqual(self.reactor.calls.qsize(), 1)

    def test_stopped(self) -> None:
        """A thread would outlive the service, and touch what is closed already."""
        self.heart.add(lambda: self.beats.append("beat"))
        self.heart.start()
        thread = self.heart._thread
        assert thread is not None
        pending = self.reactor.calls.get()
        self.heart.stop()
        self.assertFalse(thread.is_alive())
        pending()
        self.assertEqual(self.beats, [])

    def test_started_again(self) -> None:
        """A service that is stopped and started in one process would have no deadlines the second time."""
        self.heart.add(lambda: self.beats.append("beat"))
        self.heart.start()
        self.heart.start()
        self.heart.stop()
        while not self.reactor.calls.empty():
            self.reactor.calls.get()()
        self.assertEqual(self.beats, [])
        self.heart.start()
        self.reactor.calls.get()()
        self.assertEqual(self.beats, ["beat"])

    def test_one_callback_that_fails(self) -> None:
        """An error in reading the folder would switch all deadlines off."""
        self.heart.add(lambda: 1 / 0)
        self.heart.add(lambda: self.beats.append("other"))
        self.heart.beat()
        self.assertEqual(self.beats, ["other"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_less_often(self) -> None:
        """What costs more would be done every second, or never."""
        self.heart.add(lambda: self.beats.append("minute"), every=60)
        for _ in range(125):
            self.clock.advance(1)
            self.heart.beat()
        self.assertEqual(self.beats, ["minute", "minute"])

    def test_monotonic_unless_told_otherwise(self) -> None:
        """Setting the machine's clock would shift what is judged by it."""
        self.assertIs(Heartbeat(self.reactor)._seconds, time.monotonic)


class _CountedStop(threading.Event):
    """An event that is waited for in vain *times* times, without any time passing."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def wait(self, timeout: float | None = None) -> bool:
        self.times -= 1
        return self.times < 0
