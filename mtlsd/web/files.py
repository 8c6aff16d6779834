"""Files of a folder, and never one outside of it."""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import IO, Any, cast

from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from twisted.web.static import File, getTypeAndEncoding

from mtlsd.web.preconditions import NOT_MODIFIED, State
from mtlsd.web.site import Missing

#: As many ranges as a player of videos or a reader of archives asks for.  Each may be the whole file (CVE-2011-3192).
_RANGES = re.compile(
    rb"bytes=[ \t]*(?:[0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})(?:[ \t]*,[ \t]*(?:[0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})){0,15}"
)

#: No link is followed, and nothing is waited for: what was looked at may be another thing by now, a FIFO without a writer.
_CAREFULLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
#: A folder on the way, which may be one that nobody can list.
_ON_THE_WAY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TOO_MANY = (errno.EMFILE, errno.ENFILE)


class Files(File):
    """:class:`twisted.web.static.File`, in plain lines, that lists nothing unasked and follows no link out of its folder."""

    def __init__(self, path: str, *, listing: bool = False, inside: str | None = None) -> None:
        """*path* has no symbolic link in it; *inside* is the folder that is served (default: *path*)."""
        super().__init__(path, defaultType="application/octet-stream")
        self._listing = listing
        self._inside = path if inside is None else inside
        #: The file, once it is open: whatever its name stands for by then, it is this one that is described and sent.
        self._file: IO[bytes] | None = None
        self.childNotFound: Any = Missing()
        self.forbidden: Any = self.childNotFound

    def createSimilarFile(self, path: str) -> IResource:
        """Return what serves *path*.  A link may not lead out of the folder, nor to what is no file: a FIFO would hang."""
        real = os.path.realpath(path)
        is_inside = real == self._inside or real.startswith(self._inside.rstrip("/") + "/")
        if not is_inside or not (os.path.isfile(real) or os.path.isdir(real)):
            return Missing()
        served = Files(real, listing=self._listing, inside=self._inside)
        # By the name that was asked for, which may be a link's.
        served.type, served.encoding = getTypeAndEncoding(
            os.path.basename(path), self.contentTypes, self.contentEncodings, self.defaultType
        )
        return served

    def getChild(self, path: bytes, request: IRequest) -> IResource:
        """Return what is called *path* in this folder; the empty name is its index page."""
        try:
            path.decode("utf-8")
        except UnicodeDecodeError:
            # Twisted's answer is a traceback in the log.
            return Missing()
        if not path and os.path.realpath(self.path) != self.path:
            # It has become a link, or is below one, which nobody has looked at.
            return Missing()
        if not path and not self._listing and self.isdir() and self.childSearchPreauth(*self.indexNames) is None:
            return Missing()
        child = cast(IResource, super().getChild(path, request))
        # A folder that is called as an index page is would be sent on to itself, with one more slash.
        return Missing() if not path and isinstance(child, Files) and child.isdir() else child

    def render_GET(self, request: Any) -> Any:
        """Send the file, or the ranges of it that are asked for, or that it is not what is asked for."""
        # What a browser takes for another type than it is, is somebody else's page.
        request.setHeader(b"X-Content-Type-Options", b"nosniff")
        self._file = self._opened()
        if self._file is None:
            # A folder is sent on to its own name with a slash.
            self.restat(False)
            return super().render_GET(request) if self.isdir() else self.childNotFound.render(request)
        headers = request.requestHeaders
        found = os.fstat(self._file.fileno())
        state = State.of(found.st_mtime_ns, found.st_size)
        refusal = state.refusal(headers)
        if refusal is not None:
            self._file.close()
            return _refused(request, state, refusal)
        request.setHeader(b"ETag", state.tag)
        if headers.hasHeader(b"Range") and not (_can_be_read(headers) and state.has_ranges_for(headers)):
            # RFC 9110 14.2: the whole, then.
            headers.removeHeader(b"Range")
        # It has had its answer; Twisted would ask it without looking at the others.
        headers.removeHeader(b"If-Modified-Since")
        return super().render_GET(request)

    render_HEAD = render_GET

    def restat(self, reraise: bool = True) -> None:
        """Look at what is there: at the file itself, once that is open."""
        if self._file is None:
            super().restat(reraise)
        else:
            self._statinfo = os.fstat(self._file.fileno())

    def openForReading(self) -> IO[bytes]:
        """Return the file, which is open."""
        if self._file is None:
            # What was a folder a moment ago.
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return self._file

    def listNames(self) -> list[str]:
        """Return the names in this folder, and never those in one that has come into its place."""
        try:
            folder = self._descriptor()
        except OSError:
            return []
        try:
            return sorted(os.listdir(folder))
        except OSError:
            return []
        finally:
            os.close(folder)

    def _opened(self) -> IO[bytes] | None:
        """Return the file, open; ``None`` where there is none that can be sent.

        Who may write to the folder can put anything in the place of what :meth:`createSimilarFile` has looked at.
        """
        try:
            file = self._descriptor()
        except OSError as error:
            if error.errno in _TOO_MANY:
                raise
            return None
        if stat.S_ISREG(os.fstat(file).st_mode):
            return open(file, "rb")
        os.close(file)
        return None

    def _descriptor(self) -> int:
        """Open this path, which had no link in it, from the folder that is served.  Raises :exc:`OSError`: for any link too."""
        *folders, last = os.path.relpath(self.path, self._inside).split("/")
        there = os.open(self._inside, _ON_THE_WAY)
        try:
            for name in folders:
                above, there = there, os.open(name, _ON_THE_WAY, dir_fd=there)
                os.close(above)
            return os.open(last, _CAREFULLY, dir_fd=there)
        finally:
            os.close(there)

    def _rangeToOffsetAndSize(self, start: int | None, end: int | None) -> tuple[int, int]:
        # RFC 9110 14.1.2: the last 1,000 bytes of a file of 10 are the 10; Twisted's would begin before the first.
        if start is None and end is not None:
            end = min(end, self.getFileSize())
        found: tuple[int, int] = super()._rangeToOffsetAndSize(start, end)
        return found


def _can_be_read(headers: Any) -> bool:
    ranges = headers.getRawHeaders(b"Range")
    return len(ranges) == 1 and _RANGES.fullmatch(ranges[0]) is not None


def _refused(request: Any, state: State, status: int) -> Any:
    if status == NOT_MODIFIED:
        request.setResponseCode(status)
        request.setHeader(b"ETag", state.tag)
        request.setLastModified(state.modified)
        # Not by returning nothing, of which the length would be told: that of a 304 is the file's (RFC 9110 8.6).
        request.finish()
    else:
        request.answer(status, "the file is in another state")
    return NOT_DONE_YET
