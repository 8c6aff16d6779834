"""Every option is checked when it is given, and the error names the option, or the file and every wrong key in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields
from datetime import timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.config import read
from mtlsd.errors import SettingsError
from mtlsd.settings import Settings, config_of, from_table, load, option_name, shown


def loaded(options: Mapping[str, str | None]) -> Settings:
    """Load the settings as the service does: with the file that *options* name."""
    path = config_of(options)
    return load(options, {} if path is None else read(path).server)


class LoadTests(SynchronousTestCase):
    def refusal(self, options: Mapping[str, str | None]) -> str:
        """Return the one line with which *options* are refused."""
        text = str(self.assertRaises(SettingsError, load, options))
        self.assertNotIn("\n", text)
        return text

    def test_defaults(self) -> None:
        """`twistd mtlsd` without options would not be what the documentation says."""
        settings = load({})
        self.assertEqual(settings, Settings())
        self.assertEqual((settings.port, settings.certs, settings.tls_min, settings.tickets), (9443, Path("certs"), "1.2", True))
        self.assertEqual((settings.audit_log, settings.access_log, settings.config), (None, None, None))

    def test_where_clients_reach_it(self) -> None:
        """Invites would go out with an address that is none."""
        self.assertEqual(load({"public": "www.example.org:9443"}).public, "www.example.org:9443")
        self.assertIn("--public www.example.org: HOST:PORT is wanted", self.refusal({"public": "www.example.org"}))

    def test_kinds_of_key(self) -> None:
        """Keys that the operator does not want would come in; or an empty list would be taken for all of them."""
        self.assertEqual(load({"enrol-keys": "p256, ed25519,p256"}).enrol_keys, ("p256", "ed25519"))
        self.assertEqual(from_table({"enrol_keys": ["rsa"]}, Path()), ({"enrol_keys": ("rsa",)}, []))
        self.assertIn("--enrol-keys p256,rsa1: 'rsa1' is no kind of key: p256, p384,", self.refusal({"enrol-keys": "p256,rsa1"}))
        for text in ("", ",", "p256,"):
            self.assertIn(": one or more are wanted", self.refusal({"enrol-keys": text}))
        for value, why in (
            ("p256", "a list of texts is wanted"),
            ([1], "a list of texts is wanted"),
            ([], "one or more are wanted"),
        ):
            self.assertEqual(from_table({"enrol_keys": value}, Path()), ({}, [f"server.enrol_keys: {why}"]))

    def test_an_option_that_was_not_given(self) -> None:
        """usage.Options has None for those: they must not hide the default."""
        self.assertEqual(load({option_name(setting): None for setting in fields(Settings)}), Settings())

    def test_each_kind_of_option(self) -> None:
        """What was given would not be what is used."""
        settings = load(
            {
                "port": "8443",
                "certs": "/srv/certs",
                "handshake-timeout": "2.5",
                "idle-timeout": "30",
                "tickets": "off",
                "tls-min": "1.3",
                "access-log": "-",
                "interface": "::1",
                "expiry-warning": "0",
                "renew-longest": "90d",
                "renew-grace": "36h",
            }
        )
        self.assertEqual(
            settings,
            Settings(
                port=8443,
                certs=Path("/srv/certs"),
                handshake_timeout=2.5,
                idle_timeout=30.0,
                tickets=False,
                tls_min="1.3",
                access_log="-",
                interface="::1",
                expiry_warning=timedelta(),
                renew_longest=timedelta(days=90),
                renew_grace=timedelta(hours=36),
            ),
        )

    def test_words_for_on_and_off(self) -> None:
        """People write all of these."""
        for words, value in ((("on", "true", "YES", "1"), True), (("off", "False", "no", "0"), False)):
            for word in words:
                self.assertIs(load({"tickets": word}).tickets, value)

    def test_a_wrong_option_is_named(self) -> None:
        """Without the option's name and the cause, the operator has to guess."""
        for option, text, cause in (
            ("port", "http", "a whole number is wanted"),
            ("port", "65536", "at most 65535 is wanted"),
            ("port", "-1", "a whole number is wanted"),
            ("port", "8_443", "a whole number is wanted"),
            ("port", " 8443", "a whole number is wanted"),
            ("port", "٨", "a whole number is wanted"),
            ("port", "", "a whole number is wanted"),
            ("max-handshakes", "0", "at least 1 is wanted"),
            ("max-connections", "9999999999", "at most 1e+09 is wanted"),
            ("max-head", "1023", "at least 1024 is wanted"),
            ("idle-timeout", "0", "at least 0.1 is wanted"),
            ("idle-timeout", "nan", "a number of seconds is wanted"),
            ("idle-timeout", "inf", "a number of seconds is wanted"),
            ("idle-timeout", "1e3", "a number of seconds is wanted"),
            ("tickets", "maybe", "on or off is wanted"),
            ("tls-min", "1.1", "1.2 or 1.3 is wanted"),
            ("renew-longest", "400", "a length of time is a number and its unit, as 30d, 12h, 30m or 45s"),
            ("renew-longest", "12h", "1d to 36500d is wanted"),
            ("renew-longest", "0", "1d to 36500d is wanted"),
            ("renew-grace", "366d", "0 to 365d is wanted"),
            ("expiry-warning", "-1d", "a length of time is a number and its unit, as 30d, 12h, 30m or 45s"),
            ("certs", "", "a path is wanted"),
            ("certs", "a\0b", "a path is wanted"),
        ):
            self.assertEqual(self.refusal({option: text}), f"--{option} {text}: {cause}")

    def test_the_pair_is_in_the_folder_unless_it_is_elsewhere(self) -> None:
        """A server pair from another tool would have to be copied."""
        settings = load({"certs": "here"})
        self.assertEqual((settings.key_path, settings.cert_path), (Path("here/serverKey.pem"), Path("here/serverCrt.pem")))
        settings = load({"certs": "here", "key": "/k", "cert": "/c"})
        self.assertEqual((settings.key_path, settings.cert_path), (Path("/k"), Path("/c")))

    def test_the_next_pair_is_of_the_folders_own(self) -> None:
        """Clients would not hear of the next pair where the usual names are written out, and mtlsd init would change over."""
        usual = {"key": "here/serverKey.pem", "cert": os.path.abspath("here/serverCrt.pem")}
        for where in ({}, usual, {"key": usual["key"]}):
            self.assertEqual(load({"certs": "./here", **where}).next_pair, Path("here/next"))
        for where in ({"key": "/k"}, {"cert": "/c"}, {**usual, "cert": "/c"}):
            self.assertIsNone(load({"certs": "here", **where}).next_pair)

    def test_nothing_changes_it_later(self) -> None:
        """What was checked at the start has to be what is used a month later."""
        self.assertRaises(FrozenInstanceError, setattr, Settings(), "port", 1)

    @examples(deadline=None, database=None)
    @given(st.sampled_from(fields(Settings)), st.text(max_size=30))
    def test_any_text_is_a_setting_or_one_line(self, setting: object, text: str) -> None:
        """Any other exception would be a traceback at the start."""
        name = option_name(setting)  # type: ignore[arg-type]
        if name == "config":
            return
        try:
            load({name: text})
        except SettingsError as error:
            self.assertTrue(str(error).startswith(f"--{name} "))


