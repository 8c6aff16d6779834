"""Every setting of the service: its type, default, unit and meaning, in one place.

A setting is an option ``--some-name`` of ``twistd mtlsd`` and a key ``some_name`` under ``[server]`` in the
configuration file.  The command line wins, then the file, then the default.  Pure: values in, a checked value out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from mtlsd.durations import NONE, read_duration, written
from mtlsd.errors import SettingsError
from mtlsd.keys import read_endpoint
from mtlsd.policy import KINDS
from mtlsd.text import printable

_CERTS = "certs"
#: Whole numbers below it are floats too.
_FLOAT_EXACT = 1 << 53
_NOTHING: Mapping[str, object] = MappingProxyType({})


def _setting(
    default: object,
    help: str,
    *,
    least: float | timedelta | None = None,
    most: float | timedelta | None = None,
    choices: tuple[str, ...] = (),
    check: Callable[[Any], object] | None = None,
) -> Any:
    return field(default=default, metadata={"help": help, "least": least, "most": most, "choices": choices, "check": check})


def _kinds_of_key(kinds: tuple[str, ...]) -> None:
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"{printable(kind)!r} is no kind of key: {', '.join(KINDS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one service, checked.

    Times are seconds, but for those that nobody counts in them: these are written with their unit, as in a client's terms (``30d``).
    Sizes are bytes, 0 connections means no limit.
    """

    port: int = _setting(9443, "TCP port to listen on; 0 takes a free one.", least=0, most=65535)
    interface: str = _setting("", "Address to listen on; default: every one, IPv4 and IPv6.")
    certs: Path = _setting(Path(_CERTS), "Folder of the server's pair and of the authorized clients.")
    key: Path | None = _setting(None, "The server's private key, PEM; default: serverKey.pem in the folder.")
    cert: Path | None = _setting(None, "The server's certificate, PEM, its chain after it; default: serverCrt.pem in the folder.")
    config: Path | None = _setting(
        None, "Configuration file (TOML): [server] holds these settings, [[route]] who may ask for what."
    )
    audit_log: Path | None = _setting(None, "File for the verdicts, one JSON object a line; default: none.")
    access_log: str | None = _setting(None, "File for the requests, or - for the service's own log; default: none.")
    expiry_warning: timedelta = _setting(
        timedelta(days=30),
        "Time before a certificate's end from which the log warns of it, once a day; 0: never.",
        least=timedelta(),
        most=timedelta(days=3650),
    )
    handshake_timeout: float = _setting(10.0, "Seconds for a whole TLS handshake.", least=0.1)
    head_timeout: float = _setting(10.0, "Seconds from the first byte of a request's head to its last.", least=0.1)
    idle_timeout: float = _setting(60.0, "Seconds that a connection may wait between requests.", least=0.1)
    body_timeout: float = _setting(60.0, "Seconds without a byte of a request's body.", least=0.1)
    min_rate: int = _setting(256, "Bytes a second of a request's body, over body-timeout; 0: any.", least=0)
    write_timeout: float = _setting(60.0, "Seconds that bytes may wait for a client that takes none.", least=0.1)
    close_timeout: float = _setting(5.0, "Seconds that a closed connection may take to go away.", least=0.1)
    drain_timeout: float = _setting(30.0, "Seconds that responses in flight have to finish at shutdown.", least=0)
    max_handshakes: int = _setting(2048, "Unfinished handshakes; past it the oldest is dropped.", least=1)
    max_connections: int = _setting(0, "Connections of authorized clients; 0: no limit.", least=0)
    max_per_address: int = _setting(0, "Connections from one address (IPv6: one /64); 0: no limit.", least=0)
    max_head: int = _setting(32768, "Bytes of a request's line and headers.", least=1024)
    max_body: int = _setting(0, "Bytes of a request's body; 0: no limit.", least=0)
    threads: int = _setting(10, "Requests that WSGI applications answer at a time, each in a thread.", least=1, most=1000)
    tickets: bool = _setting(True, "TLS session tickets, on or off.")
    pending: bool = _setting(True, "Keep unknown certificates that were refused, for mtlsd approve, on or off.")
    enrol: bool = _setting(False, "Let in who holds an invite (mtlsd join), on or off.")
    renew: bool = _setting(False, "Let clients renew their certificates by themselves (mtlsd renew), on or off.")
    renew_longest: timedelta = _setting(
        timedelta(days=400),
        "Time that a certificate may be good which comes by a renewal or an invite, from now.",
        least=timedelta(days=1),
        most=timedelta(days=36_500),
    )
    renew_grace: timedelta = _setting(
        timedelta(hours=1),
        "Time that an old certificate stays good after the first use of its renewal.",
        least=timedelta(),
        most=timedelta(days=365),
    )
    enrol_keys: tuple[str, ...] = _setting(
        tuple(KINDS),
        "Kinds of key that a renewal or an invite may bring, with commas.",
        check=_kinds_of_key,
    )
    public: str = _setting("", "HOST:PORT by which clients reach the server, for invites; default: none.", check=read_endpoint)
    tls_min: str = _setting("1.2", "Oldest TLS version, 1.2 or 1.3.", choices=("1.2", "1.3"))

    @property
    def key_path(self) -> Path:
        return self.key or self.certs / "serverKey.pem"

    @property
    def next_pair(self) -> Path | None:
        """The folder of the server's next pair; ``None`` where the pair is not the folder's own, and so not ours to renew."""
        # Who writes out the usual names has the folder's own pair all the same: mtlsd init is going to change it.
        own = self.certs / "serverKey.pem", self.certs / "serverCrt.pem"
        here = self.key_path, self.cert_path
        return self.certs / "next" if list(map(os.path.abspath, here)) == list(map(os.path.abspath, own)) else None

    @property
    def cert_path(self) -> Path:
        return self.cert or self.certs / "serverCrt.pem"


