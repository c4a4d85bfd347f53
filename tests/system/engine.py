"""As much of a container engine as docker-compose.yml asks for: it runs what the file says.

Each service runs as its user, without the capabilities and with the read-only root that the file
gives it, with its volumes and files where the file has them, in its own network or another's:
namespaces, as an engine makes them. It takes root. What runs ends with us, however we end.

Our images are made from the Dockerfile, line by line, but for what comes from a registry: programs
are this machine's own, below /usr, and zonerw is the wheel of what .dockerignore lets into the
build, with the packages of the tests. The other images are Debian's programs of the same name.
"""

import json
import os
import re
import shutil
import string
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from shlex import join, quote
from typing import Any, Self

import pytest
import yaml

from actions.nameserver import find
from demo.parts import Part

ROOT = Path(__file__).parents[2]
SECONDS = 60.0  # for whatever is waited for: an idle machine takes a tenth of it

Service = Mapping[str, Any]

# What stands for an image that is not ours: its first words, and where nobody keeps what.
FOREIGN: Mapping[str, tuple[list[str], list[str]]] = {
    "debian": ([], []),
    "prom/prometheus": (["prometheus"], ["/prometheus"]),
    "prom/alertmanager": (["prometheus-alertmanager"], ["/alertmanager"]),
}
NOBODY = 65534

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PACKAGES = "/opt/packages"  # where containers have the packages that the tests have
_INSTALL = f"""
cd /build
{sys.base_prefix}/bin/python3 -m venv --without-pip /opt/zonerw
export PYTHONPATH={_PACKAGES}
/opt/zonerw/bin/python3 -m hatchling build --target wheel --directory /wheel
/opt/zonerw/bin/python3 -m pip install --no-index --no-deps --ignore-installed /wheel/*.whl
echo {_PACKAGES} >/opt/zonerw/lib/python3.{sys.version_info.minor}/site-packages/packages.pth
"""


@dataclass
class Image:
    """A root folder; the variables and the first words that its programs get."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine at a place in a container."""

    source: Path
    target: str
    read_only: bool


