"""The house's arrows: who may import whom, and what the pure modules keep away from."""

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent

# What actions shares with the exporter.
SHARED = (
    *("exporter.config", "exporter.kinds", "exporter.zonefile"),
    *("exporter.probes", "exporter.soa", "exporter.log", "exporter.version"),
)

# They decide, and they turn text into text: what they know of the world comes in as arguments.
PURE = ("actions.decide", "actions.zone")

# All that the pure modules may import besides each other. `io` is for texts in memory.
HARMLESS = (
    *("__future__", "bisect", "collections", "dataclasses", "datetime", "enum", "functools"),
    *("io", "ipaddress", "itertools", "operator", "re", "string", "struct", "typing"),
    *("dns.exception", "dns.name", "dns.rdata", "dns.rdataclass", "dns.rdataset"),
    *("dns.rdatatype", "dns.rdtypes", "dns.rrset", "dns.serial", "dns.tokenizer", "dns.zone"),
    *("exporter.config", "exporter.zonefile"),
)
CLOCKS = {"now", "utcnow", "today"}
OUTSIDE = {"open", "print", "input", "exec", "eval", "__import__"}


def sources(package: str) -> list[Path]:
    paths = sorted((HOUSE / package).rglob("*.py"))
    assert paths
    return paths


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix(".__init__")


def imports(text: str, package: str) -> set[str]:
    """The full name of everything that a module's text imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = [*(above if node.level else []), *([node.module] if node.module else [])]
            found |= {".".join([*start, one.name]) for one in node.names}
    return found


def imported_by(path: Path) -> set[str]:
    return imports(path.read_text(encoding="utf-8"), name_of(path.parent))


def within(name: str, modules: Iterable[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import exporter.soa", {"exporter.soa"}),
        ("import time as t, os.path", {"time", "os.path"}),
        ("from exporter import soa as s, log", {"exporter.soa", "exporter.log"}),
        ("from exporter.config import Config", {"exporter.config.Config"}),
        ("from . import zone", {"actions.zone"}),
        ("from .zone import render", {"actions.zone.render"}),
        ("from .. import exporter", {"exporter"}),
        ("def late():\n    if True:\n        import demo", {"demo"}),
        ("from exporter import *", {"exporter.*"}),
    ],
)
def test_no_way_to_import_is_overlooked(text: str, names: set[str]) -> None:
    """Each spelling counts, also inside of a function."""
    assert imports(text, "actions") == names


def test_the_exporter_knows_nothing_of_actions() -> None:
    """Looking works without acting: nothing of actions or the demo is imported there."""
    against = {
        (name_of(path), name)
        for path in sources("exporter")
        for name in imported_by(path)
        if within(name, ("actions", "demo"))
    }
    assert not against


def test_actions_shares_only_what_looks_and_reads() -> None:
    """Of the exporter it takes these modules alone; its command also starts exporter and demo."""
    against = {
        (name_of(path), name)
        for path in sources("actions")
        for name in imported_by(path)
        if within(name, ("exporter", "demo")) and not within(name, SHARED)
    }
    started = {
        (module, name)
        for module, name in against
        if module == "actions.cli" and within(name, ("exporter.__main__", "demo"))
    }
    assert not against - started


def test_only_the_command_takes_up_what_wires_things_together() -> None:
    """No module imports a program's start or the command, but the command: all, byhand the daemon.

    A run by hand is wired as the daemon's are; byhand is not in cli so that cli loads little.
    """
    wiring = ("actions.cli", "actions.byhand", "actions.__main__", "exporter.__main__")
    against = {
        (name_of(path), name)
        for package in ("exporter", "actions")
        for path in sources(package)
        for name in imported_by(path)
        if within(name, wiring)
    }
    against -= {("actions.byhand", "actions.__main__")}
    assert {module for module, _ in against} <= {"actions.cli"}


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_imports_nothing_that_reaches_out(module: str) -> None:
    """No file, no network, no clock, no log: such modules are not even imported."""
    path = HOUSE / f"{module.replace('.', '/')}.py"
    assert {name for name in imported_by(path) if not within(name, (*HARMLESS, *PURE))} == set()


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_reads_no_clock_and_opens_nothing(module: str) -> None:
    """The day is an argument, and so is each text."""
    tree = ast.parse((HOUSE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not attributes & (CLOCKS | {"open"})
    assert not names & OUTSIDE
