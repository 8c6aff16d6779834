"""A path that two readers may read in two ways is a way round every rule."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.routing.paths import PathError, alike, canonical

PIECES = st.sampled_from(
    [
        b"/",
        b"a",
        b"B",
        b".",
        b"..",
        b"%2e",
        b"%2E",
        b"%2f",
        b"%5c",
        b"%00",
        b"%41",
        b"%c3%a9",
        b"%",
        b"%4",
        b";",
        b"\\",
        b"~",
        b"\xe9",
    ]
)
PATHS = st.lists(PIECES, max_size=10).map(b"".join) | st.binary(max_size=20)


class CanonicalTests(SynchronousTestCase):
    def test_what_is_canonical_stays(self) -> None:
        """An application would see other paths than its client asked for."""
        for path in (
            b"/",
            b"/a",
            b"/a/",
            b"/a/b.c/~d_e-f",
            b"/.well-known/x",
            b"/...",
            b"/a%20b",
            b"/%C3%A9",
            b"/a%25b",
            b"/a:b@c!$&'()*+,=",
        ):
            self.assertEqual(canonical(path), path)

    def test_one_spelling(self) -> None:
        """`/%61dmin` would pass by the rule for `/admin`, and reach it."""
        for path, spelled in ((b"/%61dmin", b"/admin"), (b"/%7Euser", b"/~user"), (b"/%c3%a9", b"/%C3%A9"), (b"/a%2Eb", b"/a.b")):
            self.assertEqual(canonical(path), spelled)

    def test_alike(self) -> None:
        """What is compared with a rule is no more, and no less, than what may stand in a path both bare and escaped."""
        bare = {value for value in range(0x21, 0x7F) if self.can_be_read(b"/" + bytes((value,))) and value not in b"%?#/"}
        plain = {value for value in bare if canonical(b"/%%%02X." % value) != b"/%%%02X." % value}
        for value in range(0x20, 0x100):
            escape = b"/%%%02X." % value
            if value not in plain and self.can_be_read(escape):
                self.assertEqual(alike(escape), b"/" + bytes((value,)) + b"." if value in bare else escape)

    def can_be_read(self, path: bytes) -> bool:
        try:
            canonical(path + b".")
        except PathError:
            return False
        return True

    def test_once_only(self) -> None:
        """Undone twice, `%252e` is a dot that nobody has judged."""
        self.assertEqual(canonical(b"/%252e%252e/%252F"), b"/%252e%252e/%252F")

    def test_refused(self) -> None:
        """Each is a known way past a front door: what it judges is not what the application sees."""
        for path, why in (
            (b"", "begins with a slash"),
            (b"admin", "begins with a slash"),
            (b"//", "empty segment"),
            (b"//evil.example", "empty segment"),
            (b"/a//b", "empty segment"),
            (b"/a/.", "segment"),
            (b"/a/..", "segment"),
            (b"/./a", "segment"),
            (b"/a/../b", "segment"),
            (b"/a/%2e%2E/b", "segment"),
            (b"/a/.%2e", "segment"),
            (b"/a%2fb", "escaped slash"),
            (b"/a%2Fb", "escaped slash"),
            (b"/a%5cb", "escaped slash, backslash"),
            (b"/a%00", "control character"),
            (b"/a%0d%0aX: y", "not printable"),
            (b"/a%0d%0a", "control character"),
            (b"/a%7f", "control character"),
            (b"/a\\b", "backslash"),
            (b"/a;b", "semicolon"),
            (b"/admin;/x", "semicolon"),
            (b"/a b", "not printable ASCII"),
            (b"/a\x00", "not printable ASCII"),
            (b"/\xc3\xa9", "not printable ASCII"),
            (b"/a%", "two hex digits"),
            (b"/a%4", "two hex digits"),
            (b"/a%zz", "two hex digits"),
            (b"/a%u0041", "two hex digits"),
        ):
            self.assertIn(why, str(self.assertRaises(PathError, canonical, path)), path)

    @given(PATHS)
    def test_any_path(self, path: bytes) -> None:
        """What comes out is its own spelling, means what went in, and has one reading."""
        try:
            spelled = canonical(path)
        except PathError as error:
            self.assertNotIn("\n", str(error))
            return
        self.assertEqual(canonical(spelled), spelled)
        self.assertEqual(unquote_to_bytes(spelled), unquote_to_bytes(path))
        segments = [unquote_to_bytes(part) for part in spelled.split(b"/")]
        self.assertNotIn(b"", segments[1:-1])
        for segment in segments:
            self.assertNotIn(segment, (b".", b".."))
            for bad in (b"/", b"\\", b"\0", b"\r", b"\n"):
                self.assertNotIn(bad, segment)
        # The application's reading, segment by segment, has as many of them as the one that was judged.
        self.assertEqual(unquote_to_bytes(spelled).count(b"/"), spelled.count(b"/"))
