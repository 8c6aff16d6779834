"""The registry that is a folder: ``authorized/`` and ``revoked/``, kept in force while the operator changes them.

Three things notice a change, because each of them misses some: inotify at once; a stat of the folders at every beat; and
a whole scan at a beat now and then, which sees what network file systems tell nobody.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mtlsd.registry.clients import believed
from mtlsd.registry.interfaces import IRegistry, Listener
from mtlsd.registry.listing import AUTHORIZED, REVOKED, marks
from mtlsd.registry.memory import MemoryRegistry
from mtlsd.registry.problem_log import ProblemLog
from mtlsd.registry.problems import Problem
from mtlsd.registry.records import Snapshot, Standing
from mtlsd.registry.scan import Scan, scan
from mtlsd.registry.watch import FolderWatch, Names
from mtlsd.text import printable

#: Seconds after which the folder is scanned in any case.
FULL_SCAN = 60.0
#: It is scanned more often while that costs no more than one part in this many of the time.
SHARE = 100
#: Seconds after which a scan that has not come back is a problem (a network file system that hangs).
HANGS = 60.0

#: Runs a scan off the reactor's thread.
InThread: TypeAlias = Callable[[Callable[[], Scan]], Deferred[Scan]]


@implementer(IRegistry)
class DirectoryRegistry:
    """Who is authorized, as the operator's folder has it.

    What cannot be read never changes what is in force: see :func:`mtlsd.registry.scan.scan`.  All methods belong to
    the reactor's thread.
    """

    def __init__(
        self,
        folder: Path,
        *,
        reactor: IReactorTime,
        seconds: Callable[[], float],
        in_thread: InThread,
        server_uid: Callable[[], int] = os.geteuid,
    ) -> None:
        """*folder* is the one with ``authorized/`` in it; *seconds* is a monotonic clock.

        inotify is used where *reactor* can also watch descriptors.  *server_uid* is asked at each scan, for it changes
        when the service gives up root.
        """
        self._folder = folder
        self._shown = printable(str(folder))
        self._reactor = reactor
        self._seconds = seconds
        self._in_thread = in_thread
        self._server_uid = server_uid
        self._memory = MemoryRegistry()
        self._log = Logger()
        self._problems = ProblemLog(seconds)
        self._watch: FolderWatch | None = None
        self._started = False
        self._last: Scan | None = None
        # When the scan that is running began; None while none is.
        self._running: float | None = None
        self._wanted = False
        # What the next scan has to look at: these files of authorized/, or (None) everything.
        self._names: set[str] | None = set()
        self._runs = 0
        # The first run that began after it was asked, when its look was made (once it has ended), and who waits for the answer.
        self._asked: list[tuple[int, float | None, Deferred[None]]] = []
        self._deaf = False
        self._call: IDelayedCall | None = None
        self._settles = float("inf")
        self._due = float("-inf")

    def standing(self, fingerprint: str) -> Standing:
        return self._memory.standing(fingerprint)

    def snapshot(self) -> Snapshot:
        return self._memory.snapshot()

    def listen(self, listener: Listener) -> None:
        self._memory.listen(listener)

    def load(self) -> None:
        """Scan for the first time, here and now.

        Raises :exc:`~mtlsd.errors.FolderError` where the folder is missing, unreadable or not safe to use.
        """
        began = self._seconds()
        # Nothing of what a scan makes is garbage; looking for it again and again takes a tenth of the time.
        collecting = gc.isenabled()
        gc.disable()
        try:
            found = self._scan()
        finally:
            if collecting:
                gc.enable()
        self._take(began, found)

    def start(self) -> None:
        """Watch the folder from now on; call :meth:`beat` once a second after this."""
        self._started = True
        if IReactorFDSet.providedBy(self._reactor):
            self._watch = FolderWatch(self._reactor, self._folder, (AUTHORIZED, REVOKED), self._want)
        self._follow()
        # What has changed since load() was heard by nobody.
        self._want()

    def stop(self) -> None:
        """Leave nothing in the reactor.  A scan that is still running is not taken any more."""
        self._started = False
        self._wanted = False
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._cancel()
        asked, self._asked = self._asked, []
        for _, _, waiting in asked:
            waiting.callback(None)

    def look(self, names: Names = None) -> Deferred[None]:
        """Scan again.  Fires, with ``None``, when what the folder says at this moment is in force (or reported).

        That takes :data:`~mtlsd.registry.clients.SETTLE` seconds longer where something was lost.  *names* are the files
        of ``authorized/`` that matter; ``None``: all do.
        """
        if not self._started:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._asked.append((self._runs + 1, None, waiting))
        self._want(names)
        return waiting

    def glance(self, names: frozenset[str]) -> Scan:
        """Return what a look at these files of ``authorized/``, and at all of ``revoked/``, sees; nothing is taken from it.

        For a writer who holds the folder's lock, in any thread.
        """
        return self._scan(names)

    def beat(self) -> None:
        """Notice what inotify did not.  To be called once a second by a monotonic clock."""
        if not self._started:
            return
        now = self._seconds()
        if self._running is not None:
            if now - self._running >= HANGS:
                hangs = "reading the folder does not come to an end; nobody is authorized or revoked until it does"
                self._problems.report((*self._known_problems(), Problem(self._shown, hangs)))
            return
        self._problems.repeat()
        last = self._last
        if (
            self._follow()
            or now >= min(self._due, self._settles)
            or last is None
            or last.unsure
            or last.marks != marks(self._folder)
        ):
            self._want()

    def _want(self, names: Names = None) -> None:
        """Have a scan that begins after this moment: of everything, or of these files of ``authorized/``."""
        if names is None:
            self._names = None
        elif self._names is not None:
            self._names |= names
        self._wanted = True
        if self._running is None:
            self._run()

    def _run(self) -> None:
        self._wanted = False
        self._cancel()
        self._runs += 1
        began = self._running = self._seconds()
        names = None if self._names is None else frozenset(self._names)
        self._names = set()
        running = maybeDeferred(self._in_thread, partial(self._scan, names))
        running.addCallbacks(partial(self._take, began, whole=names is None), self._failed)
        running.addBoth(self._ended, began)

    def _scan(self, names: Names = None) -> Scan:
        return scan(self._folder, self._last, server_uid=self._server_uid(), monotonic=self._seconds(), names=names)

    def _take(self, began: float, found: Scan, whole: bool = True) -> float | None:
        """Take what a scan has found; return when that was.  Its thread may have waited for its turn since the run *began*."""
        if self._running is not None and not self._started:
            return None
        self._last = found
        if whole:
            self._due = began + min(FULL_SCAN, SHARE * (self._seconds() - began))
        if found.again_in is not None:
            # From its beginning: the look at a large folder takes longer than what it saw needs to settle.
            self._settles = found.at + found.again_in
        self._problems.report(found.problems)
        self._memory.publish(found.snapshot, found.changed)
        return found.at

    def _failed(self, failure: Failure) -> None:
        # What it should have looked at has to be looked at all the same, at the next beat.
        self._due = self._seconds()
        self._names = None
        why = f"could not be read again ({type(failure.value).__name__}: {failure.getErrorMessage()}); what was known before stays in force"
        self._problems.report((*self._known_problems(), Problem(self._shown, printable(why))))

    def _ended(self, result: Failure | float | None, began: float) -> None:
        """A scan is over, whichever way; *result* is when it was made."""
        at = result if isinstance(result, float) else began
        self._running = None
        if isinstance(result, Failure):
            self._log.failure("the registry failed to take a scan", result)
        if not self._started:
            return
        if self._follow():
            self._wanted, self._names = True, None
        settling = self._settles != float("inf")
        asked, self._asked = self._asked, []
        served = []
        for run, since, waiting in asked:
            if self._runs >= run and since is None:
                since = at  # noqa: PLW2901 (it is what is kept)
            # What was lost by the time of asking is decided by a scan that began a while after the first that saw it: a busy
            # server comes to that late.
            if since is not None and (not settling or believed(since, at)):
                served.append(waiting)
            else:
                self._asked.append((run, since, waiting))
        if self._wanted:
            self._run()
        elif settling:
            self._call = self._reactor.callLater(max(0.0, self._settles - self._seconds()), self._want, frozenset())
        for waiting in served:
            waiting.callback(None)

    def _follow(self) -> bool:
        """Watch the folders that are there now; tell whether these are others than before, so that one has to look."""
        if self._watch is None:
            return False
        try:
            other = self._watch.follow()
        except OSError as error:
            if not self._deaf:
                self._log.warn("{problem}", problem=f"{self._shown}: {error}; changes are looked for once a second until it has")
            self._deaf = True
            return False
        self._deaf = False
        return other

    def _known_problems(self) -> tuple[Problem, ...]:
        return self._last.problems if self._last is not None else ()

    def _cancel(self) -> None:
        self._settles = float("inf")
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