class FileTests(SynchronousTestCase):
    def config(self, text: str | bytes) -> Path:
        """Write a configuration file."""
        folder = Path(self.mktemp())
        folder.mkdir()
        path = folder / "mtlsd.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def refusal(self, path: Path) -> str:
        """Return what is said of the configuration file, without its name."""
        text = str(self.assertRaises(SettingsError, loaded, {"config": str(path)}))
        self.assertTrue(text.startswith(f"{path}: "), text)
        self.assertNotIn("\n", text)
        return text.removeprefix(f"{path}: ")

    def test_the_command_line_wins_then_the_file_then_the_default(self) -> None:
        """An operator could not try another value without editing the file."""
        path = self.config('[server]\nport = 1111\nidle_timeout = 7\ntls_min = "1.3"\nrenew_grace = "7d"\n')
        settings = loaded({"config": str(path), "port": "2222"})
        expected = Settings(port=2222, idle_timeout=7.0, tls_min="1.3", renew_grace=timedelta(days=7), config=path)
        self.assertEqual(settings, expected)

    def test_a_default_that_is_given_wins_too(self) -> None:
        """Given and default must be told apart: `--port 9443` has to win over the file."""
        self.assertEqual(loaded({"config": str(self.config("[server]\nport = 1\n")), "port": "9443"}).port, 9443)

    def test_paths_count_from_the_file(self) -> None:
        """A daemon changes its folder, and a file that is moved with its folder goes on working."""
        path = self.config('[server]\ncerts = "c"\naudit_log = "/a"\naccess_log = "access.log"\n')
        settings = loaded({"config": str(path)})
        self.assertEqual((settings.certs, settings.audit_log), (path.parent / "c", Path("/a")))
        self.assertEqual(settings.access_log, str(path.parent / "access.log"))

    def test_a_dash_is_the_services_log(self) -> None:
        """It would become a file called `-` beside the configuration."""
        self.assertEqual(loaded({"config": str(self.config('[server]\naccess_log = "-"\n'))}).access_log, "-")

    def test_an_empty_file(self) -> None:
        """A file in which everything is commented out is fine."""
        path = self.config("# nothing yet\n")
        self.assertEqual(loaded({"config": str(path)}), Settings(config=path))

    def test_every_mistake_is_named_at_once(self) -> None:
        """Mistakes that come out one restart at a time cost an evening."""
        path = self.config('[server]\nport = "9443"\ntickets = 1\nprot = 1\nconfig = "x"\nidle_timeout = 0\n[sever]\n')
        self.assertEqual(
            self.refusal(path),
            "sever: unknown; server.port: a whole number is wanted; server.tickets: true or false is wanted; "
            "server.prot: unknown; server.config: unknown; server.idle_timeout: at least 0.1 is wanted",
        )

    def test_nothing_is_coerced(self) -> None:
        """`true` as a port, or a number as a path, is a mistake and not a value."""
        for line, cause in (
            ("port = true", "a whole number is wanted"),
            ("port = 1.0", "a whole number is wanted"),
            ("idle_timeout = true", "a number of seconds is wanted"),
            ('idle_timeout = "60"', "a number of seconds is wanted"),
            ("idle_timeout = nan", "at least 0.1 is wanted"),
            ("idle_timeout = inf", "at most 1e+09 is wanted"),
            (f"idle_timeout = 1{'0' * 400}", "at most 1e+09 is wanted"),
            (f"idle_timeout = -1{'0' * 400}", "at least 0.1 is wanted"),
            ('tickets = "on"', "true or false is wanted"),
            ("tls_min = 1.2", "text is wanted"),
            ("certs = 1", "text is wanted"),
            ('certs = ""', "a path is wanted"),
            ('certs = "a\\u0000b"', "a path is wanted"),
            ('access_log = ""', "a path is wanted"),
            ("renew_grace = 3600", 'a text like "30d", "12h", "30m", "45s" or "0" is wanted'),
            ("renew_longest = 400", 'a text like "30d", "12h", "30m", "45s" or "0" is wanted'),
            ('expiry_warning = "30"', "a length of time is a number and its unit, as 30d, 12h, 30m or 45s"),
        ):
            key = line.split(" ", 1)[0]
            self.assertEqual(self.refusal(self.config(f"[server]\n{line}\n")), f"server.{key}: {cause}")

    def test_server_has_to_be_a_table(self) -> None:
        """`server = 1` would be a traceback."""
        self.assertEqual(self.refusal(self.config("server = 1\n")), "server: a table is wanted")

    def test_what_cannot_be_read_is_named(self) -> None:
        """A missing, binary or half-written file must not start the server with its defaults."""
        self.assertEqual(self.refusal(Path(self.mktemp())), "No such file or directory")
        self.assertIn("not UTF-8 (at line 1, column 1)", self.refusal(self.config(b"\xff\xfe")))
        self.assertIn("line 1", self.refusal(self.config("[server\nport = 1")))


class FieldTests(SynchronousTestCase):
    def test_every_setting_says_what_it_is(self) -> None:
        """`twistd mtlsd --help` is made from these."""
        for setting in fields(Settings):
            self.assertTrue(setting.metadata["help"].endswith("."), setting.name)

    def test_every_default_is_allowed(self) -> None:
        """Writing the default down must not be a mistake."""
        for setting in fields(Settings):
            default = setting.default
            if default is None or setting.name == "config":
                continue
            self.assertEqual(getattr(load({option_name(setting): shown(default)}), setting.name), default, setting.name)

    def test_option_names(self) -> None:
        """Scripts rely on them."""
        self.assertIn("handshake-timeout", [option_name(setting) for setting in fields(Settings)])
