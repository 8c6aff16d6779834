"""Files of a folder, and never one outside of it."""

from __future__ import annotations

import os
import re
import stat
from typing import Any, cast

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


class Files(File):
    """:class:`twisted.web.static.File`, in plain lines, that lists nothing unasked and follows no link out of its folder."""

    def __init__(self, path: str, *, listing: bool = False, inside: str | None = None) -> None:
        """*path* has no symbolic link in it; *inside* is the folder that is served (default: *path*)."""
        super().__init__(path, defaultType="application/octet-stream")
        self._listing = listing
        self._inside = path if inside is None else inside
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
        headers = request.requestHeaders
        # The file may change before it is opened: then this is the tag of what was there before, and matches no more.
        state = self._state()
        if state is not None:
            refusal = state.refusal(headers)
            if refusal is not None:
                return _refused(request, state, refusal)
            request.setHeader(b"ETag", state.tag)
            if headers.hasHeader(b"Range") and not (_can_be_read(headers) and state.has_ranges_for(headers)):
                # RFC 9110 14.2: the whole, then.
                headers.removeHeader(b"Range")
        # It has had its answer; Twisted would ask it without looking at the others.
        headers.removeHeader(b"If-Modified-Since")
        return super().render_GET(request)

    render_HEAD = render_GET

    def _state(self) -> State | None:
        """Return the state of the file; ``None`` where there is none that can be sent, whatever the condition."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        is_sent = stat.S_ISREG(found.st_mode) and os.access(self.path, os.R_OK)
        return State.of(found.st_mtime_ns, found.st_size) if is_sent else None

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
