"""docs/scenes.md is what is seen: docs/scenes.py plays it again, and has to come to the same page."""

from __future__ import annotations

import subprocess
import sys
import tempfile

from twisted.trial.unittest import SynchronousTestCase

from tests.acceptance.harness import BIN, ROOT, environment
from tests.markdown import Block, blocks, page

#: Seconds for all three; it takes four.
PLAYING = 120.0


class ScenesTests(SynchronousTestCase):
    maxDiff = None

    def test_the_page_is_what_is_seen(self) -> None:
        """The three scenes are why one chooses mtlsd: one that does not work, or looks otherwise, is a broken promise."""
        played = subprocess.run(
            [sys.executable, ROOT / "docs" / "scenes.py"],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PLAYING,
        )
        self.assertEqual((played.returncode, played.stderr), (0, ""), played.stdout)
        self.assertEqual(
            played.stdout.splitlines(), page("docs/scenes.md").splitlines(), "where this is as it should be: make scenes"
        )
        for secret in (tempfile.gettempdir(), str(ROOT), str(BIN)):
            self.assertNotIn(secret, played.stdout)
        self.assertLessEqual(max(len(line) for block in blocks(played.stdout) for line in block.lines), 80)

    def test_they_are_the_scenes_that_were_promised(self) -> None:
        """A line that needs one option more than was said is another scene."""
        typed = "\n".join(typed_in(block) for block in blocks(page("docs/scenes.md")))
        for line in (
            r"client$ curl -k --cert clientCrt.pem --key clientKey.pem https://localhost:9443/hello",
            r"server$ mtlsd pending",
            r"server$ mtlsd approve [0-9a-f]{16} --name alice",
            r"server$ mtlsd invite bob --group ops",
            r"client$ mtlsd join mtlsd://localhost:9443/bob/[a-z2-7]{80}",
            r"client$ curl --config ~/.config/mtlsd/localhost/curl https://localhost:9443/hello",
            r"client$ mtlsd renew",
            r"server$ mtlsd clients --expiring 30d",
        ):
            self.assertRegex(typed, rf"(?m)^{line.replace('$', '[$]')}$")

    def test_the_readme_shows_the_same(self) -> None:
        """What the README shows first would be made up."""
        seen = "\n".join(line for block in blocks(page("docs/scenes.md")) for line in unbroken(block))
        shown = [block for block in blocks(page("README.md")) if block.note == "from docs/scenes.md"]
        self.assertEqual(len(shown), 3)
        for block in shown:
            for line in filter(None, block.lines):
                self.assertIn(line.rstrip("…"), seen)


def unbroken(block: Block) -> list[str]:
    """Return the lines of a block; what a terminal of 80 columns has broken is one line again."""
    lines: list[str] = []
    before = ""
    for line in block.lines:
        if len(before) == 80:
            lines[-1] += line
        else:
            lines.append(line)
        before = line
    return lines


def typed_in(block: Block) -> str:
    return "\n".join(line for line in unbroken(block) if line[:8] in ("client$ ", "server$ "))
