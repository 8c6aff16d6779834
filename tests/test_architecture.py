"""Reads the sources and keeps the rules of the house (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mtlsd"
OUTSIDE = ("twisted", "OpenSSL")

#: What may be imported without Twisted and OpenSSL: values in, values out.
PURE = (
    "mtlsd.errors",
    "mtlsd.text",
    "mtlsd.identity",
    "mtlsd.policy",
    "mtlsd.settings",
    "mtlsd.audit.events",
    "mtlsd.registry.records",
    "mtlsd.registry.knock",
    "mtlsd.enrol.book",
    "mtlsd.addresses",
    "mtlsd.protocols",
    "mtlsd.proof",
    "mtlsd.enrol.invitation",
    "mtlsd.config",
    "mtlsd.routing.paths",
    "mtlsd.routing.rules",
    "mtlsd.routing.explain",
)

MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
MUTABLE_MAKERS = {"list", "dict", "set", "bytearray", "defaultdict", "deque", "OrderedDict", "Counter"}
CHANGERS = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "popitem", "remove", "discard", "clear", "sort"}


def module_name(path: Path) -> str:
    """Return the dotted name of a source file of the checkout."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, ast.Module]:
    """Return every module of the package, by name, parsed."""
    return {module_name(path): ast.parse(path.read_text("utf-8"), str(path)) for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def imports(module: str) -> frozenset[str]:
    """Return what *module* imports anywhere in it, with ``if TYPE_CHECKING`` too: modules, and names in modules."""
    found: set[str] = set()
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: -node.level] if module.count(".") >= node.level else ["mtlsd"]
                base = ".".join([*package, base]).rstrip(".")
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return frozenset(found)


def reached(module: str) -> frozenset[str]:
    """Return every import that comes with importing *module*, the packages above it and what they import among them."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        here = waiting.pop()
        for name in {here, *imports(here)}:
            for known in (name, *(name.rsplit(".", up)[0] for up in range(1, name.count(".") + 1))):
                if known not in found:
                    found.add(known)
                    if known in modules():
                        waiting.append(known)
    return frozenset(found)


def within(name: str, *packages: str) -> bool:
    """Tell whether *name* is one of *packages* or something in one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def sources_of_tests() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        yield path, ast.parse(path.read_text("utf-8"), str(path))


class RoomTests(SynchronousTestCase):
    """What may import what."""

    def test_the_reader_reads(self) -> None:
        """A reader that sees no imports would keep no rule."""
        self.assertIn("mtlsd.identity.Certificate", imports("mtlsd.policy"))
        self.assertIn("mtlsd.errors", reached("mtlsd.policy"))
        self.assertIn("twisted.logger", reached("mtlsd.audit.sinks"))
        self.assertGreater(len(modules()), 20)

    def test_pure_modules(self) -> None:
        """A decision that needs a reactor or a connection cannot be looked at by itself, nor tried a million times."""
        for module in PURE:
            self.assertEqual([name for name in sorted(reached(module)) if within(name, *OUTSIDE)], [], module)

    def test_the_policy_needs_values_only(self) -> None:
        """A policy that reads a file or a clock gives two answers to one question."""
        allowed = ("__future__", "dataclasses", "datetime", "enum", "typing", "mtlsd.identity", "mtlsd.registry.records")
        self.assertEqual([name for name in sorted(imports("mtlsd.policy")) if not within(name, *allowed)], [])

    def test_what_serves_requests_never_sees_tls(self) -> None:
        """A resource that reaches for the connection judges by something else than the predicate."""
        for module in modules():
            if within(module, "mtlsd.web", "mtlsd.proxy"):
                forbidden = ("mtlsd.tls", "OpenSSL", "twisted.internet.ssl", "twisted.protocols.tls")
                self.assertEqual([name for name in sorted(reached(module)) if within(name, *forbidden)], [], module)

    def test_tls_knows_nothing_of_joining(self) -> None:
        """What a connection may be used for is TLS's to keep; a way around that would be found from inside the exchange."""
        for module in modules():
            if within(module, "mtlsd.tls"):
                self.assertEqual([name for name in sorted(reached(module)) if within(name, "mtlsd.enrol")], [], module)
            if within(module, "mtlsd.enrol"):
                forbidden = ("mtlsd.web", "mtlsd.proxy", "mtlsd.cli", "mtlsd.tap")
                self.assertEqual([name for name in sorted(imports(module)) if within(name, *forbidden)], [], module)

    def test_the_command_decides_nothing(self) -> None:
        """A rule that only the command knows is one that the server does not keep."""
        for module in modules():
            if within(module, "mtlsd.cli"):
                forbidden = ("mtlsd.tls", "mtlsd.web", "mtlsd.tap", "mtlsd.policy.decide", *OUTSIDE)
                self.assertEqual([name for name in sorted(imports(module)) if within(name, *forbidden)], [], module)

    def test_the_registry_knows_neither_connections_nor_pages(self) -> None:
        """The command uses it too, and has neither."""
        for module in modules():
            if within(module, "mtlsd.registry", "mtlsd.audit"):
                forbidden = ("mtlsd.tls", "mtlsd.web", "mtlsd.cli", "mtlsd.tap", "OpenSSL")
                self.assertEqual([name for name in sorted(reached(module)) if within(name, *forbidden)], [], module)

    def test_who_knocks_has_no_say(self) -> None:
        """What is noted of strangers, and the way in, must not reach into each other: a knock never widens anything."""
        for module in modules():
            if within(module, "mtlsd.enrol"):
                # Who joins is let in by the one writer, as everybody is; who knocks is only noted.
                writer = () if module in ("mtlsd.enrol.invites", "mtlsd.enrol.join") else ("mtlsd.registry.store",)
                forbidden = ("mtlsd.tls", "mtlsd.web", "mtlsd.cli", *writer, "mtlsd.policy.decide", "OpenSSL")
                self.assertEqual([name for name in sorted(imports(module)) if within(name, *forbidden)], [], module)
            if within(module, "mtlsd.tls", "mtlsd.web", "mtlsd.registry"):
                self.assertEqual([name for name in sorted(reached(module)) if within(name, "mtlsd.enrol")], [], module)

    def test_only_the_tap_wires(self) -> None:
        """What is put together in two places is put together in two ways."""
        for module in modules():
            self.assertFalse(module != "mtlsd.tap" and any(within(name, "mtlsd.tap") for name in imports(module)), module)
            both = all(any(within(name, room) for name in imports(module)) for room in ("mtlsd.tls", "mtlsd.web"))
            if not within(module, "mtlsd.tls"):
                self.assertEqual(both, module == "mtlsd.tap", module)

    def test_the_reactor_is_passed_in(self) -> None:
        """A module that fetches the global reactor cannot be tested without it, and installs it where it is imported."""
        users = [module for module in modules() if "twisted.internet.reactor" in imports(module)]
        self.assertEqual(users, ["mtlsd.tap"])
        for node in modules()["mtlsd.tap"].body:
            self.assertFalse(isinstance(node, ast.ImportFrom) and "reactor" in {alias.name for alias in node.names})


