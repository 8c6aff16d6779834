"""The documentation says what there is, all of it, and nothing that there is not."""

from __future__ import annotations

import configparser
import json
import re
import sys
import tomllib
from dataclasses import fields
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from mtlsd import __version__, config, settings
from mtlsd.audit.events import Event, Kind
from mtlsd.cli.commands import mtlsd as command
from mtlsd.identity import Tls
from mtlsd.policy import LIMITS, Reason
from mtlsd.settings import Settings, option_name
from mtlsd.web.application import environ_of
from mtlsd.web.claims import claims, is_claim
from mtlsd.web.headers import HeaderNames, received
from tests.markdown import ROOT, blocks, page, rows, section, terms
from tests.site_in_memory import ALICE, Gate

OPTIONS = {f"--{option_name(setting)}": setting for setting in fields(Settings)}


class OptionsTests(SynchronousTestCase):
    def test_every_option_is_explained(self) -> None:
        """An option that is not in docs/options.md does not exist for whoever needs it; one that is gone misleads."""
        self.assertEqual(sorted(terms(page("docs/options.md"))), sorted(OPTIONS))

    def test_every_option_is_in_the_readme(self) -> None:
        """The table in README.md says `in full` of the other one: it must not lack a line."""
        found = [term for term in terms(section(page("README.md"), "## Files and options")) if term.startswith("--")]
        self.assertEqual(sorted(found), sorted(OPTIONS))

    def test_the_defaults_are_right(self) -> None:
        """An operator plans with the default that is written down."""
        for cells in rows(page("docs/options.md")):
            setting, shown = OPTIONS[cells[0].strip("`")], cells[1]
            if setting.default is None or setting.default == "":
                self.assertTrue(shown in ("none", "every one") or shown.endswith("in the folder"), cells)
            else:
                self.assertEqual(shown, f"`{settings.shown(setting.default)}`", cells)

    def test_the_defaults_in_the_readme_are_right(self) -> None:
        """Two pages that contradict each other are worse than one."""
        for cells in rows(section(page("README.md"), "## Files and options")):
            for name in re.findall(r"`(--[a-z-]+)`", cells[0]):
                default = OPTIONS[name].default
                if isinstance(default, bool):
                    self.assertEqual(cells[1], "on" if default else "off")
                elif isinstance(default, int | float):
                    self.assertEqual(re.match(r"[0-9.]+", cells[1].strip("`"))[0], f"{default:g}", cells)  # type: ignore[index]
                elif default not in (None, ""):
                    self.assertEqual(cells[1].strip("`"), settings.shown(default))

    def test_the_units_are_right(self) -> None:
        """Sixty what?  Seconds are floats here, and every float is seconds."""
        for cells in rows(page("docs/options.md")):
            setting = OPTIONS[cells[0].strip("`")]
            if setting.type == "float":
                self.assertEqual(cells[2], "seconds", cells)
            elif setting.type == "timedelta":
                self.assertEqual(cells[2], "a time", cells)
            elif "Path" in str(setting.type):
                self.assertEqual(cells[2], "path", cells)

    def test_the_example_is_a_configuration(self) -> None:
        """The first thing that people do is to copy it."""
        (example,) = re.findall(r"```toml\n(.*?)```", page("docs/options.md"), re.DOTALL)
        path = Path(self.mktemp())
        path.write_text(example)
        self.assertEqual(settings.load({}, config.read(path).server).idle_timeout, 30)

    def test_the_example_of_routes_is_a_configuration(self) -> None:
        """It is copied too; and a key that is not explained does not exist for whoever needs it."""
        text = page("docs/routes.md")
        (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
        found = config.parse(example, Path("/etc/mtlsd.toml"))
        self.assertEqual([route.path for route in found.rules.routes], [b"", b"/admin", b"/api", b"/files"])
        keys = [key for key in terms(section(text, "## Keys")) if not key.startswith("[")]
        self.assertEqual(sorted(keys), sorted(config.ROUTE_KEYS))

    def test_every_example_is_a_configuration(self) -> None:
        """Whoever copies a piece of a page would be told of mistakes that are not theirs."""
        count = 0
        for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))):
            for block in blocks(path.read_text("utf-8")):
                if block.language == "toml":
                    config.parse(block.text, path)
                    count += 1
        self.assertGreater(count, 5)

    def test_the_fixed_limits(self) -> None:
        """An operator whose client is refused looks here for the bound."""
        text = " ".join(section(page("docs/options.md"), "## Limits").split())
        for bound in (
            f"{LIMITS.certificate // 1024} KiB",
            f"chain {LIMITS.chain}",
            f"{LIMITS.rsa_least} to {LIMITS.rsa_most} bits",
        ):
            self.assertIn(bound, text)
        for algorithm in LIMITS.algorithms:
            short = algorithm.removeprefix("EC ")
            self.assertIn("-" + short.split("-")[-1] if short.startswith("ML-DSA") else short, text)


