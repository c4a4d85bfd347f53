"""Main's NSD becomes the primary by hand, as RUNBOOK.md says, and a secondary again."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from observed import SOON, everywhere, raised, serials

from demo.stack import Stack, wait_for

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "RUNBOOK.md").read_text()

# What the runbook calls these.
MAIN, BACKUP, THIRD = "192.0.2.1", "198.51.100.7", "203.0.113.53"

# Of the backup's addresses, and of those beside it.
IPV6 = """
six     IN AAAA 2001:db8:7::7
other   IN AAAA 2001:db8:7::77
"""


def test_main_is_promoted_by_the_runbook_and_the_backup_comes_back() -> None:
    """The backup is gone while it serves, and the third party is two switches ahead of main."""
    net = (ROOT / "examples" / "zones" / "example.net.base").read_text() + IPV6
    parts = ("ns1", "ns2", "ns3", "actions")
    with Stack(parts=parts, sources={"example.net": net}) as stack:
        stack.settle()
        take_commands(stack)
        assert stack.zonerw("pin", "backup").returncode == 0
        everywhere(stack, stack.backup)
        before = serials(stack)
        stack.parts["ns2"].silence()
        for server, address in (("main", stack.main), ("backup", stack.backup)):
            assert stack.zonerw("pin", server).returncode == 0
            everywhere(stack, address, "ns1", "ns3")
        for name in ("actions", "ns1"):
            stack.parts[name].kill()
        stack.parts["ns2"].resume()
        wait_for(lambda: serials(stack, "ns2") == before, SOON, "main to be behind")
        assert serials(stack, "ns3") == raised(before, 2)

        own = stack.layout.folder / "ns2" / "nsd.conf"
        as_secondary = own.read_text()
        write, pattern, reconfig, edit = blocks()
        run(stack, write)
        assert as_secondary.count("pattern:\n") == 1
        as_primary = re.sub(r"(?m)^pattern:\n(    .*\n)+", lambda _: pattern, as_secondary)
        own.write_text(here(stack, as_primary))
        run(stack, reconfig)
        other = stack.layout.folder / "ns3" / "nsd.conf"
        other.write_text(other.read_text().replace(stack.backup, stack.main))
        stack.parts["ns3"].restart()
        run(stack, edit)
        everywhere(stack, stack.main, "ns2", "ns3")
        wait_for(lambda: serials(stack, "ns2", "ns3") == raised(before, 3), SOON, "higher serials")
        assert "six\t86400\tIN\tAAAA\t2001:db8::1\n" in on_disk(stack)
        assert "other\t86400\tIN\tAAAA\t2001:db8:7::77\n" in on_disk(stack)

        own.write_text(as_secondary)
        run(stack, "nsd-control reconfig")
        other.write_text(other.read_text().replace(stack.main, stack.backup))
        for name in ("ns1", "actions", "ns3"):
            stack.parts[name].restart()
        assert stack.zonerw("rewrite", "--forced").returncode == 0
        everywhere(stack, stack.backup)
        stack.settle()
        for zone, by_hand in raised(before, 3).items():
            (serial,) = serials(stack)[zone]
            assert serial
            assert serial > max(by_hand)


def blocks() -> tuple[str, str, str, str]:
    """Those of the section, as far as they are for main's NSD: shell but for the second."""
    section = RUNBOOK.partition("\n## Promote main to primary by hand\n")[2].partition("\n## ")[0]
    found = re.findall(r"(?m)(?:^    .*\n)+", section)
    write, pattern, reconfig, edit = (re.sub(r"(?m)^    ", "", block) for block in found)
    return write, pattern, reconfig, edit


def on_disk(stack: Stack) -> str:
    """The zone with IPv6 addresses, as main has it."""
    return (stack.layout.folder / "ns2" / "example.net").read_text()


def here(stack: Stack, text: str) -> str:
    """What the runbook says, with this stack's addresses and folders."""
    own = stack.layout.folder / "ns2"
    port = stack.layout.ports.dns
    values = {
        f"notify: {THIRD} ": f"notify: {stack.layout.third}@{port} ",
        MAIN: stack.main,
        BACKUP: stack.backup,
        THIRD: stack.layout.third,
        re.escape(BACKUP): re.escape(stack.backup),
        "/var/lib/nsd": str(own),
        "/root/": f"{stack.layout.folder}/",
        "/etc/nsd/nsd.conf": str(own / "nsd.conf"),
    }
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], text)


def take_commands(stack: Stack) -> None:
    """Let main's NSD take commands, as Debian's does; and let the shell reach it and its port."""
    own = stack.layout.folder / "ns2" / "nsd.conf"
    text = own.read_text()
    control = f'control-enable: yes\n    control-interface: "{own.parent / "control"}"'
    assert "control-enable: no" in text
    own.write_text(text.replace("control-enable: no", control))
    stack.parts["ns2"].restart()
    everywhere(stack, stack.main)
    folder = stack.layout.folder / "commands"
    folder.mkdir()
    for name, more in (("nsd-control", f"-c {own}"), ("dig", f"-p {stack.layout.ports.dns}")):
        program = shutil.which(name)
        assert program, f"{name} is not installed"
        (folder / name).write_text(f'#!/bin/sh\nexec {program} {more} "$@"\n')
        (folder / name).chmod(0o755)


def run(stack: Stack, commands: str) -> None:
    """Do as the runbook says, on main."""
    path = f"{stack.layout.folder / 'commands'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-euc", here(stack, commands)],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
