"""What surrounds the reactor: early signals, threads that do not hold the end up, and who the service will be."""

from __future__ import annotations

import os
import signal
import threading

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.service import EarlyHangup, in_daemon_thread, raise_descriptor_limit
from mtlsd.tap import Options, _user_to_become


class EarlyHangupTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def test_remembered(self) -> None:
        """A reload in the second of the start would end the service."""
        early = EarlyHangup()
        self.assertFalse(early.came)
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertTrue(early.came)

    def test_somebody_elses(self) -> None:
        """nohup would be undone, or another's handler lost."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        EarlyHangup()
        self.assertEqual(signal.getsignal(signal.SIGHUP), signal.SIG_IGN)


class InDaemonThreadTests(SynchronousTestCase):
    """A scan runs beside the reactor, and its end is told in the reactor's thread."""

    def ran(self, work: object) -> Deferred[int]:
        called = threading.Event()
        calls: list[tuple[object, ...]] = []

        class Reactor(Clock):
            def callFromThread(self, *call: object) -> None:
                calls.append(call)
                called.set()

        result: Deferred[int] = in_daemon_thread(Reactor(), work)  # type: ignore[arg-type]
        self.assertTrue(called.wait(30))
        self.assertFalse(result.called)
        call, argument = calls[0]
        call(argument)  # type: ignore[operator]
        return result

    def test_result(self) -> None:
        """No change of the folder would ever be taken up."""
        self.assertEqual(self.successResultOf(self.ran(lambda: 5)), 5)

    def test_failure(self) -> None:
        """A scan that fails would be waited for, for ever."""

        def broken() -> int:
            raise SystemExit("broken")

        self.failureResultOf(self.ran(broken), SystemExit)

    def test_daemon(self) -> None:
        """A scan that hangs in a dead network file system would keep a stopped service for ever."""
        self.assertTrue(self.successResultOf(self.ran(lambda: threading.current_thread().daemon)))


class UserToBecomeTests(SynchronousTestCase):
    def test_user(self) -> None:
        """With ``twistd --uid`` the first look would refuse every file of the user that the service becomes."""

        def parent(user: int | None) -> usage.Options:
            above = usage.Options()
            above["uid"] = user
            return above

        options = Options()
        self.assertIsNone(_user_to_become(options))
        self.patch(os, "geteuid", lambda: 0)
        options.parent = parent(5)
        self.assertEqual(_user_to_become(options), 5)
        options.parent = parent(None)
        self.assertIsNone(_user_to_become(options))
        self.patch(os, "geteuid", lambda: 7)
        options.parent = parent(5)
        self.assertIsNone(_user_to_become(options))


class DescriptorLimitTests(SynchronousTestCase):
    def test_raised(self) -> None:
        """A service would run out of descriptors that it could have had for the asking."""
        import resource

        self.assertEqual(raise_descriptor_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