def shown(value: object) -> str:
    """Return the value of a setting as it is given on the command line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, timedelta):
        return written(value)
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def option_name(setting: Field[Any]) -> str:
    """Return the name of a setting on the command line."""
    return setting.name.replace("_", "-")


def load(options: Mapping[str, str | None], file: Mapping[str, object] = _NOTHING) -> Settings:
    """Make the settings from command-line *options* (by option name; ``None``: not given) and those of the *file*.

    Raises :exc:`~mtlsd.errors.SettingsError` with one line that names the option.
    """
    return Settings(**cast(dict[str, Any], {**file, **_given(options)}))


def config_of(options: Mapping[str, str | None]) -> Path | None:
    """Return the configuration file that command-line *options* name.  Raises :exc:`~mtlsd.errors.SettingsError`."""
    name = "config"
    return cast("Path | None", _given({name: options.get(name)}).get(name))


def from_table(table: Mapping[str, Any], base: Path) -> tuple[dict[str, object], list[str]]:
    """Read the ``[server]`` table of a configuration file in the folder *base*: the values, and every mistake in it."""
    by_name = {setting.name: setting for setting in fields(Settings) if setting.name != "config"}
    values: dict[str, object] = {}
    mistakes = []
    for key, value in table.items():
        if key not in by_name:
            mistakes.append(f"server.{printable(key)}: unknown")
            continue
        try:
            values[key] = _checked(by_name[key], _from_toml(by_name[key], value, base))
        except ValueError as error:
            mistakes.append(f"server.{key}: {error}")
    return values, mistakes


def _given(options: Mapping[str, str | None]) -> dict[str, object]:
    given: dict[str, object] = {}
    for setting in fields(Settings):
        text = options.get(option_name(setting))
        if text is not None:
            try:
                given[setting.name] = _checked(setting, _from_text(setting, text))
            except ValueError as error:
                raise SettingsError(f"--{option_name(setting)} {text}: {error}") from None
    return given


def _from_text(setting: Field[Any], text: str) -> object:
    kind = setting.type
    if kind == "bool":
        if text.lower() in ("on", "true", "yes", "1"):
            return True
        if text.lower() in ("off", "false", "no", "0"):
            return False
        raise ValueError("on or off is wanted")
    if kind == "int":
        # Not int(): it takes underscores, spaces and other scripts' digits.
        if not re.fullmatch(r"[0-9]{1,12}", text):
            raise ValueError("a whole number is wanted")
        return int(text)
    if kind == "float":
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
            raise ValueError("a number of seconds is wanted")
        return float(text)
    if kind == "timedelta":
        return _length(text)
    if "tuple" in kind:
        return _named(part.strip() for part in text.split(","))
    if "Path" in kind:
        return _path(text, Path())
    return text


def _from_toml(setting: Field[Any], value: object, base: Path) -> object:
    """Take a TOML value as it is: nothing is coerced, but that whole seconds are seconds.  Paths count from the file."""
    kind = setting.type
    wanted: tuple[str, Callable[[object], bool]]
    if kind == "bool":
        wanted = "true or false", lambda value: isinstance(value, bool)
    elif kind == "int":
        wanted = "a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)
    elif kind == "timedelta":
        # A bare number would be days to one and seconds to another.
        wanted = 'a text like "30d", "12h", "30m", "45s" or "0"', lambda value: isinstance(value, str)
    elif "tuple" in kind:
        wanted = "a list of texts", lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value)
    elif kind == "float":
        wanted = "a number of seconds", lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    else:
        wanted = "text", lambda value: isinstance(value, str)
    if not wanted[1](value):
        raise ValueError(f"{wanted[0]} is wanted")
    if kind == "float":
        # TOML knows whole numbers for which no float is large enough: what is too much is found to be so below.
        number = cast(float, value)
        return float(number) if isinstance(value, float) or abs(number) < _FLOAT_EXACT else number
    if kind == "timedelta":
        return _length(cast(str, value))
    if "tuple" in kind:
        return _named(cast(list[str], value))
    if "Path" in kind:
        return _path(cast(str, value), base)
    if setting.name == "access_log" and value != "-":
        return str(_path(cast(str, value), base))
    return value


def _named(parts: Iterable[str]) -> tuple[str, ...]:
    """Return what a list names.  One that names nothing is a mistake, more likely than a wish."""
    named = tuple(dict.fromkeys(parts))
    if not all(named) or not named:
        raise ValueError("one or more are wanted")
    return named


def _length(text: str) -> timedelta:
    return timedelta() if text == NONE else read_duration(text)


def _path(text: str, base: Path) -> Path:
    if not text or "\0" in text:
        raise ValueError("a path is wanted")
    return base / text


def _checked(setting: Field[Any], value: object) -> object:
    least, most, choices, check = (setting.metadata[key] for key in ("least", "most", "choices", "check"))
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Written so that NaN, which compares with nothing, is refused too.
        if least is not None and not value >= least:
            raise ValueError(f"at least {least:g} is wanted")
        if not value <= (most if most is not None else 1e9):
            raise ValueError(f"at most {most if most is not None else 1e9:g} is wanted")
    if isinstance(value, timedelta) and not least <= value <= most:
        raise ValueError(f"{written(least)} to {written(most)} is wanted")
    if choices and value not in choices:
        raise ValueError(f"{' or '.join(choices)} is wanted")
    if check is not None and value:
        check(value)
    return value
