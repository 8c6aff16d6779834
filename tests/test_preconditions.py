"""Conditional requests for files: what a client has already is not sent again, and parts of two states are never put together."""

from __future__ import annotations

import errno
import os
import re
import tempfile

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from mtlsd.web.files import Files
from mtlsd.web.preconditions import State
from tests.site_in_memory import Answer, Gate, ask
from tests.test_router import RouterTestCase

#: 14 Nov 2023 22:13:20 GMT, and some nanoseconds.
MODIFIED = 1_700_000_000_123_456_789
BEFORE, SAME, LATER = "Tue, 14 Nov 2023 22:13:20 GMT", "Tue, 14 Nov 2023 22:13:21 GMT", "Tue, 14 Nov 2023 22:13:22 GMT"
WHOLE = b"0123456789"


def vanished() -> Files:
    with tempfile.NamedTemporaryFile() as file:
        return Files(file.name)


class ConditionTests(RouterTestCase):
    def setUp(self) -> None:
        super().setUp()
        (self.folder / "srv").mkdir()
        self.file = self.folder / "srv" / "a.txt"
        self.file.write_bytes(WHOLE)
        os.utime(self.file, ns=(MODIFIED, MODIFIED))
        self.configure('[[route]]\npath = "/files"\nallow = ["*"]\nstatic = "srv"\n')
        self.tag = self.ask().headers["etag"]

    def ask(self, *headers: str, method: str = "GET") -> Answer:
        return self.get("/files/a.txt", method, *headers)

    def gives(self, status: int, *headers: str) -> None:
        """A GET and a HEAD with *headers* have this *status*, and what belongs to it."""
        for method in ("GET", "HEAD"):
            answer = self.ask(*headers, method=method)
            self.assertEqual(answer.status, status, (method, headers))
            if status == 200:
                self.assertEqual((answer.headers["etag"], answer.headers["content-length"]), (self.tag, "10"))
                self.assertEqual(answer.body, WHOLE if method == "GET" else b"")
            elif status == 304:
                self.assertEqual((answer.headers["etag"], answer.headers["last-modified"], answer.body), (self.tag, SAME, b""))
                self.assertNotIn("content-length", answer.headers)
                self.assertNotIn("transfer-encoding", answer.headers)
            else:
                self.assertEqual(answer.body, b"the file is in another state\n" if method == "GET" else b"")

    def test_the_tag(self) -> None:
        """A tag that stays when the file changes leaves a client with the old one for good."""
        self.assertTrue(re.fullmatch(r'"[0-9a-f]+-[0-9a-f]+"', self.tag), self.tag)
        self.assertEqual(self.ask().headers["etag"], self.tag)
        os.utime(self.file, ns=(MODIFIED, MODIFIED + 1))
        in_the_same_second = self.ask().headers["etag"]
        self.assertNotEqual(in_the_same_second, self.tag)
        self.file.write_bytes(WHOLE + b"x")
        os.utime(self.file, ns=(MODIFIED, MODIFIED + 1))
        self.assertNotIn(self.ask().headers["etag"], (self.tag, in_the_same_second))

    def test_if_none_match(self) -> None:
        """A client that has the file is not sent it again (RFC 9110 13.1.2): tags are compared weakly."""
        for known in (self.tag, f"W/{self.tag}", f'"x", {self.tag}', f'W/"a,b" ,, {self.tag},', "*"):
            self.gives(304, f"If-None-Match: {known}")
        self.gives(304, 'If-None-Match: "x"', f"If-None-Match: {self.tag}")
        for known in ('"x"', self.tag[:-1], self.tag.strip('"'), f"{self.tag} x", f'"{self.tag}"', f"w/{self.tag}", "*, *", ""):
            self.gives(200, f"If-None-Match: {known}")

    def test_if_none_match_wins(self) -> None:
        """The date is for those who know no tags (13.1.3): within its second a file may have changed."""
        self.gives(200, 'If-None-Match: "x"', f"If-Modified-Since: {LATER}")
        self.gives(304, f"If-None-Match: {self.tag}", f"If-Modified-Since: {BEFORE}")

    def test_if_modified_since(self) -> None:
        """By the second, as Last-Modified is told; a date that cannot be read is none (13.1.3)."""
        self.gives(304, f"If-Modified-Since: {SAME}")
        self.gives(304, f"If-Modified-Since: {LATER}")
        self.gives(200, f"If-Modified-Since: {BEFORE}")
        self.gives(200, f"If-Modified-Since: {LATER}", f"If-Modified-Since: {LATER}")
        for date in (";", "Sun", "Sun, 99", "x" * 200, "Tue, 14 Nov 2023 22:13", "Tue, 14 Nov 1923 22:13:20 GMT"):
            self.gives(200, f"If-Modified-Since: {date}")

    def test_if_match(self) -> None:
        """Who wants one state of a file only, is not given another (13.1.1): a weak tag is never enough."""
        for wanted in (self.tag, f'"x", {self.tag}', "*"):
            self.gives(200, f"If-Match: {wanted}")
        for wanted in (f"W/{self.tag}", '"x"', "x", f"{self.tag} x", ""):
            self.gives(412, f"If-Match: {wanted}")
        # It comes before all others, and in the place of its date.
        self.gives(412, 'If-Match: "x"', f"If-None-Match: {self.tag}")
        self.gives(200, f"If-Match: {self.tag}", f"If-Unmodified-Since: {BEFORE}")
        self.gives(304, f"If-Match: {self.tag}", f"If-None-Match: {self.tag}")

    def test_if_unmodified_since(self) -> None:
        """The same, by date (13.1.4)."""
        self.gives(200, f"If-Unmodified-Since: {SAME}")
        self.gives(412, f"If-Unmodified-Since: {BEFORE}")
        self.gives(200, "If-Unmodified-Since: yesterday")
        self.gives(412, f"If-Unmodified-Since: {BEFORE}", f"If-None-Match: {self.tag}")

    def test_if_range(self) -> None:
        """A download that goes on in another state of the file is a file that never was (13.1.5)."""
        for state in (self.tag, SAME):
            part = self.ask("Range: bytes=2-4", f"If-Range: {state}")
            self.assertEqual((part.status, part.body, part.headers["etag"]), (206, b"234", self.tag), state)
        for state in (f"W/{self.tag}", '"x"', "*", f"{self.tag}, {self.tag}", BEFORE, LATER, ""):
            self.assertEqual(self.ask("Range: bytes=2-4", f"If-Range: {state}").body, WHOLE, state)
        # The others come first.
        self.assertEqual(self.ask("Range: bytes=2-4", f"If-Range: {self.tag}", f"If-None-Match: {self.tag}").status, 304)
        self.assertEqual(self.ask("Range: bytes=2-4", 'If-Match: "x"').status, 412)
        self.assertEqual(self.ask("Range: bytes=2-4", f"If-Match: {self.tag}").body, b"234")

    def test_what_is_no_file(self) -> None:
        """A condition counts where there would be an answer without it (13.2.1)."""
        (self.folder / "srv" / "sub").mkdir()
        for condition in ("If-None-Match: *", 'If-Match: "x"', "If-Match: *"):
            self.assertEqual(self.get("/files/nothing", "GET", condition).status, 404)
            self.assertEqual(self.get("/files/sub", "GET", condition).status, 302)

    def test_what_may_not_be_read(self) -> None:
        """Whether it is there, and since when, is nobody's business (root reads all, so the system's answers are put in here)."""

        def refuse(name: str, flags: int, *, dir_fd: int | None = None) -> int:
            if name == "a.txt":
                raise PermissionError(errno.EACCES, "no", name)
            return really(name, flags, dir_fd=dir_fd)

        really = os.open
        self.patch(os, "open", refuse)
        for condition in ("If-None-Match: *", f"If-None-Match: {self.tag}", 'If-Match: "x"', f"If-Modified-Since: {LATER}"):
            answer = self.ask(condition)
            self.assertEqual((answer.status, "etag" in answer.headers), (404, False), condition)

    def test_no_descriptor_left(self) -> None:
        """A file that is there would be called missing, and whoever mirrors the folder would take it away."""

        def refuse(name: str, flags: int, *, dir_fd: int | None = None) -> int:
            raise OSError(errno.EMFILE, "too many")

        self.patch(os, "open", refuse)
        self.assertEqual(self.ask().status, 500)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_what_has_just_gone(self) -> None:
        """Taken away when it had been found already: there is no such page, and no internal error."""
        self.configure('[[route]]\npath = "/gone"\nallow = ["*"]\nresource = "tests.test_preconditions:vanished"\n')
        self.assertEqual(self.get("/gone", "GET", "If-None-Match: *").status, 404)

    def test_the_next_request(self) -> None:
        """A 304 without a length ends with its head: what comes behind it is the next answer."""
        gate = self.door.connect(Gate())
        for _ in range(2):
            gate.protocol.dataReceived(ask("/files/a.txt", "GET", f"If-None-Match: {self.tag}"))
            self.assertEqual(Answer(gate.taken()).status, 304)
        gate.protocol.dataReceived(ask("/files/a.txt", "HEAD"))
        self.assertEqual(Answer(gate.taken()).status, 200)
        self.assertFalse(gate.aborted)


class StateTests(SynchronousTestCase):
    @given(
        st.lists(
            st.sampled_from([b'"a"', b"W/", b",", b" ", b'"', b"*", b"\xff", b"Sun", b", ", b"1", b"14 Nov", b":"]), max_size=12
        )
    )
    def test_anything(self, parts: list[bytes]) -> None:
        """A header that nobody has thought of would be an internal error."""
        state = State.of(MODIFIED, 10)
        for name in (b"If-Match", b"If-None-Match", b"If-Modified-Since", b"If-Unmodified-Since", b"If-Range"):
            headers = Headers()
            headers.addRawHeader(name, b"".join(parts))
            self.assertIn(state.refusal(headers), (None, 304, 412))
            self.assertFalse(name == b"If-Range" and state.has_ranges_for(headers))