class ExamplesTests(SynchronousTestCase):
    def test_the_modules_can_be_found(self) -> None:
        """Whoever gives a module the name that an example gives it, and Python has one of it, is told of an attribute that is not there."""
        named = [
            re.match(r"\w+", route[key])[0]  # type: ignore[index]
            for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
            for block in blocks(path.read_text("utf-8"))
            if block.language == "toml"
            for route in tomllib.loads(block.text).get("route", ())
            for key in ("wsgi", "resource")
            if key in route
        ]
        self.assertIn("app", named)
        self.assertEqual([name for name in named if name in sys.stdlib_module_names], [])


class EventsTests(SynchronousTestCase):
    def test_every_key_is_explained_in_its_order(self) -> None:
        """A script's author reads here what a field means."""
        keys = list(Event(datetime.now(UTC), Kind.ACCEPTED).as_dict())
        self.assertEqual([terms("|" + line)[0] for line in key_lines()], keys)

    def test_every_event_is_explained(self) -> None:
        """A line in the audit log would be a riddle."""
        self.assertEqual(terms(section(page("docs/events.md"), "## Events")), [str(kind) for kind in Kind])

    def test_every_reason_is_explained(self) -> None:
        """The operator reads the reason in the log, and looks here for what to do."""
        found = [re.findall(r"`([^`]+)`", cells[0])[0] for cells in rows(section(page("docs/events.md"), "## Reasons"))]
        self.assertEqual(found, [str(reason) for reason in Reason])

    def test_the_example_in_the_readme_is_an_event(self) -> None:
        """The first script is written from the example."""
        (example,) = re.findall(r"```json\n(.*?)```", page("README.md"), re.DOTALL)
        shown = json.loads(example)
        made = Event(datetime.now(UTC), Kind.REJECTED, peer=("::1", 1), tls=Tls("", "", "", False)).as_dict()
        self.assertEqual(list(shown), list(made))
        for key in ("peer", "tls"):
            self.assertEqual(list(shown[key]), list(made[key]))  # type: ignore[call-overload]
        self.assertIn(shown["event"], list(Kind))
        self.assertIn(shown["reason"], list(Reason))


def key_lines() -> list[str]:
    """Return the rows of the table of keys, whose second column has examples in backticks too."""
    text = section(page("docs/events.md"), "## Keys")
    return [line.strip("|").split("|")[0] + "|" for line in text.splitlines() if line.startswith("| `")]


class ApplicationsTests(SynchronousTestCase):
    text = page("docs/applications.md")

    def test_everything_that_an_application_is_told(self) -> None:
        """What is not in the tables is not found, and what is there and is not sent is waited for in vain."""
        told = section(self.text, "## What an application is told")
        names = {name for cells in rows(told) for cell in cells[:-1] for name in re.findall(r"`([^`]+)`", cell)}
        headers = {name.decode() for name, _ in claims(ALICE, b"", "::1", b"")}
        request = SimpleNamespace(gate=Gate(), requestHeaders=received([(b"Host", b"localhost")], HeaderNames()))
        self.assertEqual(names, headers | set(environ_of(cast(Any, request), ALICE)))

    def test_everything_that_a_client_cannot_say(self) -> None:
        """A header that the page calls safe would be anybody's."""
        names = terms(section(self.text, "## What a client can never say"))
        self.assertGreater(len(names), 20)
        for name in names:
            self.assertTrue(is_claim(name.replace("*", "Name").encode()), name)


