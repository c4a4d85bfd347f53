"""`zonerw-unison` without Unison; with it, the system tests have it do its work."""

import json
import os
import subprocess
import sys
import time
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


def test_what_is_put_aside_is_kept_from_when_it_is_first_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For two weeks: whatever its own times are, ctime too, as a folder's that is put aside."""
    put = tmp_path / ".Old" / "cur" / "1000000000.M1P1.main:2,S"
    put.parent.mkdir(parents=True)
    put.write_text("hello")
    put.chmod(0o600)
    os.utime(put, (1e9, 1e9))
    now = time.time()

    def after(days: float) -> bool:
        """Have what is old removed, so many days later; whether it is still there."""
        monkeypatch.setattr(unison.time, "time", lambda: now + 86_400 * days)
        unison._forget(tmp_path)
        return put.exists()

    assert after(100)  # it was put there just before
    assert put.stat().st_mode & 0o777 == 0o400
    assert after(0)
    assert after(13.9)
    assert not after(14.1)


# Stands for Unison: ten messages are gone here, and it asks for the first nine of them.
ASKS = """\
#!/bin/sh
row() { printf 'deleted  ---->            cur/%s:2,S  ' $1; }
echo
echo 'local          remote             '
for n in 0 1 2 3 4 5 6 7 8 9; do row $n; echo; done
printf '\\nProceed with propagating updates? [] '
read -r answer; echo "$answer" >>answers
for n in 0 1 2 3 4 5 6 7 8; do
    row $n; printf '[f] '
    read -r answer; echo "$answer" >>answers
done
printf '\\nProceed with propagating updates? [] '
read -r answer; echo "$answer" >>answers
"""


def test_what_may_not_be_deleted_is_taken_out_of_the_plan_wholly_or_nothing_is_done(
    tmp_path: Path,
) -> None:
    """Unison has to ask for each line of it."""
    local, home, program = tmp_path / "mail", tmp_path / "home", tmp_path / "unison"
    for folder in (local, home):
        folder.mkdir()
    program.write_text(ASKS)
    program.chmod(0o755)
    pair = {"local": str(local), "remote": "/b", "name": "n", "timeout": 30, "share": 0.05}
    with subprocess.Popen(
        [sys.executable, "-m", "actions.unison"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(home)},
    ) as run:
        assert run.stdin
        assert run.stdout
        run.stdin.write(json.dumps(pair | {"files": {"cur/": 10}}) + "\n")
        run.stdin.flush()
        answer = json.loads(run.stdout.read())
    left = "1 deletions were not taken out of the plan"
    assert (answer["outcome"], answer["reason"]) == ("failed", left)
    assert (home / "answers").read_text().split() == ["n", *"/" * 9, "q"]