@dataclass(frozen=True)
class Container:
    """A service and what it runs in."""

    name: str
    service: Service
    image: Image
    root: Path
    mounts: Sequence[Mount]
    network: int

    @property
    def first(self) -> int:
        """Its first process, as this machine numbers it."""
        return int((self.root.parent / "first").read_text())

    def argv(self) -> tuple[str, ...]:
        """Start it: a shell mounts what has to be there, and becomes its first process."""
        words = [*self.image.entrypoint, *self.service.get("command", self.image.command)]
        first = self.root.parent / "first"
        inside = f"read -r number _ </proc/self/stat\necho $number >{first}.new\n"
        inside += f"mv {first}.new {first}\n"
        inside += contained(
            self.root,
            self.mounts,
            (*self._as_user(), *words),
            tmpfs=self.service.get("tmpfs", ()),
            read_only=self.service.get("read_only", False),
        )
        return (
            *command("setpriv", "--pdeathsig", "KILL"),
            *command("nsenter", f"--net=/proc/{self.network}/ns/net"),
            # Whoever becomes another user is told of no parent's end any more. So two spaces: the
            # outer one's first process stays root, and all within end with it.
            *command("unshare", "--pid", "--fork", "--kill-child"),
            *command("unshare", "--mount", "--pid", "--fork", "sh", "-e", "-c", inside),
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as `docker compose exec` does."""
        into = command("nsenter", "--target", str(self.first), "--mount", "--net", "--pid")
        return run(*into, "--root", "--wd=/", *self._as_user(), *words)

    def healthy(self) -> bool:
        """Whether its health check is content; where there is none, it is once it runs."""
        test = self.service.get("healthcheck", {}).get("test", ["CMD", "true"])
        return (self.root.parent / "first").exists() and self.run(*test[1:]).returncode == 0

    def _as_user(self) -> tuple[str, ...]:
        """What comes before the words of a program in it."""
        uid, gid = self.service["user"].split(":")
        groups = ",".join(self.service.get("group_add", ()))
        words = ["setpriv", "--reuid", uid, "--regid", gid]
        words += ["--groups", groups] if groups else ["--clear-groups"]
        if "ALL" in self.service.get("cap_drop", ()):
            words += ["--inh-caps=-all", "--bounding-set=-all"]
        if "no-new-privileges:true" in self.service.get("security_opt", ()):
            words += ["--no-new-privs"]
        variables = self.image.environment | self.service.get("environment", {})
        return (*words, "env", "-i", *(f"{name}={value}" for name, value in variables.items()))


class Engine:
    """The services of a profile. They are gone when the block is left."""

    def __init__(self, folder: Path, *profiles: str, **variables: str) -> None:
        """Keep images, containers, volumes and logs in a folder; variables are those of .env."""
        self.services = services(*profiles, **variables)
        self.containers: dict[str, Container] = {}
        self._folder = folder
        self._parts: dict[str, Part] = {}
        self._leaving = ExitStack()

    def __enter__(self) -> Self:
        """Build the images, lay the networks."""
        with ExitStack() as leaving:
            (self._folder / "volumes").mkdir()
            self._images = {**foreign_images(self._folder), **built_images(self._folder)}
            self._networks = networks(self.services, leaving)
            self._leaving = leaving.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill whatever runs."""
        self._leaving.close()

    def up(self, *names: str) -> None:
        """Start services, each after those that it depends on, and wait until they are healthy."""
        for name in names:
            if name in self.containers:
                continue
            self.up(*depends_on(self.services[name]))
            container = self.containers[name] = self._create(name)
            if self.services[name]["restart"] == "no":
                self.run_once(name)
                continue
            part = self._parts[name] = Part(
                name, name, container.argv(), self._log(name), os.environ, container.healthy
            )
            self._leaving.callback(part.kill)
            part.start()

    def run_once(self, name: str) -> None:
        """Run a service that ends."""
        done = run(*self.containers[name].argv())
        assert done.returncode == 0, done.stderr

    def stop(self, name: str) -> None:
        """End a service."""
        self._parts[name].kill()

    def start(self, name: str) -> None:
        """Start one again that was stopped."""
        self._parts[name].start()

    def pause(self, name: str) -> None:
        """Freeze one: its sockets stay, and nobody is told."""
        self._parts[name].silence()

    def unpause(self, name: str) -> None:
        """Let it go on."""
        self._parts[name].resume()

    def run(self, name: str, *words: str) -> str:
        """Run a command in a service that has to succeed; what it prints."""
        done = self.containers[name].run(*words)
        assert done.returncode == 0, f"{name}: {join(words)}: {done.stderr}"
        return done.stdout

    def volume(self, name: str) -> Path:
        """Return a volume's folder."""
        return self._folder / "volumes" / name

    def _create(self, name: str) -> Container:
        service = self.services[name]
        image = self._images[service["image"].split(":")[0]]
        root = self._folder / "containers" / name / "root"
        root.parent.mkdir(parents=True)
        run_well("cp", "-a", str(image.root), str(root))
        mounts = [
            *this_machine(),
            *(self._mount(entry, image) for entry in service.get("volumes", ())),
        ]
        for mount in mounts:
            make_place(root, mount)
        for place in service.get("tmpfs", ()):
            (root / place[1:]).mkdir(parents=True, exist_ok=True)
        owner = service.get("network_mode", "").partition("service:")[2] or name
        return Container(name, service, image, root, mounts, self._networks[owner])

    def _mount(self, entry: str | Mapping[str, Any], image: Image) -> Mount:
        if isinstance(entry, str):
            source, target, *how = entry.split(":")
            read_only = how == ["ro"]
        else:
            source, target, read_only = entry["source"], entry["target"], entry["read_only"]
        if source.startswith((".", "/")):
            return Mount(ROOT / source, target, read_only)
        volume, in_the_image = self.volume(source), image.root / target[1:]
        # A new one begins with what the image has there.
        if not volume.exists() and in_the_image.exists():
            run_well("cp", "-a", str(in_the_image), str(volume))
        volume.mkdir(exist_ok=True)
        return Mount(volume, target, read_only)

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


# --- the compose file -------------------------------------------------------------------------


def services(*profiles: str, **variables: str) -> dict[str, Service]:
    """Return the services that are always there, and those of profiles, by name."""
    text = re.sub(
        r"\$\{(\w+):-([^}]*)\}",
        lambda found: variables.get(*found.groups()),
        (ROOT / "docker-compose.yml").read_text(),
    )
    return {
        name: service
        for name, service in yaml.safe_load(text)["services"].items()
        if "profiles" not in service or {*profiles} & {*service["profiles"]}
    }


def depends_on(service: Service) -> list[str]:
    """Return whom it waits for, whose network it shares first."""
    shared = service.get("network_mode", "").partition("service:")[2]
    return [*([shared] if shared else []), *service.get("depends_on", ())]


# --- images -----------------------------------------------------------------------------------


def built_images(folder: Path) -> dict[str, Image]:
    """Return what the Dockerfile makes, by the names that the compose file gives."""
    stages: dict[str, Image] = {}
    for word, rest in instructions():
        if word == "FROM":
            base, _, name = rest.split()
            image = stages[name] = Image(folder / "images" / name)
            if base in stages:
                image.environment |= stages[base].environment
                run_well("cp", "-a", str(stages[base].root), str(image.root))
            else:
                lay_root(image.root)
        elif word == "RUN" and "pip " in rest and "apt-get" not in rest:
            run_inside(image, _INSTALL)
        elif word == "RUN" and "apt-get" not in rest:
            run_inside(image, rest)
        elif word == "COPY":
            *source, target = rest.split()
            copy(source, image.root / target[1:], stages)
        elif word == "ENV":
            name, _, value = rest.partition("=")
            image.environment[name] = string.Template(value).substitute(image.environment)
        elif word == "CMD":
            image.command = json.loads(rest)
    return {
        service["image"]: stages[service["build"]["target"]]
        for service in services().values()
        if "build" in service
    }


def instructions() -> Iterator[tuple[str, str]]:
    """The Dockerfile's lines, each with its first word by itself."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()).replace("\\\n", "")
    for line in filter(None, text.splitlines()):
        word, _, rest = line.partition(" ")
        yield word, rest


def copy(source: Sequence[str], target: Path, stages: Mapping[str, Image]) -> None:
    """COPY: from another stage, or from what .dockerignore lets in."""
    if source[0].startswith("--from="):
        stage, path = source[0].removeprefix("--from="), source[1]
        run_well("cp", "-a", f"{stages[stage].root}{path}", str(target))
    elif source[0] == ".":
        for file in context():
            place = target / file.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
    else:
        assert ROOT / source[0] in context()
        shutil.copy(ROOT / source[0], target)


def context() -> list[Path]:
    """Return the files that .dockerignore lets into a build."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    tops = [ROOT / line[1:] for line in lines if line.startswith("!")]
    found = [path for top in tops for path in ([top] if top.is_file() else top.rglob("*"))]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def foreign_images(folder: Path) -> dict[str, Image]:
    """Return what stands for the images that are not ours; they have BusyBox's tools."""
    images = {}
    for name, (first, kept) in FOREIGN.items():
        image = Image(folder / "foreign" / name, {"PATH": f"/busybox:{PATH}"}, first)
        lay_root(image.root)
        (image.root / "busybox").mkdir()
        (image.root / "busybox" / "wget").symlink_to(command("busybox")[0])
        for place in kept:
            (image.root / place[1:]).mkdir()
            os.chown(image.root / place[1:], NOBODY, NOBODY)
        images[name] = image
    return images


def lay_root(root: Path) -> None:
    """Make the folders of a Debian, with nothing in them but two users."""
    for name in ("dev", "etc", "opt", "proc", "run", "tmp", "usr", "var/lib"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for path in Path("/").iterdir():
        if path.is_symlink() and str(path.readlink()).startswith("usr/"):
            (root / path.name).symlink_to(path.readlink())
    (root / "etc" / "passwd").write_text("root:x:0:0::/:\nnobody:x:65534:65534::/:\n")
    (root / "etc" / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    for mount in this_machine():
        make_place(root, mount)


def run_inside(image: Image, script: str) -> None:
    """RUN: in the image, as root."""
    variables = [f"{name}={value}" for name, value in image.environment.items()]
    words = ("env", "-i", *variables, "sh", "-e", "-c", script)
    inside = contained(image.root, list(this_machine()), words)
    run_well("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-e", "-c", inside)


# --- namespaces -------------------------------------------------------------------------------


def this_machine() -> Iterator[Mount]:
    """What every container has of this machine: its programs, and the tests' Python."""
    yield Mount(Path("/usr"), "/usr", read_only=True)
    if not sys.base_prefix.startswith("/usr"):
        yield Mount(Path(sys.base_prefix), sys.base_prefix, read_only=True)
    yield Mount(Path(sysconfig.get_path("purelib")), _PACKAGES, read_only=True)


def make_place(root: Path, mount: Mount) -> None:
    """Make sure that something can be mounted there."""
    place = root / mount.target[1:]
    if mount.source.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()


def contained(
    root: Path,
    mounts: Sequence[Mount],
    words: Sequence[str],
    *,
    tmpfs: Sequence[str] = (),
    read_only: bool = False,
) -> str:
    """Return a script that becomes the words' program, in a root; for namespaces of its own."""
    script = f"mount --bind {root} {root}\n"
    for mount in mounts:
        place = quote(f"{root}{mount.target}")
        script += f"mount --bind {quote(str(mount.source))} {place}\n"
        script += f"mount -o remount,bind,ro {place}\n" * mount.read_only
    # As runc does: a folder that is there keeps its mode, but not its owner.
    for place in (f"{root}{its}" for its in tmpfs):
        script += f"mount -t tmpfs -o mode=$(stat -c %a {place}) tmpfs {place}\n"
    script += f"mount -t proc proc {root}/proc\nmount --rbind /dev {root}/dev\n"
    script += f"mount -o remount,bind,ro {root}\n" * read_only
    return f"{script}exec chroot {root} {join(words)}\n"


def networks(of: Mapping[str, Service], leaving: ExitStack) -> dict[str, int]:
    """Lay a network for each service that shares none; each is known by a process that has it.

    They hang together where the compose file gives them an address.
    """
    middle = holder(leaving)
    run_in(middle, "ip", "link", "add", "bridge", "type", "bridge")
    run_in(middle, "ip", "link", "set", "bridge", "up")
    found = {}
    for number, (name, service) in enumerate(of.items()):
        if service.get("network_mode", "").startswith("service:"):
            continue
        own = found[name] = holder(leaving)
        run_in(own, "ip", "link", "set", "lo", "up")
        for key, value in service.get("sysctls", {}).items():
            place = key.replace(".", "/")
            run_in(own, "sh", "-e", "-c", f"echo {value} >/proc/sys/{place}")
        for network in service.get("networks", {}).values():
            far = ("peer", "name", "eth0", "netns", str(own))
            port = f"port{number}"
            run_in(middle, "ip", "link", "add", port, "type", "veth", *far)
            run_in(middle, "ip", "link", "set", port, "master", "bridge", "up")
            run_in(own, "ip", "address", "add", f"{network['ipv4_address']}/24", "dev", "eth0")
            run_in(own, "ip", "link", "set", "eth0", "up")
    return found


def holder(leaving: ExitStack) -> int:
    """Start a process with a network of its own; it ends with its input."""
    process = leaving.enter_context(
        subprocess.Popen(
            command("unshare", "--net", "sh", "-c", "echo there; exec cat"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us: we stop what runs there first
            text=True,
        )
    )
    assert process.stdout
    assert process.stderr
    if not process.stdout.readline():
        needs = "containers take root, and a kernel that gives it namespaces, veth and bridges"
        pytest.fail(f"{needs}: {process.stderr.read().strip()}", pytrace=False)
    return process.pid


def run_in(network: int, *words: str) -> None:
    """Run a command there that works."""
    run_well("nsenter", f"--net=/proc/{network}/ns/net", *words)


def run_well(*words: str) -> None:
    """Run a command that works."""
    done = run(*command(*words))
    assert done.returncode == 0, f"{join(words)}: {done.stdout}{done.stderr}"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    return subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def command(*words: str) -> tuple[str, ...]:
    """The words, the first as the program's path."""
    program = find(words[0])
    assert program, f"{words[0]} is not installed"
    return (program, *words[1:])