class StateTests(SynchronousTestCase):
    """Two services in one process, or two tests, must not meet in a module."""

    def test_no_module_level_state(self) -> None:
        """State in a module outlives a reload, and is shared by all who import it."""
        for module, tree in modules().items():
            constants: set[str] = set()
            for node in tree.body:
                if isinstance(node, ast.Assign):
                    targets, value = [target for target in node.targets if isinstance(target, ast.Name)], node.value
                elif isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
                    targets, value = [node.target], node.value
                else:
                    continue
                made = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in MUTABLE_MAKERS
                for target in targets:
                    if isinstance(value, MUTABLE) or made:
                        self.assertTrue(target.id == "__all__" or target.id.isupper(), f"{module}: {target.id}")
                    constants.add(target.id)
            for inner in ast.walk(tree):
                self.assertFalse(isinstance(inner, ast.Global), module)
                self.assertNotIn(changed_name(inner), constants, module)


def changed_name(node: ast.AST) -> str | None:
    """Return the name that *node* changes in place: ``NAME[...] = ...``, ``del NAME[...]``, ``NAME.append(...)``."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del) and isinstance(node.value, ast.Name):
        return node.value.id
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGERS:
        return node.func.value.id if isinstance(node.func.value, ast.Name) else None
    return None


class PluginTests(SynchronousTestCase):
    """Facts about twistd that cost days to find (field-notes 21 to 25)."""

    def test_twisted_is_not_shadowed(self) -> None:
        """An __init__.py in twisted/ hides all of Twisted; one in plugins/ makes `twistd mtlsd` disappear without a word."""
        self.assertEqual(sorted(path.name for path in (ROOT / "twisted").rglob("__init__.py")), [])

    def test_the_plugin_imports_nothing_of_ours(self) -> None:
        """`twistd --help` would load the whole server; and a plugin that fails to import is missing without a word."""
        (path,) = (ROOT / "twisted" / "plugins").glob("*.py")
        self.assertEqual(path.name, "mtlsd_plugin.py")
        tree = ast.parse(path.read_text("utf-8"))
        found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        self.assertEqual([ast.unparse(node) for node in found], ["from twisted.application.service import ServiceMaker"])


class TestTests(SynchronousTestCase):
    """The tests keep rules of their own."""

    def test_each_says_what_would_be_lost(self) -> None:
        """A test that fails has to tell whoever broke it what it is for."""
        silent = [
            f"{path.relative_to(ROOT)}: {node.name}"
            for path, tree in sources_of_tests()
            for outer in ast.walk(tree)
            if isinstance(outer, ast.ClassDef)
            for node in outer.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
            if not ast.get_docstring(node)
        ]
        self.assertEqual(silent, [])

    def test_none_is_skipped_and_none_sleeps(self) -> None:
        """A test that did not run shows nothing; one that sleeps is slow on a good day and fails on a bad one."""
        for path, tree in sources_of_tests():
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute | ast.Name):
                    name = node.attr if isinstance(node, ast.Attribute) else node.id
                    self.assertNotIn(name, ("skip", "skipIf", "skipUnless", "SkipTest", "sleep", "todo"), str(path))

    def test_sockets_and_servers_stay_in_acceptance(self) -> None:
        """Unit tests that open sockets or start programs fail for reasons that are not theirs."""
        for path, tree in sources_of_tests():
            if "acceptance" in path.parts:
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    self.assertNotIn("subprocess", {alias.name for alias in node.names}, str(path))
                if isinstance(node, ast.Attribute):
                    self.assertNotIn(node.attr, ("create_connection", "listenTCP", "connectTCP", "adoptStreamPort"), str(path))
