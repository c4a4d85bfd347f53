"""Which processes run; what the tests of cleaning up go by."""

from pathlib import Path


def processes_of(folder: Path) -> list[str]:
    """The command lines that name the folder: every part's does, and its forks' do."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # ended while we were looking
        if str(folder) in line:
            found.append(line)
    return found
