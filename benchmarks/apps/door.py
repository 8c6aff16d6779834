"""mtlsd with files beside its own pages, for ``twistd -n -y``: wired by makeService, as ``twistd mtlsd`` is.

``BENCH_OPTIONS`` holds mtlsd's options, a JSON list; ``BENCH_FILES`` is the folder that is served under ``/files``.  With
``BENCH_LAG``, a file, a clock in the reactor notes how late it is called, and writes that there once a second.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from twisted.application.service import Application, IServiceCollection, Service
from twisted.web.resource import Resource
from twisted.web.static import File

from mtlsd.tap import Options, makeService
from mtlsd.web.site import make_root

#: Seconds between two looks at the clock.
EVERY = 0.005


class Lag(Service):
    """How much later than it asked for the reactor calls, in seconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._late: list[float] = []
        self._written = time.monotonic()

    def startService(self) -> None:
        super().startService()
        self._again()

    def _again(self) -> None:
        from twisted.internet import reactor

        self._asked = time.monotonic()
        reactor.callLater(EVERY, self._called)

    def _called(self) -> None:
        now = time.monotonic()
        self._late.append(now - self._asked - EVERY)
        if now - self._written >= 1:
            with self._path.open("a") as out:
                out.write(json.dumps({"from": self._written, "to": now, "late": self._late}) + "\n")
            self._late, self._written = [], now
        if self.running:
            self._again()


def make_application() -> IServiceCollection:
    """Wire it, as twistd's plugin does."""
    options = Options()
    options.parseOptions(json.loads(os.environ["BENCH_OPTIONS"]))
    root = make_root()
    assert isinstance(root, Resource)
    root.putChild(b"files", File(os.environ["BENCH_FILES"]))
    service = makeService(options, root=root)
    made: IServiceCollection = Application("door")
    assert isinstance(service, Service)
    service.setServiceParent(made)
    if "BENCH_LAG" in os.environ:
        Lag(Path(os.environ["BENCH_LAG"])).setServiceParent(made)
    return made


application = make_application()