class MigratingTests(SynchronousTestCase):
    #: What the page says of theirs in the columns that are ours.
    THEIRS = frozenset(
        {"optional", "optional_no_ca", "ssl_ciphers", "ciphers", "curves", "random", "health_uri"}
        | {"request", "require", "verify_if_given"}
    )

    def test_our_settings_exist(self) -> None:
        """Whoever moves would write what `mtlsd check` then calls unknown."""
        ours = {*config.ROUTE_KEYS, *(setting.name for setting in fields(Settings))}
        for theirs in ("nginx", "Caddy"):
            table = rows(section(page("docs/migrating.md"), f"## From {theirs}: setting by setting"))
            self.assertGreater(len(table), 20)
            names = {name for cells in table for name in re.findall(r"`([a-z_]+)(?: = [^`]*)?`", cells[1])}
            self.assertEqual(names - ours - self.THEIRS, set())


class CommandTests(SynchronousTestCase):
    def test_only_verbs_and_options_that_exist(self) -> None:
        """A page that tells people to type what does not exist."""
        for name in (
            "README.md",
            "certs/README.md",
            "docs/applications.md",
            "docs/browsers.md",
            "docs/enrolment.md",
            "docs/events.md",
            "docs/migrating.md",
            "docs/protocol.md",
            "docs/routes.md",
            "docs/running.md",
            "docs/systemd.md",
            "CONTRIBUTING.md",
        ):
            for found in re.finditer(
                r"(?<!twistd )\bmtlsd (adopt|approve|authorize|check|clients|dismiss|explain|export|history|import|init|invites?|join|new|pending|renew|revoke"
                r"|route|trust|uninvite)\b([^`\n|]*)",
                page(name),
            ):
                options = {option for parameter in command.commands[found[1]].params for option in parameter.opts}
                for option in re.findall(r"(?<!\S)--[a-z0-9-]+", found[2]):
                    self.assertIn(option, options, f"{name}: {found[0]}")

    def test_every_verb_is_in_the_readme(self) -> None:
        """A verb that nobody knows of."""
        found = [term.split()[1] for term in terms(page("README.md")) if term.startswith("mtlsd ")]
        self.assertEqual(sorted(found), sorted(command.commands))


class UnitTests(SynchronousTestCase):
    def unit(self) -> configparser.RawConfigParser:
        """Return docs/mtlsd.service; of a key that is there twice, the last."""
        parser = configparser.RawConfigParser(strict=False, comment_prefixes=("#",), delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(page("docs/mtlsd.service"))
        return parser

    def test_it_starts_what_there_is(self) -> None:
        """The unit is copied as it is: an option that is gone would keep the service down."""
        service = self.unit()["Service"]
        self.assertEqual(service["Type"], "exec")
        _, options = service["ExecStart"].split(" mtlsd ", 1)
        for option in re.findall(r"--[a-z-]+", options):
            self.assertIn(option, OPTIONS)
        self.assertIn(" -n --pidfile= ", service["ExecStart"])

    def test_it_waits_for_responses_in_flight(self) -> None:
        """systemd would kill it in the middle of a response."""
        self.assertGreater(float(self.unit()["Service"]["TimeoutStopSec"]), Settings().drain_timeout + Settings().close_timeout)

    def test_it_is_hardened_and_can_start(self) -> None:
        """cffi makes callbacks at run time: with MemoryDenyWriteExecute the server ends in a MemoryError."""
        service = self.unit()["Service"]
        self.assertNotIn("MemoryDenyWriteExecute", service)
        for key, value in (
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("CapabilityBoundingSet", ""),
            ("User", "mtlsd"),
        ):
            self.assertEqual(service[key], value)


class LinkTests(SynchronousTestCase):
    def test_no_link_leads_nowhere(self) -> None:
        """A reader who follows a link to nothing stops trusting the page."""
        for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "certs" / "README.md"):
            for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text("utf-8")):
                self.assertTrue((path.parent / target).exists(), f"{path.name}: {target}")

    def test_no_key_is_committed(self) -> None:
        """Whoever does in a checkout what README.md says, and then `git add .`, would publish the keys that it has one make."""
        ignored = page(".gitignore").splitlines()
        for name in ("bobKey.pem", "carolKey.pem", "key.pem"):
            self.assertTrue(any(fnmatchcase(name, pattern) for pattern in ignored), name)

    def test_the_changelog_has_this_version(self) -> None:
        """What is new in the version that somebody just installed?"""
        self.assertIn(f"## [{__version__}]", page("CHANGELOG.md"))
