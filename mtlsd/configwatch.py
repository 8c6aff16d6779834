"""The configuration file while the service runs: a change is in force with the next request, a mistake changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from twisted.logger import Logger

from mtlsd.applications import looked_over
from mtlsd.config import Config
from mtlsd.errors import SettingsError
from mtlsd.registry.folder import signature_at


class ConfigWatcher:
    """Looks at the file at every beat, and has what has changed in it used.

    One that is being written may be half there, and half a list of routes may let in whom the other half keeps out: it is
    read when it has stayed the same for a beat.
    """

    def __init__(self, path: Path) -> None:
        """Read the file *path* for the first time.  Raises :exc:`~mtlsd.config.ConfigError`."""
        self._path = path
        self._log = Logger()
        # Before it is read, and here: a start may take seconds, and what is written meanwhile must not count as read.
        self._read = self._seen = signature_at(self._path)
        #: What stood in the file when the service started.
        self.config = _read(path)
        self._use: Callable[[Config], object] = _use_nothing

    def hand_to(self, use: Callable[[Config], object]) -> None:
        """Have *use* take what is read from now on; it may raise :exc:`SettingsError`, and then changes nothing."""
        self._use = use

    def beat(self) -> None:
        """Called once a second."""
        before, self._seen = self._seen, signature_at(self._path)
        if self._seen is not None and self._seen == before and self._seen != self._read:
            self.reload()

    def reload(self) -> None:
        """Read the file now, changed or not (SIGHUP)."""
        self._read = self._seen = signature_at(self._path)
        try:
            config = _read(self._path)
            self._use(config)
        except SettingsError as error:
            self._log.error("{error}; what was in force stays in force", error=error)
            return
        self._log.info("{path}: {routes} routes in force", path=self._path, routes=len(config.rules.routes))
        for key in _changed(self.config.server, config.server):
            self._log.warn("{path}: server.{key} has changed: that takes a restart", path=self._path, key=key)


def _read(path: Path) -> Config:
    # Modules are imported by who uses them: at the start, root may not have been given up yet.
    return looked_over(path, imports=False)


def _use_nothing(config: Config) -> None:
    """Stand in until there is somebody to use it."""


def _changed(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
