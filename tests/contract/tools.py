"""The programs that the shipped files are for, and their tools."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from actions.nameserver import find


def run(
    program: str,
    *words: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> str:
    """Run a program that has to succeed; what it prints."""
    found = find(program)
    assert found, f"{program} is not installed"
    done = subprocess.run(
        [found, *words],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
