"""RUNBOOK.md and the alerts that lead to it."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from actions.cli import cli

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "RUNBOOK.md").read_text()
NSD_CONTROL = shutil.which("nsd-control") or "nsd-control"  # not found: the error names it
RULES = {"default": ROOT / "prometheus", "fast": ROOT / "prometheus" / "fast"}

# Where the README installs it.
INSTALLED = "file:///opt/zonerw/share/zonerw/RUNBOOK.md"

# What is no alert's.
FURTHER = {"In containers", "Promote main to primary by hand"}

# In every Debian, or of programs that a server may have.
ELSEWHERE = {
    "awk", "chown", "cp", "df", "head", "ip", "journalctl", "ls", "rm", "sed", "ss", "ssh",
    "systemctl", "tr",
    "curl", "dig", "docker", "git",
}  # fmt: skip
PARTS = {"amtool", "nsd-checkconf", "nsd-checkzone", "nsd-control", "promtool"}


@pytest.mark.parametrize("profile", RULES)
def test_each_alert_leads_to_its_own_heading(profile: str) -> None:
    """By an address that holds where the README installs the runbook."""
    for rule in alerts(profile):
        name = rule["alert"]
        assert rule["annotations"]["runbook_url"] == f"{INSTALLED}#{name.lower()}"
        assert name in headings()


def test_each_heading_is_an_alert_or_known() -> None:
    """What was renamed or removed in the rules would tell of something that never comes."""
    assert len(headings()) == len(set(headings()))
    assert set(headings()) == {rule["alert"] for rule in alerts("default")} | FURTHER


def test_links_within_it_lead_to_headings() -> None:
    """As the pages that show Markdown make their anchors."""
    anchors = {heading.lower().replace(" ", "-") for heading in headings()}
    links = set(re.findall(r"\]\(#(.*?)\)", RUNBOOK))
    assert links
    assert links <= anchors


def test_each_section_says_what_it_means_and_what_to_do() -> None:
    """Two paragraphs at least; and steps to take, but for the one that is no trouble."""
    for section in RUNBOOK.split("\n## ")[1:]:
        name, _, text = section.partition("\n")
        if name not in FURTHER | {"ServerWatched"}:
            meaning, by_itself, *todo = text.strip().split("\n\n")
            assert not meaning.startswith("- "), name
            assert not by_itself.startswith("- "), name
            assert todo, name
            assert "- " in todo[0], name


def test_the_commands_that_it_names_exist() -> None:
    """In the project, in Debian's packages of the parts, or elsewhere."""
    named = [words[0] for words in commands()]
    assert set(named) == {"zonerw"} | PARTS | ELSEWHERE
    assert all(shutil.which(program) for program in PARTS)


def test_zonerw_takes_the_words_that_it_is_given() -> None:
    """A misspelt one would be refused in the middle of an outage."""
    ours = get_command(cli).commands  # type: ignore[attr-defined]
    given = [words[1:] for words in commands() if words[0] == "zonerw"]
    assert given
    for command, *words in given:
        options = {option for its in ours[command].params for option in its.opts}
        assert {word for word in words if word.startswith("--")} <= options, (command, words)


def test_nsd_control_takes_the_words_that_it_is_given() -> None:
    """By what its own help lists."""
    ran = subprocess.run([NSD_CONTROL, "-h"], capture_output=True, text=True, check=False)
    verbs = set(re.findall(r"(?m)^  (\w+)", ran.stdout + ran.stderr))
    named = {words[1] for words in commands() if words[0] == "nsd-control"}
    assert named >= {"reconfig", "write"}
    assert named <= verbs


def headings() -> list[str]:
    return re.findall(r"(?m)^## (.*)$", RUNBOOK)


def alerts(profile: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((RULES[profile] / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def commands() -> Iterator[list[str]]:
    """What stands in blocks, and in spans of several words; of runuser, what it runs."""
    text = re.sub(r"(?m)^    pattern:\n(?:     .*\n)+", "", RUNBOOK)  # a configuration
    lines = [*re.findall(r"(?m)^    (.*)$", text), *re.findall(r"`([^`]+)`", text)]
    for line in lines:
        for command in re.split(r" && | \| |\$\((?!\()", line):
            words = command.split()
            if words[0] == "runuser":
                words = words[words.index("--") + 1 :]
            is_command = re.fullmatch(r"[a-z-]+", words[0]) and words[1:2] != ["="]
            if len(words) > 1 and is_command and words[0] not in ("cd", "for"):
                yield words
