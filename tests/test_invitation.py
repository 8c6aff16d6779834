"""The line that an operator sends: what it survives on its way, and what is noticed."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.enrol.invitation import Invitation, NoInvitation, read_invitation
from mtlsd.keys import read_endpoint

SECRET = bytes(range(16))
INVITATION = Invitation("www.example.org", 9443, "bob", "ab" * 32, SECRET)


class LineTests(SynchronousTestCase):
    def test_there_and_back(self) -> None:
        """What was sent would not be what is read: another server, name or secret."""
        for changed in (
            INVITATION,
            replace(INVITATION, host="192.0.2.7", port=1),
            replace(INVITATION, host="2001:db8::1", port=65535),
            replace(INVITATION, name="a.b_c@d-" + "e" * 56),
            replace(INVITATION, host="xn--bcher-kva_1.example"),
        ):
            self.assertEqual(read_invitation(changed.line()), changed)

    def test_its_form(self) -> None:
        """A character that a shell or a chat takes for its own would break the line for everybody."""
        self.assertRegex(INVITATION.line(), re.compile(r"mtlsd://www\.example\.org:9443/bob/[a-z2-7]{80}\Z"))
        self.assertIn("//[2001:db8::1]:9443/", replace(INVITATION, host="2001:db8::1").line())

    def test_broken_up(self) -> None:
        """A chat breaks lines, a terminal wraps at 80 columns, an editor adds marks that nobody sees."""
        line = INVITATION.line()
        halves = [line[start : start + 40] for start in range(0, len(line), 40)]
        for pasted in (
            "\n".join(halves),
            "  " + "\r\n> ".join(halves).replace("> ", "") + "\n",
            "\u200b".join(halves),
            "mtlsd join " + line,
            f"<{line}>",
            f"`{line}`\n",
            line.upper().replace("/BOB/", "/bob/"),
            "\ufeff" + line,
            "> mtlsd join " + "\n> ".join(halves),
            f"mtlsd join {line}\nvalid until 2026-11-25 14:19 UTC, once",
            f"**{line}**.",
            f"\u201c{line}\u201d, said ann",
            f"root@host# mtlsd invite bob\n{line}\nroot@host# ",
        ):
            self.assertEqual(read_invitation(pasted), INVITATION, pasted)

    def test_mangled(self) -> None:
        """The client would connect to somebody else, or under another name, and be told something that helps nobody."""
        line = INVITATION.line()
        for wrong in (
            line[:-1],
            line + "a",
            line + "a bcd",
            line[:-1] + " 1",
            line.replace("/bob/", "/bab/"),
            line.replace("/bob/", "/../bob/"),
            line.replace("/bob/", "/..%2fbob/"),
            line.replace("/bob/", "//"),
            line.replace(":9443", ":9444"),
            line.replace(":9443", ""),
            line.replace(":9443", ":0"),
            line.replace("www.", "ww."),
            line.replace("www.", "*."),
            line[:-10] + ("a" if line[-10] != "a" else "b") + line[-9:],
            line[:-2] + "1" + line[-1:],
        ):
            error = self.assertRaises(NoInvitation, read_invitation, wrong)
            self.assertIn("mangled", str(error))
            self.assertNotIn(line[-20:], str(error))
        for nothing in ("", "https://www.example.org", "mtlsd:/x"):
            self.assertIn("no invitation", str(self.assertRaises(NoInvitation, read_invitation, nothing)))

    def test_a_name_that_leads_out(self) -> None:
        """Somebody who makes the checksum right could still write outside of a folder."""
        for name in ("..", ".", "../bob", "a\nb", "-rf", ""):
            self.assertRaises(NoInvitation, read_invitation, replace(INVITATION, name=name).line())

    def test_one_letter(self) -> None:
        """A letter that was lost or changed would go unnoticed (of a whole line that was changed, one in 65,536 is)."""
        line = INVITATION.line()
        count = 0
        for at in range(len(line) - 80, len(line)):
            for letter in "abcdefghijklmnopqrstuvwxyz234567":
                if letter != line[at]:
                    count += 1
                    self.assertRaises(NoInvitation, read_invitation, line[:at] + letter + line[at + 1 :])
        self.assertEqual(count, 80 * 31)

    @given(st.text())
    def test_anything(self, text: str) -> None:
        """Whatever is pasted, there would be a traceback and not a line."""
        for pasted in (text, "mtlsd://" + text):
            self.assertRaises(NoInvitation, read_invitation, pasted)

    def test_the_secret_is_not_shown(self) -> None:
        """A value that is logged would take the secret with it."""
        self.assertNotIn(repr(SECRET), repr(INVITATION))
        self.assertNotIn(SECRET.hex(), repr(INVITATION))


class EndpointTests(SynchronousTestCase):
    def test_read(self) -> None:
        """An operator's `public` would be refused, or taken for something else."""
        for text, wanted in (
            ("www.Example.org:9443", ("www.example.org", 9443)),
            ("[::1]:1", ("::1", 1)),
            ("192.0.2.7:65535", ("192.0.2.7", 65535)),
        ):
            self.assertEqual(read_endpoint(text), wanted)

    def test_refused(self) -> None:
        """Invites would go out with an address that nobody can connect to."""
        for text in (
            "",
            "host",
            "host:",
            ":1",
            "host:0",
            "host:65536",
            "host:+1",
            "::1:9443",
            "*.example.org:1",
            "a b:1",
            "host:\u0661",
        ):
            self.assertRaises(ValueError, read_endpoint, text)
