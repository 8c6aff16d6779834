"""What surrounds the reactor: early signals, threads that do not hold the end up, and who the service will be."""

from __future__ import annotations

import os
import signal

from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.service import EarlyHangup, raise_descriptor_limit
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
