"""The set-up behind `make demo` and `make test`, as far as it can be tried without installing."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SHELL_NEEDS = ("id", "ls", "paste", "sh")


# Of what is needed, this is not in the sbin folders, where install-parts looks too.
LACKING = "prometheus prometheus-alertmanager iproute2"
MORE_LACKING = (
    f"{LACKING} bind9-utils knot-dnssecutils bind9-dnsutils docker-compose busybox"
    " unison openssh-client sudo git"
)

either = pytest.mark.parametrize(
    ("what_for", "lacking"), [("demo", LACKING), ("test", MORE_LACKING)]
)


@pytest.mark.parametrize("what_for", ["demo", "test"])
def test_nothing_is_said_or_done_where_nothing_is_missing(what_for: str) -> None:
    """The tests run, so all parts are here: install-parts leaves no trace of itself."""
    assert install_parts(what_for, os.environ["PATH"]) == (0, "")


@either
def test_without_apt_get_one_line_says_what_to_install(
    bare: Path, what_for: str, lacking: str
) -> None:
    """On other systems the parts have other names; they are the owner's to install."""
    status, told = install_parts(what_for, str(bare))
    assert status == 1
    assert told == f"zonerw: install this first, by whatever names it has here: {lacking}\n"


@either
def test_without_a_way_to_root_one_line_says_what_to_run(
    bare: Path, what_for: str, lacking: str
) -> None:
    """A user without sudo gets the very command that somebody else has to run."""
    program(bare / "apt-get", "echo must not be called; exit 1")
    program(bare / "id", "echo 1000")
    status, told = install_parts(what_for, str(bare))
    assert status == 1
    assert told == (
        f"zonerw: install this first, as root: apt-get install --no-install-recommends {lacking}\n"
    )


@pytest.mark.parametrize(
    ("target", "words"),
    [("demo", ["demo"]), ("test", ["test", "demo"]), ("soak", ["test", "demo"])],
)
def test_the_demo_needs_less_than_the_tests(target: str, words: list[str]) -> None:
    """NSD is all it shows. What the tests need comes at once, so that apt-get runs once."""
    status, told = make("--dry-run", "PYTHON=python3", target)
    assert status == 0
    asked = re.findall(r"^sh demo/install-parts (.*)$", told, re.MULTILINE)
    assert asked == [f"{word} python3" for word in words]


@pytest.mark.parametrize("words", [[], ["python3"], ["demos"]])
def test_what_for_has_to_be_said(words: list[str]) -> None:
    """Nothing is installed for a purpose that nobody knows."""
    status, told = run("/bin/sh", "demo/install-parts", *words)
    assert status == 1
    assert told == "zonerw: say what for: demo/install-parts demo, or demo/install-parts test\n"


def test_an_old_python_is_told_in_one_line(tmp_path: Path) -> None:
    """Before anything is installed; and PYTHON names another one."""
    old = "import sys; sys.version_info = (3, 9, 2); exec(sys.argv.pop(2))"
    program(tmp_path / "old", f"exec {sys.executable} -c '{old}' \"$@\"")
    status, told = make("parts", f"PYTHON={tmp_path}/old")
    assert status != 0
    assert "old is Python 3.9: it takes Python 3.11 or newer" in told


def test_make_test_checks_in_order_and_fails_at_the_first() -> None:
    """Format, lint, types, tests: each a line of its own, so that make stops where one fails."""
    there = ("--old-file=more-parts", "--old-file=.venv/.stamp")
    status, told = make("--dry-run", *there, "test")
    assert status == 0
    assert [line.removeprefix(".venv/bin/") for line in told.splitlines()] == [
        "ruff format --check",
        "ruff check",
        "mypy",
        "pytest -n 4 --dist worksteal",
    ]


def test_every_package_that_gets_installed_is_pinned() -> None:
    """What pip installs is what was tried: each package, and what each needs, has one version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["build-system"]["requires"]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    assert dict(closure(wanted)).items() <= pins().items()


def test_the_wheel_is_built_with_the_pinned_hatchling() -> None:
    """What pip builds with it does not constrain: the two versions must not drift apart."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["build-system"]["requires"] == [f"hatchling=={pins()['hatchling']}"]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder for PATH with hardly a program in it; what is in the sbin folders is seen still."""
    for name in SHELL_NEEDS:
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    return tmp_path


def install_parts(what_for: str, path: str) -> tuple[int, str]:
    return run("/bin/sh", "demo/install-parts", what_for, sys.executable, PATH=path)


def make(*words: str) -> tuple[int, str]:
    found = shutil.which("make")
    assert found
    # A make that runs these tests hands its own flags down.
    return run(found, "--no-print-directory", *words, MAKEFLAGS="", MAKELEVEL="")


def run(*words: str, **environment: str) -> tuple[int, str]:
    ran = subprocess.run(
        words,
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return ran.returncode, ran.stdout


def program(path: Path, script: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def pins() -> dict[str, str]:
    """The version of each package in the constraints, which hold nothing but pins."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9.!]*)", line)
        assert match, line
        name = canonicalize_name(match[1])
        assert name not in found, f"{name} twice"
        found[name] = match[2]
    return found


def closure(requirements: list[str]) -> Iterator[tuple[str, str]]:
    """The installed version of each package that these need, and those need, and so on."""
    waiting = [Requirement(text) for text in requirements]
    seen = set()
    while waiting:
        one = waiting.pop()
        for extra in {"", *one.extras}:
            key = (canonicalize_name(one.name), extra)
            if key in seen:
                continue
            seen.add(key)
            yield key[0], metadata.version(one.name)
            waiting += [
                need
                for need in map(Requirement, metadata.requires(one.name) or [])
                if need.marker is None or need.marker.evaluate({"extra": extra})
            ]
