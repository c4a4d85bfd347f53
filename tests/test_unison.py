"""`zonerw-unison` without Unison; with it, the system tests have it do its work."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from test_house import imported_by

from actions import plan, unison


@pytest.mark.parametrize("module", [unison, plan])
def test_it_needs_nothing_but_the_standard_library(module: ModuleType) -> None:
    """Who grants it rights by sudo can read it all, and it starts in no time."""
    names = imported_by(Path(module.__file__ or ""))
    others = {n for n in names if n.partition(".")[0] not in sys.stdlib_module_names}
    assert others <= {f"actions.plan.{name}" for name in ("Files", "Loss", "parse")}


def test_without_unison_it_says_so(tmp_path: Path) -> None:
    """The reason comes as an answer, as every other."""
    local = tmp_path / "mail"
    local.mkdir()
    pair = {"local": str(local), "remote": "/b", "name": "n", "timeout": 5, "share": 0.05}
    done = subprocess.run(
        [sys.executable, "-m", "actions.unison"],
        input=json.dumps(pair),
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "HOME": str(tmp_path)},
    )
    answer = json.loads(done.stdout)
    assert (answer["outcome"], answer["reason"]) == ("failed", "setpriv: No such file or directory")


def test_a_folder_with_unisons_own_files_in_it_is_refused(tmp_path: Path) -> None:
    """They change while it runs; and the owner's keys are beside them."""
    pair = {"local": str(tmp_path), "remote": "/b", "name": "n", "timeout": 5, "share": 0.05}
    for home, refused in ((tmp_path / "home", True), (tmp_path.parent, False)):
        done = subprocess.run(
            [sys.executable, "-m", "actions.unison"],
            input=json.dumps(pair),
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": "", "HOME": str(home)},
        )
        assert (json.loads(done.stdout)["outcome"] == "refused") == refused
