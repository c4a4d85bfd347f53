"""docker-compose.yml and the Dockerfile, as far as files tell.

Compose's own tool reads them, what containers mount is there, the programs that it is for accept
it, and each service is as confined as can be.

That it works together is seen in tests/system/test_containers.py.
"""

import re
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools import run

from exporter import config

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "docker" / "demo"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: Mapping[str, Mapping[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()

BACKUP = [
    "actions",
    "alertmanager",
    "backup",
    "exporter",
    "grafana",
    "nsd",
    "prometheus",
    "secrets",
]
HOLD_A_NETWORK = ("backup", "main")
ENDS = "secrets"

# Where NSD's control is, if not where `actions` looks for it.
SOCKETS = {"main.conf": "", "ns2.conf": "/tmp/nsd.ctl"}  # noqa: S108 - in a container

# A tag for people, a digest for the engine.
PINNED = re.compile(r"[a-z/]+:[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}")

every = pytest.mark.parametrize("name", SERVICES)


# --- compose's own tool -----------------------------------------------------------------------


def test_compose_understands_the_file(tmp_path: Path) -> None:
    """All of it, and what it makes of it is nothing less."""
    assert compose(tmp_path, "--profile", "demo")["services"].keys() == SERVICES.keys()


def test_without_the_demo_there_is_the_backup_alone() -> None:
    """Main is another machine then."""
    assert sorted(name for name, its in SERVICES.items() if "profiles" not in its) == BACKUP
    assert all(its.get("profiles", ["demo"]) == ["demo"] for its in SERVICES.values())


def test_your_own_folder_takes_the_place_of_the_demos(tmp_path: Path) -> None:
    """One variable changes all that is yours, and leaves the demo's alone."""
    demo, own = compose(tmp_path), compose(tmp_path, ZONERW_ETC=str(tmp_path))
    assert {
        place: source.replace(str(tmp_path), str(DEMO)) for place, source in binds(own).items()
    } == binds(demo)
    mine = {Path(source).name for source in binds(own).values() if str(tmp_path) in source}
    assert mine == {
        "zonerw.toml",
        "zones",
        "nsd.conf",
        "prometheus",
        "alertmanager.yml",
        "datasources",
    }


def test_nothing_in_the_file_is_obsolete() -> None:
    """Of its keys compose wants no others any more."""
    assert {key for key in COMPOSE if not key.startswith("x-")} == {
        "services",
        "networks",
        "volumes",
    }


def test_what_is_published_is_this_machines_alone() -> None:
    """Only the nameserver's place is for its owner to say."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) == 5
    assert all(port.startswith(("127.0.0.1:", "${ZONERW_DNS:-127.0.0.1:")) for port in ports)


# --- how each is confined ---------------------------------------------------------------------


@every
def test_each_service_may_do_nothing_that_it_need_not(name: str) -> None:
    """No root, no capabilities, no way to any, nothing to write to but what is listed."""
    service = SERVICES[name]
    uid, _ = service["user"].split(":")
    assert int(uid) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"cap_add", "privileged", "devices", "pid", "ipc"} & service.keys()
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["restart"] == ("no" if name == ENDS else "unless-stopped")


@every
def test_what_a_service_writes_and_nobody_keeps_is_in_tmp(name: str) -> None:
    """A tmpfs on an image's folder has that folder's mode, and is root's: others can't write."""
    assert SERVICES[name].get("tmpfs", ["/tmp"]) == ["/tmp"]  # noqa: S108 - in a container


@every
def test_each_service_that_answers_has_its_health_checked(name: str) -> None:
    """What only holds a network does nothing that could go wrong; what ends has its exit status."""
    checked = "healthcheck" in SERVICES[name]
    assert checked == (name not in (*HOLD_A_NETWORK, ENDS))


@every
def test_each_image_is_pinned_or_made_here(name: str) -> None:
    """One service builds each of ours, for all that use it; nobody looks for it elsewhere."""
    service = SERVICES[name]
    if PINNED.fullmatch(service["image"]):
        return
    makers = [other for other in SERVICES.values() if other["image"] == service["image"]]
    (build,) = (maker["build"] for maker in makers if "build" in maker)
    assert (ROOT / build["context"] / "Dockerfile").is_file()
    assert build["target"] in stages()
    assert service["pull_policy"] == "never"


@every
def test_each_volume_has_a_name_and_each_file_is_there(name: str) -> None:
    """What is yours is in the long form, of which not every compose makes a folder."""
    for entry in SERVICES[name].get("volumes", ()):
        if isinstance(entry, str):
            source, _, *how = entry.split(":")
            if not source.startswith("."):
                assert source in COMPOSE["volumes"]
                continue
            read_only = how == ["ro"]
        else:
            assert entry["type"] == "bind"
            source = entry["source"].replace("${ZONERW_ETC:-./docker/demo}", "./docker/demo")
            read_only = entry["read_only"]
        assert read_only
        assert (ROOT / source).exists(), source


def test_no_volume_is_left_over() -> None:
    """Each is somebody's."""
    used = {
        entry.split(":")[0]
        for service in SERVICES.values()
        for entry in service.get("volumes", ())
        if isinstance(entry, str) and not entry.startswith(".")
    }
    assert used == COMPOSE["volumes"].keys()


def test_the_backups_programs_share_its_network_and_mains_main() -> None:
    """What the zones say of main is where its nameserver answers: the example's ns2 is main's."""
    networks = {name: service.get("network_mode") for name, service in SERVICES.items()}
    assert {name for name, mode in networks.items() if mode is None} == set(HOLD_A_NETWORK)
    assert {name for name, mode in networks.items() if mode == "service:main"} == {
        "ns2",
        "web-main",
    }
    assert networks[ENDS] == "none"


# --- the Dockerfile ---------------------------------------------------------------------------


def test_what_our_images_are_made_from_is_pinned() -> None:
    """Each begins with a digest, or with a stage above it."""
    known: set[str] = set()
    for base, name in re.findall(r"(?m)^FROM (\S+) AS (\S+)$", DOCKERFILE):
        assert base in known or PINNED.fullmatch(base), base
        known.add(name)
    assert len(known) == len(re.findall(r"(?m)^FROM ", DOCKERFILE))


def test_what_pip_installs_is_constrained() -> None:
    """By the versions that were tried, and so is what builds the wheel."""
    (line,) = (
        line
        for line in DOCKERFILE.replace("\\\n", "").splitlines()
        if "pip " in line and "install" in line and "apt-get" not in line
    )
    assert "PIP_CONSTRAINT=/build/constraints.txt" in line
    assert "!constraints.txt" in (ROOT / ".dockerignore").read_text().splitlines()


def test_what_is_let_into_the_build_is_there() -> None:
    """And nothing else is: no secret that lies about, no .git."""
    first, *lines = (
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in "#"
    )
    assert first == "*"
    for line in lines[:-1]:
        assert (ROOT / line.removeprefix("!")).exists(), line
    assert lines[-1] == "**/__pycache__"


def test_all_that_the_wheel_is_made_of_is_let_in() -> None:
    """The files that it ships too: what is not there it would ship without a word."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, wheel = pyproject["project"], pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["readme"], *project["license-files"]}
    needed |= {*wheel["packages"], *wheel["shared-data"]}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [line.removeprefix("!") for line in lines if line.startswith("!")]
    for path in needed:
        assert any(Path(path).is_relative_to(top) for top in let_in), path


@pytest.mark.parametrize("target", ["nsd", "zonerw"])
def test_our_images_run_as_no_root_by_themselves_too(target: str) -> None:
    """Whoever runs one without the compose file."""
    *_, last = re.findall(
        r"(?m)^(FROM .*|USER .*)$", DOCKERFILE.split(f" AS {target}\n")[1].split("\nFROM ")[0]
    )
    assert last == f"USER {target}"


@pytest.mark.parametrize(("user", "service"), [("nsd", "nsd"), ("zonerw", "actions")])
def test_the_users_numbers_are_the_same_everywhere(user: str, service: str) -> None:
    """In the image, in the compose file, and where the secrets are made."""
    (uid,) = re.findall(rf"useradd --uid (\d+) --gid {user} ", DOCKERFILE)
    (gid,) = re.findall(rf"groupadd --gid (\d+) {user}\b", DOCKERFILE)
    assert SERVICES[service]["user"] == f"{uid}:{gid}"
    (nsd,) = re.findall(r"groupadd --gid (\d+) nsd\b", DOCKERFILE)
    script = (ROOT / "docker" / "make-secrets").read_text()
    assert re.findall(r"(?m)^readonly nsd=(\d+)", script) == [nsd]
    (nobody,) = re.findall(r"(?m)^readonly prometheus=(\d+)", script)
    assert SERVICES["alertmanager"]["user"] == f"{nobody}:{nobody}"
    assert SERVICES["secrets"]["group_add"] == [nsd, nobody]


# --- the configurations -----------------------------------------------------------------------


def test_prometheus_and_alertmanager_accept_the_demos_files() -> None:
    """They are the fast profile's own."""
    assert (DEMO / "prometheus").resolve() == ROOT / "prometheus" / "fast"
    assert (DEMO / "alertmanager.yml").resolve() == ROOT / "alertmanager" / "fast.yml"
    run("promtool", "check", "config", str(DEMO / "prometheus" / "prometheus.yml"))
    run("amtool", "check-config", str(DEMO / "alertmanager.yml"))


def test_grafana_looks_as_finely_as_the_demos_prometheus() -> None:
    """Else it passes over an outage of a few seconds. The interval is all that differs."""
    prometheus = yaml.safe_load((DEMO / "prometheus" / "prometheus.yml").read_text())
    demo, ours = (
        yaml.safe_load((folder / "datasources" / "zonerw.yml").read_text())
        for folder in (DEMO, ROOT / "grafana" / "provisioning")
    )
    (finest,) = {
        job["scrape_interval"]
        for job in prometheus["scrape_configs"]
        if job["job_name"] in ("zonerw-servers", "zonerw-actions")
    }
    assert demo["datasources"][0]["jsonData"].pop("timeInterval") == finest
    del ours["datasources"][0]["jsonData"]["timeInterval"]
    assert demo == ours


def test_zonerw_accepts_the_demos_file() -> None:
    """Its servers are the networks that the compose file has."""
    read = config.read(DEMO / "zonerw.toml")
    for name in HOLD_A_NETWORK:
        address = SERVICES[name]["networks"]["internet"]["ipv4_address"]
        assert [str(it) for it in read.servers[name].addresses] == [address]


def test_what_the_example_names_is_in_the_containers() -> None:
    """So the one to copy works in containers as it is: folders, sockets, secrets."""
    demo, example = (
        config.read(file) for file in (DEMO / "zonerw.toml", ROOT / "examples" / "zonerw.toml")
    )
    for read in (demo, example):
        assert read.actions == demo.actions
        assert read.exporter == demo.exporter
        assert read.primary == demo.primary
        assert read.zones == demo.zones
        assert {it.tsig for it in read.secondaries.values()} == {demo.secondaries["ns2"].tsig}


@pytest.mark.parametrize(
    "owners",
    [DEMO / "nsd.conf", DEMO / "ns2.conf", *sorted((ROOT / "examples" / "nsd").glob("*.conf"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_nsd_accepts_the_configurations_together(owners: Path, tmp_path: Path) -> None:
    """The container's own comes after the owner's, so what it says holds."""
    key = tmp_path / "transfer.key"
    key.write_text('key:\n    name: "transfer"\n    algorithm: hmac-sha256\n    secret: "c2Vj"\n')
    (tmp_path / "zonerw.conf").write_text(
        owners.read_text().replace('"/etc/nsd/transfer.key"', f'"{key}"')
    )
    text = (ROOT / "docker" / "nsd.conf").read_text()
    both = tmp_path / "nsd.conf"
    both.write_text(
        text.replace("/etc/nsd/nsd.conf.d", str(tmp_path)).replace("*.conf", "zonerw.conf")
    )
    assert run("nsd-checkconf", str(both)) == ""
    for option, value in (
        ("control-interface", SOCKETS.get(owners.name, "/run/nsd.ctl")),
        ("username", ""),
        ("zonelistfile", "/tmp/zone.list"),  # noqa: S108 - in a container
        ("zones", "example.net\nexample.org"),
    ):
        said = run("nsd-checkconf", "-o", option, str(both))
        assert "\n".join(sorted(said.split())) == value, option


def test_the_demos_pages_say_who_answers() -> None:
    """The one thing that tells a browser which server it has reached."""
    for name in HOLD_A_NETWORK:
        assert f"This is {name}." in (DEMO / name / "index.html").read_text()


# --- tools ------------------------------------------------------------------------------------


def compose(folder: Path, *words: str, **variables: str) -> dict[str, Any]:
    """What compose makes of the file, without the variables of a .env that may be there."""
    none = folder / "none.env"
    none.touch()
    own = ("docker-compose",) if shutil.which("docker-compose") else ("docker", "compose")
    file = ("--file", str(ROOT / "docker-compose.yml"), "--env-file", str(none))
    variables = {"PATH": "/usr/bin:/bin", **variables}
    found = yaml.safe_load(run(*own, *file, *words, "config", env=variables))
    assert isinstance(found, dict)
    return found


def binds(composed: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Where each file of this machine comes from, by the service and its place there."""
    found = {}
    for name, service in composed["services"].items():
        for entry in service.get("volumes", ()):
            if isinstance(entry, str):
                source, target, *_ = entry.split(":")
            else:
                source, target = entry["source"], entry["target"]
            if source.startswith("/"):
                found[name, target] = source
    return found


def stages() -> set[str]:
    """The names of the Dockerfile's targets."""
    return set(re.findall(r"(?m)^FROM \S+ AS (\S+)$", DOCKERFILE))
