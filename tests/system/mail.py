"""Two machines with mail, on one: a Maildir here, and one behind an sshd on loopback.

    with machines(tmp_path, free_port("127.0.0.1")) as them:
        them.here.deliver("hello")
        assert them.sync().returncode == 0
        assert them.there.find("hello")
        them.down()

*Here* is the backup, where zonerw runs; *there* is main. Each has a HOME of its own, and so its own
Unison archives, and its own of what is kept aside. The key opens one command there, as README.md
has it. Everything runs as the tests' own user; ssh is the real one, told by a script of the same
name in front of it where key and known hosts are (it does not look at HOME).
"""

import getpass
import itertools
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from actions.nameserver import find
from demo import shipped
from demo.parts import Part
from demo.stack import wait_for

ADDRESS = "127.0.0.1"

# A busy machine gets its time; alone, a run takes a second at most.
SYNC_SECONDS = 60.0
GONE_SECONDS = 10.0

_LOOK_SECONDS = 0.002

# What unison calls a file that it is still writing.
TEMPORARY = ".unison.*.unison.tmp"

_FOLDERS = ("tmp", "new", "cur")
_ID = "Message-ID: "
_count = itertools.count()

_SSHD_CONFIG = """\
ListenAddress {address}:{port}
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/authorized_keys
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
PermitRootLogin prohibit-password
LogLevel VERBOSE
"""
_SSH_CONFIG = """\
IdentityFile {folder}/key
IdentitiesOnly yes
UserKnownHostsFile {folder}/known_hosts
GlobalKnownHostsFile none
"""
_CONFIG = """\
[servers.main]
addresses = ["192.0.2.1"]
[servers.backup]
addresses = ["198.51.100.7"]
[zones]
sources = "{folder}/sources"
published = "{folder}/published"
[primary]
kind = "nsd"
address = "127.0.0.1"
[actions]
state = "{folder}/state"
"""


# --- the Maildir protocol -------------------------------------------------------------------


