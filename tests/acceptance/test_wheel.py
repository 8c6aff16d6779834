"""A built wheel, installed into an empty venv outside of the checkout, gives a working `twistd mtlsd`."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mtlsd import __version__
from tests.acceptance.harness import DEADLINE, Output, end
from tests.acceptance.test_readme import copy_of_the_checkout, plain_environment

#: Seconds for an installation from nothing.
INSTALLING = 300.0


class WheelTests(SynchronousTestCase):
    """Whoever installs mtlsd has no checkout: what works there must work from the wheel alone."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.elsewhere = self.folder / "elsewhere"
        self.elsewhere.mkdir(parents=True)

    def run_in(self, *arguments: str | Path) -> str:
        """Run a program far from the checkout and return what it printed."""
        done = subprocess.run(
            [str(argument) for argument in arguments],
            cwd=self.elsewhere,
            env=plain_environment(),
            capture_output=True,
            text=True,
            timeout=INSTALLING,
            stdin=subprocess.DEVNULL,
        )
        self.assertEqual(done.returncode, 0, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def build(self) -> Path:
        """Build the wheel from a copy: a build leaves things behind."""
        source = self.folder / "source"
        source.mkdir()
        copy_of_the_checkout(source)
        self.run_in(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", self.folder / "dist", source)
        (wheel,) = (self.folder / "dist").glob("*.whl")
        return wheel

    def test_the_wheel(self) -> None:
        """`twistd mtlsd` is unknown, or another package is shadowed, on every machine but the developer's."""
        wheel = self.build()
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        self.assertIn("twisted/plugins/mtlsd_plugin.py", names)
        self.assertIn("mtlsd/py.typed", names)
        self.assertEqual([name for name in names if re.fullmatch(r"twisted/(plugins/)?__init__\.py", name)], [])
        self.assertEqual({name.split("/")[0] for name in names}, {"mtlsd", "twisted", f"mtlsd-{__version__}.dist-info"})
        self.assertEqual([name for name in names if name.startswith("twisted/")], ["twisted/plugins/mtlsd_plugin.py"])
        packaged = {name for name in names if name.startswith("mtlsd/")}
        in_the_source = {
            str(path.relative_to(self.folder / "source"))
            for path in (self.folder / "source" / "mtlsd").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        self.assertEqual(packaged, in_the_source)

        self.run_in(sys.executable, "-m", "venv", self.folder / "venv")
        programs = self.folder / "venv" / "bin"
        self.run_in(programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
        where = self.run_in(programs / "python", "-c", "import mtlsd; print(mtlsd.__file__)").strip()
        self.assertTrue(Path(where).is_relative_to(self.folder / "venv"), where)

        self.assertRegex(self.run_in(programs / "twistd", "--help"), r"(?m)^ +mtlsd +A front door")
        self.assertIn("--handshake-timeout=", self.run_in(programs / "twistd", "mtlsd", "--help"))
        self.assertEqual(self.run_in(programs / "mtlsd", "--version"), f"mtlsd {__version__}\n")
        self.assertIn("made certs/serverCrt.pem", self.run_in(programs / "mtlsd", "init"))
        made = self.run_in(programs / "mtlsd", "new", "alice", "--out", "alice")

        server = subprocess.Popen(
            [programs / "twistd", "-n", "mtlsd", "--port", "0"],
            cwd=self.elsewhere,
            env=plain_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(end, server)
        log = Output(server.stdout)
        port = log.wait_for(r"listening on \S+:(\d+) for 1 ")[1]
        curl = made.splitlines()[-1].replace(":9443/", f":{port}/")
        self.assertTrue(curl.startswith("curl --cacert "), curl)
        self.assertEqual(self.run_in("sh", "-c", f"{curl} --silent --show-error"), "Hello: alice\n")
        self.assertIn("<!DOCTYPE html>", self.run_in("sh", "-c", f"{curl.replace('/hello', '/')} --silent --show-error"))
        server.terminate()
        self.assertEqual(server.wait(DEADLINE), 0)
        log.finish()
        self.assertNotIn("Traceback", "\n".join(log.lines))
