"""The configuration while the service runs: believed when it is whole, and a mistake changes nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from mtlsd import configwatch
from mtlsd.applications import looked_over
from mtlsd.config import Config
from mtlsd.configwatch import ConfigWatcher
from mtlsd.errors import SettingsError

ROUTE = '[[route]]\npath = "/{}"\nallow = ["*"]\nresource = "a:b"\n'


class ConfigWatcherTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.path = folder / "mtlsd.toml"
        self.path.write_text(ROUTE.format("a"))
        self.used: list[Config] = []
        self.refusal: SettingsError | None = None
        self.said: list[str] = []
        self.watcher = ConfigWatcher(self.path)
        self.watcher.hand_to(self.use)
        observer = cast(ILogObserver, self.hear)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.serial = 0

    def use(self, config: Config) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.used.append(config)

    def hear(self, event: LogEvent) -> None:
        if event.get("log_namespace") == "mtlsd.configwatch" and event["log_level"] != LogLevel.debug:
            self.said.append(str(event["log_format"]).format(**event))

    def put(self, text: str) -> None:
        """Write the file in place; its time is another one each time, however quick the test is."""
        self.path.write_text(text)
        self.serial += 1
        os.utime(self.path, ns=(0, self.serial * 10**9))

    def paths(self) -> list[list[bytes]]:
        return [[route.path for route in config.rules.routes] for config in self.used]

    def test_nothing_has_changed(self) -> None:
        """Each look would build every application's resource anew."""
        for _ in range(3):
            self.watcher.beat()
        self.assertEqual((self.used, self.said), ([], []))

    def test_a_change(self) -> None:
        """It would take a restart to let somebody out of `/admin`."""
        self.put(ROUTE.format("b"))
        self.watcher.beat()
        self.watcher.beat()
        self.watcher.beat()
        self.assertEqual(self.paths(), [[b"/b"]])
        self.assertEqual(self.said, [f"{self.path}: 1 routes in force"])

    def test_a_change_while_the_service_starts(self) -> None:
        """Whoever was let out of `/admin` while certificates were loaded would get in until the file is touched again."""
        watcher = ConfigWatcher(self.path)
        self.put(ROUTE.format("b"))
        watcher.hand_to(self.use)
        self.assertEqual([route.path for route in watcher.config.rules.routes], [b"/a"])
        for _ in range(3):
            watcher.beat()
        self.assertEqual(self.paths(), [[b"/b"]])

    def test_a_change_just_behind_the_first_read(self) -> None:
        """The signature has to be that of the bytes that were read, or of older ones: never of newer ones."""

        def read_and_change(path: Path, *, imports: bool) -> Config:
            config = looked_over(path, imports=imports)
            if not self.serial:
                self.put(ROUTE.format("b"))
            return config

        self.patch(configwatch, "looked_over", read_and_change)
        watcher = ConfigWatcher(self.path)
        watcher.hand_to(self.use)
        for _ in range(3):
            watcher.beat()
        self.assertEqual(self.paths(), [[b"/b"]])

    def test_half_a_file(self) -> None:
        """The first half of a list of routes may be right by itself, with the rule for `/admin` in the other."""
        for more in ("b", "c", "d"):
            self.put(self.path.read_text() + ROUTE.format(more))
            self.watcher.beat()
        self.assertEqual(self.used, [])
        self.watcher.beat()
        self.assertEqual(self.paths(), [[b"/a", b"/b", b"/c", b"/d"]])

    def test_a_mistake(self) -> None:
        """A slip of the pen would take every route away; and it is said once, with its place."""
        self.put("[[route]]\n")
        for _ in range(4):
            self.watcher.beat()
        self.assertEqual(self.used, [])
        (said,) = self.said
        self.assertIn("route[0].path: missing", said)
        self.assertTrue(said.endswith("; what was in force stays in force"), said)
        self.put(ROUTE.format("b"))
        self.watcher.beat()
        self.watcher.beat()
        self.assertEqual(self.paths(), [[b"/b"]])

    def test_every_mistake_at_once(self) -> None:
        """A folder that is missing would come to light only when the file's own mistakes have been put right."""
        self.put(ROUTE.format("b") + ROUTE.format("b") + '[[route]]\npath = "/f"\nallow = ["*"]\nstatic = "nowhere"\n')
        self.watcher.reload()
        (said,) = self.said
        self.assertIn("route[1].path: it is the path of route[0] too", said)
        self.assertIn(f"route[2].static: {self.path.parent / 'nowhere'} is not a folder", said)

    def test_what_cannot_be_used(self) -> None:
        """A module that is gone is a mistake of the file that names it."""
        self.refusal = SettingsError("route[0].wsgi: no module")
        self.put(ROUTE.format("b"))
        self.watcher.reload()
        self.assertEqual(self.said, ["route[0].wsgi: no module; what was in force stays in force"])

    def test_the_file_goes(self) -> None:
        """Between the two steps of many an editor there is no file: that is no wish to have no routes."""
        self.path.unlink()
        for _ in range(3):
            self.watcher.beat()
        self.assertEqual((self.used, self.said), ([], []))
        self.watcher.reload()
        self.assertIn("No such file", self.said[0])
        self.put(ROUTE.format("c"))
        self.watcher.beat()
        self.watcher.beat()
        self.assertEqual(self.paths(), [[b"/c"]])

    def test_sighup(self) -> None:
        """Whoever asks for it knows that the file is whole; unchanged, it is read all the same, for a module it names."""
        self.watcher.reload()
        self.assertEqual(self.paths(), [[b"/a"]])
        self.put(ROUTE.format("b"))
        self.watcher.reload()
        self.watcher.beat()
        self.assertEqual(self.paths(), [[b"/a"], [b"/b"]])

    def test_settings(self) -> None:
        """A port that is changed in the file, and nowhere else, puzzles whoever changed it."""
        self.put("[server]\nport = 1\n" + ROUTE.format("a"))
        self.watcher.reload()
        self.assertEqual(self.said[1:], [f"{self.path}: server.port has changed: that takes a restart"])