@dataclass(frozen=True)
class Maildir:
    """A Maildir, and what delivery agents and mail readers do in it.

    Messages are named by their Message-ID, which is in the file, whatever the file is called.
    """

    path: Path

    def create(self, folder: str = "") -> None:
        """Make the three folders of it, or of a folder in it, such as ".Sent"."""
        for name in _FOLDERS:
            (self.path / folder / name).mkdir(parents=True, exist_ok=True)

    def deliver(self, message: str, folder: str = "", size: int = 0) -> Path:
        """Deliver as an agent does: written in tmp, to the disk, then renamed into new.

        `size`: bytes of the text, which no two messages share.
        """
        now = time.time_ns()
        name = (
            f"{now // 10**9}.M{now // 1000 % 10**6}P{os.getpid()}Q{next(_count)}.{self.path.name}"
        )
        written = self.path / folder / "tmp" / name
        text = f"{_ID}{message}\n\n".encode()
        written.write_bytes(text + os.urandom(size // 2).hex().encode())
        return written.rename(self.path / folder / "new" / name)

    def read(self, message: str) -> None:
        """Look at it: it is no longer new, and seen."""
        self.flag(message, "S")

    def flag(self, message: str, letter: str) -> None:
        """Set a flag of one copy; S seen, R replied, F flagged, T trashed."""
        path = self.find(message)
        _set(path, _flags(path) | {letter})

    def unflag(self, message: str, letter: str) -> None:
        """Take a flag away again."""
        path = self.find(message)
        _set(path, _flags(path) - {letter})

    def delete(self, message: str) -> None:
        """Expunge every copy."""
        for path in self.messages()[message]:
            path.unlink()

    def move(self, message: str, folder: str) -> None:
        """Move one copy to another folder, flags and all."""
        path = self.find(message)
        path.rename(
            self.path / folder / "cur" / (path.name if ":" in path.name else f"{path.name}:2,")
        )

    def find(self, message: str) -> Path:
        """Where the message is; the first copy, by name, if there are several."""
        return self.messages()[message][0]

    def messages(self) -> dict[str, list[Path]]:
        """Message-ID -> its files, in every folder."""
        found: dict[str, list[Path]] = {}
        for name in ("new", "cur"):
            for path in sorted(self.path.glob(f"**/{name}/*")):
                if not path.match(TEMPORARY):
                    with suppress(FileNotFoundError):  # moved or deleted meanwhile
                        found.setdefault(_id(path), []).append(path)
        return found

    def copies(self) -> dict[str, int]:
        """Message-ID -> how many files."""
        return {message: len(paths) for message, paths in self.messages().items()}

    def flags(self, message: str) -> str:
        """The flags of the first copy; "new" before it is looked at."""
        path = self.find(message)
        return "new" if path.parent.name == "new" else "".join(sorted(_flags(path)))

    def files(self) -> Mapping[str, bytes]:
        """All that is there, and what is in it, temporary files and all."""
        found = (path for path in self.path.rglob("*") if path.is_file())
        return {str(path.relative_to(self.path)): path.read_bytes() for path in found}

    def temporary(self) -> list[Path]:
        """What unison has begun to write, and not ended."""
        return [*self.path.rglob(TEMPORARY)]


def _id(path: Path) -> str:
    with path.open() as file:
        line = file.readline()
    assert line.startswith(_ID), f"{path} has no whole message: {line!r}"
    return line.removeprefix(_ID).rstrip()


def _flags(path: Path) -> frozenset[str]:
    return frozenset(path.name.partition(":2,")[2])


def _set(path: Path, flags: frozenset[str]) -> None:
    base = path.name.partition(":2,")[0]
    path.rename(path.parent.parent / "cur" / f"{base}:2,{''.join(sorted(flags))}")


# --- the two machines -----------------------------------------------------------------------


@dataclass(frozen=True)
class Machines:
    """Here and there, with a zonerw.toml here that has a job "mail" for their Maildirs."""

    folder: Path
    here: Maildir
    there: Maildir
    root: str  # of `there`, as the configuration has it
    sshd: Part | None

    @property
    def environment(self) -> dict[str, str]:
        """What a program on this machine gets: HOME, and the way to ssh."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        ours = {"HOME": str(self.folder / "backup"), "PATH": path}
        others = {name: value for name, value in os.environ.items() if name != "UNISON"}
        return {**others, **ours, "ZONERW_CONFIG": str(self.config)}

    @property
    def config(self) -> Path:
        """The zonerw.toml."""
        return self.folder / "zonerw.toml"

    @property
    def state(self) -> Path:
        """The state folder of actions."""
        return self.folder / "state"

    @property
    def aside(self) -> tuple[Path, Path]:
        """Where what is deleted or overwritten is kept, here and there, in the pair's own folder.

        Between two disks, all of it is here.
        """
        name = f"backup{str(self.here.path).replace('/', '-')}"
        return (
            self.folder / "backup" / ".unison" / name,
            self.folder / "main" / ".unison" / name,
        )

    def job(self, **settings: str) -> str:
        """The section of zonerw.toml; further settings as they are written in TOML."""
        pair = f'["{self.here.path}", "{self.root}"]'
        lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
        return f"[sync.mail]\nunison = {pair}\n{lines}"

    def configure(self, *sections: str) -> None:
        """Write zonerw.toml with these sections."""
        self.config.write_text(_CONFIG.format(folder=self.folder) + "".join(sections))

    # --- runs -------------------------------------------------------------------------------

    def sync(self, *words: str, job: str = "mail", **more: str) -> subprocess.CompletedProcess[str]:
        """Run `zonerw sync`; `more`: further environment."""
        return self.run(*zonerw("sync", job, *words), **more)

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command here, with no input."""
        return subprocess.run(
            words,
            env=self.environment | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SYNC_SECONDS,
            check=False,
        )

    def begin(self, job: str = "mail") -> subprocess.Popen[str]:
        """Begin `zonerw sync`; to be ended with a call of `ended`."""
        return subprocess.Popen(
            zonerw("sync", job),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self, program: str = "", at: str = "") -> list[int]:
        """What was begun here, and there but for sshd's own, and runs.

        `program`: only what runs this one; `at`: only what runs at "backup", here, or at "main".
        """
        home = f"HOME={self.folder}/{at}".encode()
        its = (pid for pid in _ids() if home in _read(pid, "environ"))
        return [pid for pid in its if not program or program in _programs(pid)]

    # --- what becomes of main ---------------------------------------------------------------

    def down(self) -> None:
        """End main's sshd, and all that runs there, at once: connections are refused."""
        for pid in self._main():
            _signal(pid, signal.SIGKILL)
        assert self.sshd
        self.sshd.kill()

    def up(self) -> None:
        """Start main's sshd again."""
        assert self.sshd
        self.sshd.start()

    def silence(self) -> None:
        """Let nothing come from main any more, while all of it stays."""
        for pid in self._main():
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """End the silence."""
        for pid in self._main():
            _signal(pid, signal.SIGCONT)

    def sessions(self) -> list[int]:
        """What the sshd has started, for each connection: itself first, then the command."""
        return [pid for pid in self._main() if pid != self._sshd_pid()]

    def _main(self) -> list[int]:
        parents = {pid: _parent(pid) for pid in _ids()}
        found = [self._sshd_pid()]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def _sshd_pid(self) -> int:
        return int((self.folder / "sshd.pid").read_text())

    def serve(self, script: str) -> None:
        """Have a shell's script run for whoever comes with the key, whatever that asks for."""
        server = self.folder / "zonerw-unison-server"
        server.write_text(script)

    def serve_unison(self) -> None:
        """Have the shipped script run, as at the start; HOME is main's."""
        shipped_one = shipped.folder() / "examples" / "sync" / "main" / "zonerw-unison-server"
        self.serve(f"export HOME={self.folder / 'main'}\n{shipped_one.read_text()}")


def zonerw(*words: str) -> tuple[str, ...]:
    """The operator's command, as it is installed beside Python."""
    return (str(Path(sys.executable).with_name("zonerw")), *words)


@contextmanager
def machines(folder: Path, port: int) -> Iterator[Machines]:
    """Yield two machines with empty Maildirs and an sshd at this port; at the end nothing runs."""
    folder.mkdir(exist_ok=True)
    there = folder / "main" / "Maildir"
    root = f"ssh://{getpass.getuser()}@{ADDRESS}:{port}/{there}"
    them = _make(folder, root, _sshd(folder, port))
    them.serve_unison()
    assert them.sshd
    try:
        them.sshd.start()
        yield them
        wait_for(lambda: not them.processes(), GONE_SECONDS, "all that was begun to end")
    finally:
        if them.sshd.running:
            them.down()
        _kill(them)


@contextmanager
def disks(folder: Path) -> Iterator[Machines]:
    """Yield two Maildirs, both on this machine; at the end nothing runs."""
    folder.mkdir(exist_ok=True)
    them = _make(folder, str(folder / "main" / "Maildir"), None)
    try:
        yield them
        wait_for(lambda: not them.processes(), GONE_SECONDS, "all that was begun to end")
    finally:
        _kill(them)


def _make(folder: Path, root: str, sshd: Part | None) -> Machines:
    here, there = (Maildir(folder / name / "Maildir") for name in ("backup", "main"))
    for maildir in (here, there):
        maildir.create()
    them = Machines(folder, here, there, root, sshd)
    them.configure(them.job())
    return them


def _kill(them: Machines) -> None:
    for pid in them.processes():
        _signal(pid, signal.SIGKILL)


def _sshd(folder: Path, port: int) -> Part:
    for name in ("host_key", "key", "strangers_key"):
        keygen = (program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", name)
        subprocess.run([*keygen, "-f", str(folder / name)], check=True)
    public = (folder / "key.pub").read_text()
    command = f"sh {shlex.quote(str(folder / 'zonerw-unison-server'))}"
    (folder / "authorized_keys").write_text(f'restrict,command="{command}" {public}')
    host = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[{ADDRESS}]:{port} {host}")
    (folder / "ssh_config").write_text(_SSH_CONFIG.format(folder=folder))
    (folder / "sshd_config").write_text(
        _SSHD_CONFIG.format(address=ADDRESS, port=port, folder=folder)
    )
    ssh = folder / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nexec {program("ssh")} -F {folder}/ssh_config "$@"\n')
    ssh.chmod(0o755)
    # It ends with us, however we do.
    to_end = (program("setpriv"), "--pdeathsig", "KILL")
    argv = (*to_end, program("sshd"), "-D", "-e", "-f", str(folder / "sshd_config"))
    return Part(
        name="sshd",
        title="sshd",
        argv=argv if os.getuid() else _with_privileges_to_separate(argv),
        log=folder / "sshd.log",
        environment=os.environ,
        ready=lambda: _greets(port),
    )


def _with_privileges_to_separate(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Root's sshd wants /run/sshd; where the system's own does not run, this one sees it."""
    if Path("/run/sshd").is_dir():
        return argv
    make = "mount -t tmpfs -o mode=755 tmpfs /run && mkdir -m 755 /run/sshd && exec "
    return (program("unshare"), "--mount", "sh", "-c", make + shlex.join(argv))


def _greets(port: int) -> bool:
    """Whether an sshd answers. It has to begin a line with its name (RFC 4253, section 4.2)."""
    try:
        with socket.create_connection((ADDRESS, port), timeout=1) as sock:
            return sock.recv(4) == b"SSH-"
    except OSError:
        return False


def program(name: str) -> str:
    """Where it is."""
    found = find(name)
    assert found, f"{name} is not installed"
    return found


# --- processes ------------------------------------------------------------------------------


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for its end, and tell how that was."""
    with process:
        said, complained = process.communicate(timeout=SYNC_SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, said, complained)


def kill(pids: list[int], number: signal.Signals = signal.SIGKILL) -> None:
    """Signal each; who has ended meanwhile does not matter."""
    for pid in pids:
        _signal(pid, number)


def soon(condition: Callable[[], object], what: str) -> None:
    """Wait, and look often: what is waited for lasts for a moment only."""
    deadline = time.monotonic() + SYNC_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(_LOOK_SECONDS)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _ids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _read(pid: int, name: str) -> bytes:
    """A file of /proc; nothing of a process that has ended, or is not ours."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _programs(pid: int) -> list[str]:
    """The names of the program and, as it may be a script's interpreter, of what it runs."""
    return [Path(os.fsdecode(word)).name for word in _read(pid, "cmdline").split(b"\0")[:2]]


def _parent(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0
