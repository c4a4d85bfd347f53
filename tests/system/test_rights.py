"""Who may do what where mail is kept in step: real sudo, sshd and Unison, and the shipped files.

Two machines, main and the backup, each with a root folder of its own as engine.py makes them, in
one network that nobody else has. They are set up by README.md's own lines; what apt-get would bring
is this machine's.
"""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import join
from signal import SIGKILL

import pytest
from engine import (
    PATH,
    ROOT,
    SECONDS,
    Container,
    Image,
    Mount,
    built_images,
    holder,
    lay_root,
    run_in,
    run_well,
    this_machine,
)
from mail import Maildir

from demo.parts import Part
from demo.stack import wait_for

MAIN, BACKUP = "192.0.2.1", "198.51.100.7"
MAIL = "/var/vmail/alice/Maildir"
ASIDE = ".unison/backup-var-vmail-alice-Maildir"  # below vmail's home
MARK = "a-machine-of-test-rights"
EXAMPLE_KEY = "ssh-ed25519 AAAA... vmail@backup\n"

# As Debian has it, as far as it matters here.
ETC: Mapping[str, str] = {
    "hosts": f"127.0.0.1 localhost {socket.gethostname()}\n",
    "security/limits.conf": "",
    "pam.d/other": (
        "auth sufficient pam_rootok.so\nauth required pam_deny.so\n"
        "account required pam_unix.so\nsession required pam_limits.so\n"
        "session required pam_unix.so\n"
    ),
    "sudoers": (
        "Defaults env_reset\nDefaults mail_badpass\n"
        'Defaults secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"\n'
        "Defaults use_pty\nroot ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL:ALL) ALL\n"
        "@includedir /etc/sudoers.d\n"
    ),
    "sudoers.d/README": "",
    "ssh/sshd_config": (
        f"ListenAddress {MAIN}\nKbdInteractiveAuthentication no\nUsePAM yes\nX11Forwarding yes\n"
        "PrintMotd no\nAcceptEnv LANG LC_*\nSubsystem sftp /usr/lib/openssh/sftp-server\n"
    ),
}

# What implies NoNewPrivileges= for a service with a User=: systemd.exec(5), and Debian 12's
# systemd does not care what NoNewPrivileges= itself says then.
IMPLYING = (
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "NoNewPrivileges",
    "PrivateDevices",
    "ProtectClock",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "SystemCallArchitectures",
    "SystemCallFilter",
    "SystemCallLog",
)
UNIT = ROOT / "examples" / "systemd" / "zonerw-actions.service"
DROP_IN = ROOT / "examples" / "sync" / "backup" / "sync.conf"


