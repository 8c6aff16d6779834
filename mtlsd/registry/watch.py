"""inotify on the operator's folder: any event at all means, look again.

Twisted's own reader drops an overflow of the queue in silence, and goes deaf once a watched folder is replaced.  So
this one reads the events itself, and notes when a watch has become worthless.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from twisted.internet import fdesc, inotify
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorFDSet
from twisted.python.failure import Failure
from twisted.python.filepath import FilePath

from mtlsd.registry.atomic import TEMPORARY

#: Names of files; ``None``: it could be any of them.
Names: TypeAlias = frozenset[str] | None

_TEMPORARY = os.fsencode(TEMPORARY)
_EVENT = struct.Struct("=iIII")
_ENTRIES = inotify.IN_CREATE | inotify.IN_DELETE | inotify.IN_MOVED
_SELF = inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF | inotify.IN_ONLYDIR
_EVERYTHING = _ENTRIES | _SELF | inotify.IN_MODIFY | inotify.IN_CLOSE_WRITE | inotify.IN_ATTRIB
_WORTHLESS = inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF | inotify.IN_UNMOUNT | inotify.IN_IGNORED | inotify.IN_Q_OVERFLOW


class FolderWatch:
    """Watches a folder for names that come and go, and the folders in it for every change of their files."""

    def __init__(self, reactor: IReactorFDSet, folder: Path, inner: tuple[str, ...], heard: Callable[[Names], None]) -> None:
        """*heard* is called when something has happened, with the names of the files of the first of *inner* concerned.

        ``None`` stands for anything at all.
        """
        self._reactor = reactor
        # A log that stands in the outer folder is written all the time, and says nothing: names only.
        self._masks = {folder: _ENTRIES | _SELF} | {folder / name: _EVERYTHING for name in inner}
        self._heard = heard
        self._named, *unnamed = (folder / name for name in inner)
        self._unnamed = frozenset(unnamed)
        self._paths: dict[int, Path] = {}
        self._notifier: _Notifier | None = None
        self._watched: dict[Path, tuple[int, int]] | None = None

    def follow(self) -> bool:
        """Watch the folders that stand at the paths now; tell whether these are other ones than before.

        Raises :exc:`OSError` where the kernel has no watch left for us.  Cheap while nothing has changed.
        """
        # Looked at before the watch is set: a folder that is replaced in between differs at the next call.
        now = {path: place for path in self._masks if (place := _place(path)) is not None}
        if now == self._watched:
            return False
        self.close()
        try:
            self._notifier = notifier = _Notifier(self._reactor, self._told)
            for path in now:
                self._paths[notifier.watch(FilePath(os.fsencode(path)), mask=self._masks[path])] = path
        except inotify.INotifyError as error:
            self.close()
            raise OSError("inotify has no watch left, or the folder has just gone") from error
        notifier.startReading()
        self._watched = now
        return True

    def close(self) -> None:
        """Watch nothing any more; nothing stays in the reactor."""
        self._watched = None
        self._paths = {}
        if self._notifier is not None:
            notifier, self._notifier = self._notifier, None
            notifier.connectionLost(Failure(ConnectionDone()))

    def _told(self, events: list[tuple[int, int, bytes]]) -> None:
        names: set[str] = set()
        whole = concerned = False
        for watch, mask, name in events:
            path = self._paths.get(watch)
            if name.startswith(_TEMPORARY):
                # A change is several events of these, before the one that counts.
                continue
            concerned = True
            if mask & _WORTHLESS:
                self._watched = None
                whole = True
            elif path == self._named and name:
                names.add(os.fsdecode(name))
            elif path not in self._unnamed:
                whole = True
        if concerned:
            self._heard(None if whole else frozenset(names))


class _Notifier(inotify.INotify):
    """Twisted's descriptor, with a reader of our own."""

    def __init__(self, reactor: IReactorFDSet, told: Callable[[list[tuple[int, int, bytes]]], None]) -> None:
        super().__init__(reactor)
        self._told = told

    def doRead(self) -> None:
        fdesc.readFromFD(self.fileno(), self._events)

    def connectionLost(self, reason: Failure) -> None:
        # The reactor calls this as well when it ends, and a second close could hit a descriptor of somebody else.
        if self.disconnected:
            return
        super().connectionLost(reason)

    def _events(self, data: bytes) -> None:
        events, at = [], 0
        while at < len(data):
            watch, mask, _, size = _EVENT.unpack_from(data, at)
            at += _EVENT.size + size
            events.append((watch, mask, data[at - size : at].rstrip(b"\0")))
        self._told(events)


def _place(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
