"""What a configuration names, found on this machine: files, folders, and objects in Python modules."""

from __future__ import annotations

import importlib
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtlsd.config import Config, ConfigError, read
from mtlsd.errors import SettingsError
from mtlsd.routing.rules import Made, Rules, Static, Upstream, Wsgi
from mtlsd.text import printable, shortened

_LONGEST = 200


def found(destination: Static | Wsgi | Made, base: Path) -> Any:
    """Return what *destination* names: the real path of a folder (text), or something that can be called.

    Modules are looked for in *base*, the configuration file's folder, before anywhere else.  Raises
    :exc:`~mtlsd.errors.SettingsError` with the key of the route and what is wrong.
    """
    if isinstance(destination, Static):
        if not destination.folder.is_dir():
            raise SettingsError(f"static: {printable(str(destination.folder))} is not a folder")
        return os.path.realpath(destination.folder)
    key = "wsgi" if isinstance(destination, Wsgi) else "resource"
    _let_be_imported(base)
    module, _, path = destination.name.partition(":")
    try:
        named: Any = importlib.import_module(module)
        if _is_shadowed(module, base):
            raise ImportError("Python has another module of this name, so the one beside the file needs a name of its own")
        for part in path.split("."):
            named = getattr(named, part)
    except (Exception, SystemExit) as error:
        # Whatever somebody else's module does when it is imported.  A script ends there, and would end the door with it.
        raise SettingsError(f"{key}: {destination.name}: {told(error)}") from error
    if not callable(named):
        raise SettingsError(f"{key}: {destination.name}: it cannot be called")
    return named


def looked_over(path: Path, *, imports: bool) -> Config:
    """Read the configuration file *path*, and find what its routes lead to, modules too.

    Without *imports* that is left to whoever uses it, and only where the file itself is wrong folders are looked for, so that
    all that can be said is said at once.  Raises :exc:`~mtlsd.config.ConfigError` with every mistake there is: in the file,
    then on this machine.
    """
    mistakes: tuple[str, ...] = ()
    seen: Config | None
    try:
        seen = read(path)
    except ConfigError as error:
        mistakes, seen = error.mistakes, error.seen
    if seen is not None and (imports or mistakes):
        mistakes += tuple(missing(seen.rules, path.parent, imports=imports))
    if mistakes or seen is None:
        raise ConfigError(path, mistakes, seen)
    return seen


def missing(rules: Rules, base: Path, *, imports: bool = True) -> list[str]:
    """Return what is wrong with the destinations in *rules* on this machine, a line each; modules only with *imports*."""
    mistakes = []
    for route in rules.routes:
        if isinstance(route.destination, Upstream) or not (imports or isinstance(route.destination, Static)):
            continue
        try:
            found(route.destination, base)
        except SettingsError as error:
            mistakes.append(f"route[{route.number}].{error}")
    return mistakes


def missing_files(server: Mapping[str, object]) -> list[str]:
    """Return which files that ``[server]`` names are not there, or have no folder to be made in, a line each.

    What may not be looked at is let pass: who checks need not be who serves.
    """
    mistakes = []
    for key in ("key", "cert", "audit_log", "access_log"):
        path = server.get(key)
        if path is None or path == "-":
            continue
        path = Path(str(path))
        is_written = key.endswith("_log")
        try:
            if is_written and not stat.S_ISDIR(path.parent.stat().st_mode):
                mistakes.append(f"server.{key}: {printable(str(path.parent))} is not a folder")
            elif stat.S_ISDIR(path.stat().st_mode):
                mistakes.append(f"server.{key}: {printable(str(path))} is a folder")
        except PermissionError:
            continue
        except OSError as error:
            if is_written and path.parent.is_dir():
                # It will be made.
                continue
            wanted = path.parent if is_written else path
            mistakes.append(f"server.{key}: {printable(str(wanted))}: {error.strerror}")
    return mistakes


def told(error: BaseException) -> str:
    """Return an exception of somebody else's code as one short line."""
    return shortened(printable(f"{type(error).__name__}: {error}"), _LONGEST)


def _is_shadowed(name: str, base: Path) -> bool:
    """Tell whether there is a module in *base*, and what was imported by its *name* is another one.

    What Python itself has imported already (``site``, say) is not looked for again, wherever the search would begin.
    """
    top = name.partition(".")[0]
    beside = {os.path.realpath(file) for file in (base / f"{top}.py", base / top / "__init__.py") if file.is_file()}
    return bool(beside) and os.path.realpath(getattr(sys.modules[top], "__file__", None) or "") not in beside


def _let_be_imported(folder: Path) -> None:
    # For good: an application imports when it likes.
    text = os.path.abspath(folder)
    if text not in sys.path:
        sys.path.insert(0, text)