@dataclass(frozen=True)
class Machine:
    """One of the two."""

    container: Container

    def run(self, *words: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        """Run a command as one of its users."""
        return self.container.run(*as_user(user), *words)

    def do(self, script: str) -> str:
        """Run lines of a shell as root that all succeed; what they print."""
        done = self.run("sh", "-e", "-c", script)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def path(self, path: str) -> Path:
        """Where a file of it is for us."""
        return self.container.root / path.lstrip("/")


@dataclass(frozen=True)
class Machines:
    """Both."""

    main: Machine
    backup: Machine
    said: str = ""  # by the backup's last block of lines, with a first run of mail
    strange: tuple[str, ...] = ()  # of the mail, after that


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Both, set up as README.md has it; with no mail any more."""
    folder = tmp_path_factory.mktemp("rights")
    bare = Image(folder / "bare")
    lay_root(bare.root)
    with ExitStack() as leaving:
        network = holder(leaving)
        run_in(network, "ip", "link", "set", "lo", "up")
        for address in (MAIN, BACKUP):
            run_in(network, "ip", "address", "add", f"{address}/32", "dev", "lo")
        main = machine("main", bare, network, leaving)
        backup = machine("backup", built_images(folder)["zonerw"], network, leaving)
        main.do("mkdir /run/sshd; useradd --system --no-create-home sshd; ssh-keygen -A")
        main.do("/usr/sbin/sshd")
        for its in (main, backup):
            its.do("adduser --quiet --system --group --home /var/vmail vmail")
        said = set_up(main, backup)
        both = Machines(main, backup)
        strange = strangers(both)
        clear(both)
        yield replace(both, said=said, strange=tuple(strange))


def machine(name: str, image: Image, network: int, leaving: ExitStack) -> Machine:
    """Start one with a system's files in /etc; it does nothing by itself."""
    root = image.root.parent / "machines" / name / "root"
    root.parent.mkdir(parents=True)
    run_well("cp", "-a", str(image.root), str(root))
    for path, text in ETC.items():
        place = root / "etc" / path
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
    # Before it has its root, what would be run in it would be run on this machine.
    (root / MARK).touch()
    healthy = {"test": ["CMD", "test", "-e", f"/{MARK}"]}
    # As every first process, it buries the orphans.
    nothing = ["sh", "-c", "sleep infinity & wait"]
    service = {"user": "0:0", "command": nothing, "healthcheck": healthy}
    own = root.parent / "sbin"
    own.mkdir()
    mounts = [*this_machine(), Mount(own, "/usr/local/sbin", read_only=False)]
    container = Container(name, service, image, root, mounts, network)
    log = root.parent / "log"
    part = Part(name, name, container.argv(), log, os.environ, container.healthy)
    leaving.callback(part.kill)
    part.start()
    its = Machine(container)
    its.do("groupadd --gid 5 tty; pwconv; grpconv; chmod 0440 /etc/sudoers /etc/sudoers.d/*")
    return its


def set_up(main: Machine, backup: Machine) -> str:
    """Do what README.md says, in its order; the key is brought to main by hand, where mail is."""
    jobs, first, there, again = blocks("## Mail and sites\n")[:4]
    backup.do(lines(first))
    shutil.copytree(ROOT / "examples" / "sync" / "main", main.path("/root/main"))
    key = backup.path("/var/vmail/.ssh/id_ed25519.pub").read_text()
    authorized = main.path("/root/main/authorized_keys")
    shipped = authorized.read_text()
    assert EXAMPLE_KEY in shipped
    authorized.write_text(shipped.replace(EXAMPLE_KEY, key))
    main.do("cd /root/main\n" + lines(there))
    example = (ROOT / "examples" / "zonerw.toml").read_text()
    backup.path("/etc/zonerw/zonerw.toml").write_text(example + jobs)
    maildir = Maildir(main.path(MAIL))
    maildir.create()
    maildir.deliver("the first")
    main.do(OWN)
    return backup.do(lines(again))


def blocks(heading: str) -> list[str]:
    """The indented blocks of README.md from a heading on."""
    text = (ROOT / "README.md").read_text()
    return re.findall(r"(?m)(?:^    .*\n)+", text[text.index(heading) :])


def runbook(beginning: str) -> str:
    """The command in RUNBOOK.md that begins so."""
    text = (ROOT / "RUNBOOK.md").read_text()
    spans: list[str] = re.findall("`([^`]+)`", text)
    return next(span for span in spans if span.startswith(beginning))


def lines(block: str) -> str:
    """A block of README.md, but for what there is nothing to be done for here."""
    elsewhere = ("apt-get ", "systemctl ")
    kept = [line.strip() for line in block.splitlines()]
    return "\n".join(line for line in kept if not line.startswith(elsewhere))


def as_user(user: str) -> tuple[str, ...]:
    """What comes before a command, for a user to run it."""
    rights = ("setpriv", "--reuid", user, "--regid", user, "--init-groups")
    return ("env", "--chdir=/", *rights)


# --- over SSH ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [[], ["id"], ["/bin/sh"], ["unison -server; id"], ["-s", "sftp"]],
    ids=lambda words: " ".join(words) or "nothing",
)
def test_the_key_opens_unisons_server_whatever_is_asked_for(
    machines: Machines, words: list[str]
) -> None:
    """It says hello, and ends with its input."""
    done = ssh(machines, f"zonerw@{MAIN}", *words)
    assert done.stderr == ""
    assert done.stdout.startswith("Unison 2.5")
    assert "uid=" not in done.stdout


def test_the_runbooks_way_to_try_the_key_says_hello(machines: Machines) -> None:
    """In words, and on one line."""
    said = machines.backup.do(runbook("runuser -u vmail -- ssh "))
    assert re.fullmatch(r"Unison 2[ -~]*\n", said)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (["-tt"], "PTY allocation request failed"),
        (["-W", f"{MAIN}:22"], "administratively prohibited"),
        (["-R", "10022:127.0.0.1:22"], "remote port forwarding failed"),
    ],
    ids=["terminal", "forwarding", "forwarding back"],
)
def test_the_key_opens_nothing_beside_it(
    machines: Machines, options: list[str], refusal: str
) -> None:
    """No way further into main's network, and none from there."""
    done = ssh(machines, *options, f"zonerw@{MAIN}")
    assert refusal in done.stderr


@pytest.mark.parametrize("user", ["vmail", "root"])
def test_the_key_is_nobody_elses(machines: Machines, user: str) -> None:
    """It is zonerw who comes in, not the owner of the mail, to whom it belongs on the backup."""
    assert "Permission denied" in ssh(machines, f"{user}@{MAIN}").stderr


def ssh(machines: Machines, *words: str) -> subprocess.CompletedProcess[str]:
    """Come from the backup as vmail; of what main says, only what can be printed."""
    printable = ("sh", "-c", '"$@" | LC_ALL=C tr -cd "[:print:]"', "sh")
    return machines.backup.run(*printable, "ssh", "-T", "-o", "BatchMode=yes", *words, user="vmail")


# --- Unison's server --------------------------------------------------------------------------

SERVER = (ROOT / "examples" / "sync" / "main" / "zonerw-unison-server").read_text()
LEFT = ".unison.1700000000.M1P1.main.0123456789abcdef0123456789abcdef.unison.tmp"
LONG_AGO = (1e9, 1e9)


@dataclass(frozen=True)
class Home:
    """A home with mail, and what runs of Unison have left in it; all of it has old messages' times.

    A file's ctime can't be set, so ages are told by scripts that know another number of days.
    """

    path: Path
    mail: Path
    left: tuple[Path, ...]
    aside: Path

    def serve(self, script: str) -> bytes:
        """Run a script as sshd does, for nobody who has anything to say; what it prints."""
        words = ("/bin/sh", "-c", script, "zonerw-unison-server")
        environment = {"HOME": str(self.path), "PATH": PATH}
        done = subprocess.run(
            words, env=environment, input=b"", capture_output=True, timeout=SECONDS, check=False
        )
        assert done.stderr == b""
        return done.stdout


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """One message, one that was put aside, and two that were not wholly brought."""
    maildir = tmp_path / "alice" / "Maildir"
    mail = maildir / "cur" / "1000000000.M1P1.main:2,S"
    aside = tmp_path / ASIDE / "cur" / mail.name
    left = (maildir / "new" / LEFT, maildir / "new" / LEFT.replace("M1", "M2") / "cur" / "x")
    for path in (mail, aside, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("hello")
        path.chmod(0o600)
        os.utime(path, LONG_AGO)
    return Home(tmp_path, mail, left, aside)


def test_what_was_just_left_stays_whatever_its_time(home: Home) -> None:
    """A run of right now may still write to it; what was put aside just now is an old message."""
    home.serve(SERVER)
    assert all(path.exists() for path in (home.mail, home.aside, *home.left))
    assert mode(home.aside) == 0o400
    assert mode(home.mail) == 0o600
    home.serve(SERVER)
    assert home.aside.exists()


def test_what_is_put_aside_is_kept_from_when_it_is_first_seen(home: Home) -> None:
    """A folder is put aside with all its times, ctime too: a long time before that is nothing."""
    home.serve(later(SERVER).replace("chmod 400", "true"))
    assert home.aside.exists()
    home.aside.chmod(0o400)
    home.serve(later(SERVER).replace("chmod 400", "true"))
    assert not home.aside.exists()


def mode(path: Path) -> int:
    """Who may do what with it."""
    return path.stat().st_mode & 0o777


def test_what_was_left_goes_in_the_end_and_nothing_else(home: Home) -> None:
    """As it goes a day, and two weeks, later: files and folders, by their names."""
    home.serve(later(SERVER))
    assert home.mail.exists()
    assert not any(path.exists() for path in (home.aside, *home.left))
    assert [path.name for path in home.left[0].parent.iterdir()] == []


def test_nothing_is_said_before_unison_says_it(home: Home) -> None:
    """Also where there is nothing to be looked through, or it may not be."""
    hello = home.serve("exec unison -server")
    assert hello.startswith(b"Unison")
    assert home.serve(SERVER) == hello
    shutil.rmtree(home.path / "alice")
    shutil.rmtree(home.path / ASIDE)
    assert home.serve(later(SERVER)) == hello
    assert home.serve(SERVER.replace("mail=$HOME", "mail=/nowhere")) == hello


def later(script: str) -> str:
    """The script as if everything had lain there for a long time."""
    for days, any_age in (("-ctime +0", "-ctime -1"), ("-ctime +13", "-ctime -14")):
        assert script.count(days) == 1
        script = script.replace(days, any_age)
    return script


# --- sudo -------------------------------------------------------------------------------------

ALLOWED = {
    "main": "/usr/local/sbin/zonerw-unison-server",
    "backup": "/opt/zonerw/bin/zonerw-unison",
}
either = pytest.mark.parametrize("name", ALLOWED)


@either
def test_sudo_has_one_rule_for_zonerw(machines: Machines, name: str) -> None:
    """One program, as one user, with no arguments."""
    done = getattr(machines, name).run("sudo", "-n", "-l", user="zonerw")
    rules = done.stdout.partition("may run the following commands")[2].splitlines()[1:]
    assert [rule.strip() for rule in rules] == [f'(vmail) NOPASSWD: {ALLOWED[name]} ""']


@either
@pytest.mark.parametrize(
    "words",
    [
        "-u vmail PROGRAM --help",
        "-u vmail -g root PROGRAM",
        "-u vmail PYTHONPATH=/tmp PROGRAM",
        "-u vmail -E PROGRAM",
        "-u vmail id",
        "-u vmail -s",
        "-u vmail -i",
        "-u vmail -e /etc/hosts",
        "-u zonerw PROGRAM",
        "PROGRAM",
        "id",
    ],
)
def test_sudo_refuses_zonerw_all_else(machines: Machines, name: str, words: str) -> None:
    """Other arguments, programs, users, groups, variables, an editor."""
    asked = words.replace("PROGRAM", ALLOWED[name]).split()
    refused(getattr(machines, name).run("sudo", "-n", *asked, user="zonerw"))


@either
def test_sudo_refuses_all_others(machines: Machines, name: str) -> None:
    """Who owns the mail becomes nobody else."""
    machine = getattr(machines, name)
    for user in ("root", "zonerw"):
        refused(machine.run("sudo", "-n", "-u", user, ALLOWED[name], user="vmail"))


def refused(done: subprocess.CompletedProcess[str]) -> None:
    """Expect that nothing was run."""
    assert (done.returncode, done.stdout) == (1, "")
    assert re.match("sudo: a password is required|(sudo: s|S)orry,.* not allowed", done.stderr)


# --- the unit ---------------------------------------------------------------------------------


def test_the_drop_in_gives_up_no_more_than_sudo_takes() -> None:
    """What forbids to gain privileges goes; every other line of the unit stays."""
    unit, both = service(UNIT), service(UNIT, DROP_IN)
    changed = {name for name in both if both[name] != unit.get(name)}
    assert changed - set(IMPLYING) == {"CapabilityBoundingSet", "ReadWritePaths", "DevicePolicy"}
    assert no_new_privileges(unit)
    assert not no_new_privileges(both)
    assert both["ReadWritePaths"].startswith(unit["ReadWritePaths"])


def test_sudo_works_with_what_the_drop_in_allows(machines: Machines) -> None:
    """It has nothing to complain about."""
    done = machines.backup.run(*in_the_unit(service(UNIT, DROP_IN), *SUDO))
    assert "sudo:" not in done.stderr


def test_sudo_takes_the_drop_in(machines: Machines) -> None:
    """Without it, sudo says why it does not work."""
    done = machines.backup.run(*in_the_unit(service(UNIT), *SUDO))
    assert 'The "no new privileges" flag is set' in done.stderr


@pytest.mark.parametrize("capability", ["CAP_SETUID", "CAP_SETGID"])
def test_sudo_takes_each_capability(machines: Machines, capability: str) -> None:
    """The third, CAP_AUDIT_WRITE, is for its report, where the kernel wants one."""
    settings = service(UNIT, DROP_IN)
    fewer = settings["CapabilityBoundingSet"].replace(capability, "").strip()
    settings["CapabilityBoundingSet"] = fewer
    done = machines.backup.run(*in_the_unit(settings, *SUDO))
    assert done.returncode == 1
    assert "Operation not permitted" in done.stderr


SUDO = ("sudo", "-n", "-u", "vmail", "--", ALLOWED["backup"])


def service(*files: Path) -> dict[str, str]:
    """The settings of the section [Service] when all these files have been read."""
    found: dict[str, str] = {}
    for file in files:
        section = file.read_text().partition("[Service]\n")[2].partition("\n[")[0]
        for line in re.findall(r"(?m)^\w+=.*$", section):
            name, _, value = line.partition("=")
            if name in ("CapabilityBoundingSet", "ReadWritePaths"):  # these add up
                value = f"{found.get(name, '')} {value}".strip()
            found[name] = value
    return found


def no_new_privileges(settings: Mapping[str, str]) -> bool:
    """Whether systemd sets the flag for it."""
    return any(settings.get(name, "") not in ("", "no") for name in IMPLYING)


def in_the_unit(settings: Mapping[str, str], *words: str) -> tuple[str, ...]:
    """The words as systemd would run them for User=zonerw: its rights, and what it may write to."""
    assert (settings["ProtectSystem"], settings["StateDirectory"]) == ("strict", "zonerw")
    paths = ["/var/lib/zonerw", *settings["ReadWritePaths"].replace("-/", "/").split()]
    script = "".join(f"[ ! -e {path} ] || mount --bind {path} {path}\n" for path in paths)
    script += "mount -t tmpfs -o mode=1777 tmpfs /tmp\nmount -o remount,bind,ro /\n"
    kept = settings["CapabilityBoundingSet"].lower().replace("cap_", "+").split()
    flags = ["--inh-caps=-all", f"--bounding-set={','.join(['-all', *kept])}"]
    flags += ["--no-new-privs"] if no_new_privileges(settings) else []
    script += f"exec {join([*as_user('zonerw'), *flags, *words])}\n"
    return ("unshare", "--mount", "sh", "-e", "-c", script)


# --- the whole --------------------------------------------------------------------------------


@pytest.fixture
def mail(machines: Machines) -> Iterator[tuple[Maildir, Maildir]]:
    """Alice's mail, here and on main: a message on either side, as vmail has it."""
    both = Maildir(machines.backup.path(MAIL)), Maildir(machines.main.path(MAIL))
    for number, maildir in enumerate(both):
        maildir.create()
        maildir.deliver(f"of {number}")
    own(machines)
    yield both
    clear(machines)


def test_the_lines_of_the_readme_end_with_a_first_run(machines: Machines) -> None:
    """It brings the mail, for vmail alone."""
    said = machines.said.splitlines()[-1]
    assert re.fullmatch(r"mail: 1 transferred, 0 skipped, 0 failed, 0 deleted in \S+ s", said)
    assert machines.strange == ()


def test_mail_is_kept_in_step_from_the_unit(
    machines: Machines, mail: tuple[Maildir, Maildir]
) -> None:
    """It stays vmail's, and nobody else reads it."""
    here, there = mail
    said = sync(machines, service(UNIT, DROP_IN))
    assert re.fullmatch(r"mail: 2 transferred, 0 skipped, 0 failed, 0 deleted in \S+ s\n", said)
    assert here.messages().keys() == there.messages().keys() == {"of 0", "of 1"}
    assert strangers(machines) == []


def test_what_vmail_can_not_read_holds_up_nothing(
    machines: Machines, mail: tuple[Maildir, Maildir]
) -> None:
    """A message and a folder, beside a conflict: left on its side, and named."""
    here, there = mail
    sync(machines, service(UNIT, DROP_IN))
    there.create(".Closed")
    closed = there.path / ".Closed" / "new"
    own(machines)
    sync(machines, service(UNIT, DROP_IN))
    for maildir in mail:
        (maildir.path / "subscriptions").write_text(f"{maildir.path}")
    there.deliver("of root", ".Closed")
    unread = there.deliver("of root too")
    here.deliver("goes on")
    there.deliver("goes on too")
    own(machines)
    for path in (closed, unread):
        os.chown(path, 0, 0)
        path.chmod(0o700)
    said = machines.backup.run(*in_the_unit(service(UNIT, DROP_IN), "zonerw", "sync", "mail"))
    assert said.returncode == 0
    assert " 3 skipped, 0 failed, 0 deleted in " in said.stdout
    for path in ("subscriptions", ".Closed/new", f"new/{unread.name}"):
        assert f"{MAIL}/{path}: " in said.stderr
    assert "Permission denied" in said.stderr
    both = {"of 0", "of 1", "goes on", "goes on too"}
    assert both == here.messages().keys() == there.messages().keys() - {"of root", "of root too"}


def test_what_is_deleted_is_kept_aside_where_it_was(
    machines: Machines, mail: tuple[Maildir, Maildir]
) -> None:
    """On main too, below the home of vmail, in a folder of the pair; for vmail alone."""
    here, there = mail
    here.deliver("that stays")
    own(machines)
    sync(machines, service(UNIT, DROP_IN))
    for number, (machine, goes) in enumerate(((machines.backup, there), (machines.main, here))):
        name = goes.find(f"of {number}").name
        goes.delete(f"of {number}")
        assert "1 deleted" in sync(machines, service(UNIT, DROP_IN))
        kept = machine.do("find ~vmail/.unison/backup* -type f -printf '%u %m %p\n'")
        assert kept == f"vmail 600 /var/vmail/{ASIDE}/new/{name}\n"
    assert here.messages().keys() == there.messages().keys() == {"that stays"}


def test_what_was_deleted_comes_back_as_the_runbook_has_it(
    machines: Machines, mail: tuple[Maildir, Maildir]
) -> None:
    """From what is kept aside, on both sides."""
    here, there = mail
    here.read("of 0")
    own(machines)
    sync(machines, service(UNIT, DROP_IN))
    name = there.find("of 0").name
    there.delete("of 0")
    sync(machines, service(UNIT, DROP_IN))
    assert name in machines.backup.do(runbook("ls -lctR "))
    put_back = runbook("runuser -u vmail -- cp ").replace("NAME", name)
    machines.backup.do(f"cd ~vmail/{ASIDE}; {put_back}")
    assert "1 transferred" in sync(machines, service(UNIT, DROP_IN))
    assert here.messages().keys() == there.messages().keys() == {"of 0", "of 1"}


def test_what_is_gone_by_mistake_comes_back_as_the_runbook_has_it(
    machines: Machines, mail: tuple[Maildir, Maildir]
) -> None:
    """It is refused, and then brought over anew; what came meanwhile is there too."""
    here, there = mail
    many = [f"{number} of many" for number in range(10)]
    for message in many:
        here.deliver(message)
    own(machines)
    sync(machines, service(UNIT, DROP_IN))
    for message in many:
        there.delete(message)
    there.deliver("meanwhile")
    own(machines)
    refused = machines.backup.run(*in_the_unit(service(UNIT, DROP_IN), "zonerw", "sync", "mail"))
    assert refused.returncode == 1
    assert f"it would delete 10 of 12 messages of {MAIL}, gone from ssh" in refused.stderr
    machines.main.do(runbook("rm ~vmail/"))
    assert "begun anew, nothing was deleted" in sync(machines, service(UNIT, DROP_IN))
    assert here.messages().keys() == there.messages().keys()
    assert there.messages().keys() == {*many, "of 0", "of 1", "meanwhile"}


@pytest.mark.usefixtures("mail")
def test_what_runs_as_vmail_ends_with_what_it_was_run_for(machines: Machines) -> None:
    """Also when that is killed, which may signal neither sudo nor vmail; the next run goes on."""
    server = "/usr/local/sbin/zonerw-unison-server"
    machines.main.do(f"mv {server} /root; echo '#!/bin/sh\nexec cat >/dev/null' >{server}")
    machines.main.do(f"chmod 755 {server}")
    words = in_the_unit(service(UNIT, DROP_IN), "zonerw", "sync", "mail")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(machines.backup.run, *words)
        both = (machines.main, machines.backup)
        wait_for(lambda: all(of(its, "vmail") for its in both), SECONDS, "Unison on both sides")
        machines.backup.do(f"kill -KILL {' '.join(of(machines.backup, 'zonerw'))}")
        wait_for(lambda: not any(of(its, "vmail") for its in both), SECONDS, "their end")
        assert running.result().returncode == -SIGKILL
    machines.main.do(f"mv /root/zonerw-unison-server {server}")
    assert "2 transferred" in sync(machines, service(UNIT, DROP_IN))
    assert strangers(machines) == []


@pytest.fixture(scope="module")
def site(machines: Machines) -> Callable[[str], Path]:
    """A site in git on main, cloned by README.md's lines; it can be changed. The backup's page."""
    key, clone = blocks(SITES)[:2]
    backup, main = machines.backup, machines.main
    with backup.path("/etc/hosts").open("a") as hosts:
        hosts.write(f"{MAIN} git.example.org\n")
    backup.do(lines(key))
    main.do(REPOSITORY)
    public = backup.path("/etc/zonerw/git.key.pub").read_text()
    main.path("/var/lib/git/.ssh/authorized_keys").write_text(public)
    main.do(COMMIT.format(text="old"))
    backup.do(lines(clone))
    page = backup.path("/var/www/site/index.html")
    assert page.read_text() == "old\n"

    def change(text: str) -> Path:
        main.do(COMMIT.format(text=text))
        return page

    return change


@pytest.mark.parametrize("files", [[UNIT, DROP_IN], [UNIT]], ids=["drop-in", "no drop-in"])
def test_a_site_comes_by_git_to_where_the_drop_in_lets_it(
    machines: Machines, site: Callable[[str], Path], files: list[Path]
) -> None:
    """User zonerw has no home, and the rest is read-only."""
    page = site(f"new-{len(files)}")
    done = machines.backup.run(*in_the_unit(service(*files), "zonerw", "sync", "site"))
    came = page.read_text() == f"new-{len(files)}\n"
    assert (done.returncode, came) == ((0, True) if DROP_IN in files else (1, False)), done.stderr
    assert ("Read-only file system" in done.stderr) == (DROP_IN not in files)


@pytest.mark.usefixtures("site")
def test_base_zones_come_by_git_to_where_they_were(machines: Machines) -> None:
    """By the same key; those that were there before are beside it."""
    _, clone, room = blocks(SITES)[:3]
    machines.backup.do("mkdir -p /etc/zonerw/zones; touch /etc/zonerw/zones/example.org.base")
    machines.backup.do(lines(room))
    again = lines(clone).splitlines()[-1].replace("/var/www/site", "/etc/zonerw/zones")
    machines.backup.do(again)
    zones = machines.backup.path("/etc/zonerw/zones")
    assert zones.stat().st_uid == machines.backup.path("/var/www/site").stat().st_uid != 0
    assert [path.name for path in zones.glob("[!.]*")] == ["index.html"]
    assert (zones.parent / "zones.old" / "example.org.base").exists()


SITES = "### Sites, and the configuration\n"
REPOSITORY = """
adduser --quiet --system --group --home /var/lib/git --shell /bin/sh git
install -d -o git -g git -m 0700 /var/lib/git/.ssh
install -d -o git -g git /site.git /var/lib/git/work
runuser -u git -- git init -q --bare -b main /site.git
runuser -u git -- git init -q -b main /var/lib/git/work
"""
COMMIT = """
echo {text} | runuser -u git -- tee /var/lib/git/work/index.html
runuser -u git -- sh -e -c '
cd /var/lib/git/work
git add .
git -c user.name=x -c user.email=x commit -q -m {text}
git push -q /site.git main'
"""


def sync(machines: Machines, settings: Mapping[str, str]) -> str:
    """Run `zonerw sync mail` in a unit, which has to succeed; what it prints."""
    done = machines.backup.run(*in_the_unit(settings, "zonerw", "sync", "mail"))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clear(machines: Machines) -> None:
    """Take the mail away, and what Unison knows of it."""
    for machine in (machines.backup, machines.main):
        machine.do("rm -rf /var/vmail/alice /var/vmail/.unison")


def of(machine: Machine, user: str) -> list[str]:
    """The processes of one of its users; some may end while we look."""
    return machine.run(
        "find", "/proc", "-maxdepth", "1", "-user", user, "-printf", "%f "
    ).stdout.split()


def own(machines: Machines) -> None:
    """Let vmail own the mail, and nobody else read it, as a delivery agent has it."""
    for machine in (machines.backup, machines.main):
        machine.do(OWN)


OWN = "chown -R vmail:vmail /var/vmail/alice; chmod -R u=rwX,go= /var/vmail/alice"


def strangers(machines: Machines) -> list[str]:
    """What of the mail is not vmail's alone."""
    odd = "find /var/vmail/alice ! -user vmail -o -type f ! -perm 600 -o -type d ! -perm 700"
    return [
        line
        for machine in (machines.backup, machines.main)
        for line in machine.do(odd).splitlines()
    ]
