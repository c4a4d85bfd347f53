"""The one configuration file: TOML -> frozen models, with every fault reported at once.

Owns the keys, their defaults and what may stand in them. Whether a file that a key names
can be read is left to the command that needs it: the same configuration serves on two machines.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import dns.exception
import dns.name
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

DEFAULT_PATH = Path("/etc/zonerw/zonerw.toml")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ConfigError(Exception):
    """The configuration can't be used: `path` and every fault found, one sentence each."""

    def __init__(self, path: Path, faults: list[str]) -> None:
        super().__init__("\n".join(f"{path}: {fault}" for fault in faults))
        self.path = path
        self.faults = faults


# --- values ---------------------------------------------------------------------------------

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)s)?(?:(\d+)ms)?", re.ASCII)
_SECONDS = (86400.0, 3600.0, 60.0, 1.0, 0.001)


def _duration(value: object) -> float:
    """Seconds of a duration as Prometheus writes it."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    seconds = (
        sum(int(n) * s for n, s in zip(match.groups(), _SECONDS, strict=True) if n)
        if match
        else 0.0
    )
    if seconds <= 0:
        raise ValueError('a duration such as "250ms", "30s", "10m" or "1h30m"')
    return seconds


def _address(value: object) -> Address:
    try:
        if isinstance(value, str):
            return ipaddress.ip_address(value)
    except ValueError:
        pass  # the same message as for what is no string at all
    raise ValueError('an IPv4 or IPv6 address such as "192.0.2.1"')


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", value, re.ASCII):
        raise ValueError("a name of lower-case letters, digits and inner hyphens")
    return value


def _absolute(value: object) -> Path:
    if not isinstance(value, str) or not Path(value).is_absolute():
        raise ValueError('an absolute path such as "/etc/zonerw/zones"')
    return Path(value)


def _http_url(value: object, *, expected: str = 'a URL such as "http://www.example.org/"') -> str:
    try:
        if isinstance(value, str):
            parts = urlsplit(value)
            _ = parts.port  # a port out of range shows itself only here
            if parts.scheme in ("http", "https") and parts.hostname:
                return value
    except ValueError:
        pass  # the same message as for what is no string at all
    raise ValueError(expected)


@dataclass(frozen=True)
class Listen:
    """Where a program listens."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _listen(value: object) -> Listen:
    match = (
        re.fullmatch(r"\[?([0-9a-fA-F.:]+?)\]?:(\d{1,5})", value)
        if isinstance(value, str)
        else None
    )
    try:
        if match and 0 < int(match[2]) < 2**16:
            return Listen(str(ipaddress.ip_address(match[1])), int(match[2]))
    except ValueError:
        pass  # the same message as for what is no string at all
    raise ValueError('an address and a port such as "127.0.0.1:9853" or "[::1]:9853"')


def _key_name(value: object) -> str:
    try:
        if isinstance(value, str) and value:
            dns.name.from_text(value)
            return value
    except dns.exception.DNSException:
        pass  # the same message as for what is no string at all
    raise ValueError('the name of a TSIG key such as "transfer"')


def _one_of_each_family(addresses: tuple[Address, ...]) -> tuple[Address, ...]:
    if len({a.version for a in addresses}) < len(addresses):
        raise ValueError("at most one IPv4 and one IPv6 address")
    return addresses


Duration = Annotated[float, BeforeValidator(_duration)]
IP = Annotated[Address, BeforeValidator(_address)]
Name = Annotated[str, AfterValidator(_name)]
AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Command = Annotated[
    tuple[Annotated[str, Field(min_length=1, strict=True)], ...], Field(min_length=1)
]
Addresses = Annotated[
    tuple[IP, ...], Field(min_length=1, max_length=2), AfterValidator(_one_of_each_family)
]


# --- sections -------------------------------------------------------------------------------


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(_Section):
    """How it is told that a server does its work: GET `url`, status 200."""

    url: Annotated[str, BeforeValidator(_http_url)]


class Server(_Section):
    """A machine where services run."""

    addresses: Addresses
    checks: dict[Name, Check] = {}
    look_at: Annotated[tuple[IP, ...], Field(min_length=1)] | None = None

    @property
    def ipv4(self) -> ipaddress.IPv4Address | None:
        """What `@IP@` stands for while this server serves."""
        return next((a for a in self.addresses if isinstance(a, ipaddress.IPv4Address)), None)

    @property
    def ipv6(self) -> ipaddress.IPv6Address | None:
        """What `@IP6@` stands for while this server serves."""
        return next((a for a in self.addresses if isinstance(a, ipaddress.IPv6Address)), None)

    @property
    def looked_at(self) -> tuple[Address, ...]:
        """The addresses that probes connect to; the first one judges the server."""
        return self.look_at or self.addresses

    def checks_at(self, address: Address) -> Mapping[str, Check]:
        """The checks made at one address: those configured, else the default page."""
        if self.checks:
            return self.checks
        host = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004
        return {"web": Check(url=f"http://{host}/index.html")}


class Zones(_Section):
    """Where the owner's base files are, and where the published zones go."""

    sources: AbsolutePath
    published: AbsolutePath

    @model_validator(mode="after")
    def _apart(self) -> "Zones":
        if self.sources == self.published:
            raise ValueError("sources and published in two different folders")
        return self


class Nameserver(_Section):
    """What any nameserver has: where questions for it go."""

    address: IP
    port: Port = 53


class Primary(Nameserver):
    """The nameserver on this machine that loads the published zones."""

    name: Name = "primary"
    kind: Literal["nsd"]
    control: Command = ("nsd-control",)
    checker: Command = ("nsd-checkzone",)


class Tsig(_Section):
    """A key that signs messages to a nameserver (RFC 8945)."""

    name: Annotated[str, BeforeValidator(_key_name)]
    algorithm: Literal["hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224", "hmac-sha1"] = (
        "hmac-sha256"
    )
    secret_file: AbsolutePath


class Secondary(Nameserver):
    """A nameserver that transfers the zones from the primary."""

    tsig: Tsig | None = None


class Alertmanager(_Section):
    """Whom to ask which alerts are active, and how often."""

    url: Annotated[str, BeforeValidator(_http_url)]
    poll: Duration = 5.0


class Policy(_Section):
    """How much evidence a switch takes."""

    looks: Annotated[int, Field(ge=1, le=100, strict=True)] = 3
    every: Duration = 5.0


class Exporter(_Section):
    """The exporter's own settings."""

    listen: Annotated[Listen, BeforeValidator(_listen)] = Listen("127.0.0.1", 9853)


class Actions(_Section):
    """The settings of actions."""

    listen: Annotated[Listen, BeforeValidator(_listen)] = Listen("127.0.0.1", 9854)
    state: AbsolutePath = Path("/var/lib/zonerw")
    webhook_token_file: AbsolutePath | None = None
    operator_token_file: AbsolutePath | None = None

    @model_validator(mode="after")
    def _guarded(self) -> "Actions":
        if (self.webhook_token_file is None) != (self.operator_token_file is None):
            raise ValueError("both webhook_token_file and operator_token_file, or neither")
        if self.webhook_token_file is None and not self.listen.is_loopback:
            raise ValueError(
                f"token files, because listen = {str(self.listen)!r} is not a loopback address"
            )
        return self


@dataclass(frozen=True)
class Config:
    """The whole file. `servers` are in order of preference."""

    path: Path
    servers: Mapping[str, Server]
    zones: Zones
    primary: Primary
    secondaries: Mapping[str, Secondary]
    alertmanager: Alertmanager | None
    policy: Policy
    exporter: Exporter
    actions: Actions

    @property
    def preferred(self) -> str:
        """The server that serves while all is well."""
        return next(iter(self.servers))

    @property
    def nameservers(self) -> Mapping[str, Nameserver]:
        """The primary first, then the secondaries, by their label in metrics."""
        return {self.primary.name: self.primary, **self.secondaries}


# --- reading --------------------------------------------------------------------------------

_KEYS = (
    "servers",
    "zones",
    "primary",
    "secondaries",
    "alertmanager",
    "policy",
    "exporter",
    "actions",
)
_REQUIRED = ("servers", "zones", "primary")


def path_from(option: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """Which file to read: the command line's, else ZONERW_CONFIG's, else the default one."""
    return option or Path(environment.get("ZONERW_CONFIG") or DEFAULT_PATH)


def read(path: Path) -> Config:
    """Read and check the file; `ConfigError` carries every fault."""
    tree = _parse(path)
    faults = [
        f"{key}: unknown key; expected one of {_list(_KEYS)}" for key in tree if key not in _KEYS
    ]
    faults += [f"{key}: missing" for key in _REQUIRED if key not in tree]
    reader = _Reader(tree, faults)
    servers = reader.table("servers", Server)
    zones = reader.section("zones", Zones)
    primary = reader.section("primary", Primary)
    secondaries = reader.table("secondaries", Secondary)
    alertmanager = reader.section("alertmanager", Alertmanager)
    policy = reader.section("policy", Policy) or Policy()
    exporter = reader.section("exporter", Exporter) or Exporter()
    actions = reader.section("actions", Actions) or Actions()
    faults += _shared_addresses(servers)
    if primary and primary.name in secondaries:
        faults.append(f"secondaries.{primary.name}: that is the primary's name; expected another")
    if faults or zones is None or primary is None:
        raise ConfigError(path, faults)
    return Config(
        path, servers, zones, primary, secondaries, alertmanager, policy, exporter, actions
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(path, ["no such file; expected the configuration"]) from error
    except OSError as error:
        raise ConfigError(path, [f"can't be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(path, [f"byte {error.start} is not UTF-8; expected TOML"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(path, [f"not TOML: {error}"]) from error


_Model = TypeVar("_Model", bound=_Section)


class _Reader:
    """Reads sections one by one, so that a fault in one hides none in another."""

    def __init__(self, tree: dict[str, Any], faults: list[str]) -> None:
        self._tree = tree
        self._faults = faults

    def section(self, key: str, model: type[_Model]) -> _Model | None:
        return self._model(key, model, self._tree[key]) if key in self._tree else None

    def table(self, key: str, model: type[_Model]) -> dict[str, _Model]:
        """A table of tables, one model each; its keys are names."""
        entries = self._tree.get(key, {})
        if not isinstance(entries, dict):
            self._faults.append(f"{key}: expected a table")
            return {}
        if key in _REQUIRED and key in self._tree and not entries:
            self._faults.append(f"{key}: empty; expected at least one [{key}.NAME]")
        read = {}
        for name, entry in entries.items():
            place = f"{key}.{name}"
            try:
                _name(name)
            except ValueError as error:
                self._faults.append(f"{place}: expected {error}")
            one = self._model(place, model, entry)
            if one is not None:
                read[name] = one
        return read

    def _model(self, place: str, model: type[_Model], entry: object) -> _Model | None:
        try:
            return model.model_validate(entry)
        except ValidationError as error:
            self._faults += _faults(place, model, error)
            return None


def _faults(place: str, model: type[_Section], error: ValidationError) -> Iterator[str]:
    for one in error.errors():
        where = place + "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}"
            for part in one["loc"]
            if part != "[key]"
        )
        kind, given = one["type"], one["input"]
        if kind == "missing":
            yield f"{where}: missing"
        elif kind == "extra_forbidden":
            # The fault's own section is not known here below the first level; its keys are.
            known = f"; expected one of {_list(model.model_fields)}" if len(one["loc"]) == 1 else ""
            yield f"{where}: unknown key{known}"
        elif kind == "value_error" and not isinstance(given, dict | list | tuple):
            yield f"{where}: {given!r}; expected {one['ctx']['error']}"
        elif kind == "value_error":
            yield f"{where}: expected {one['ctx']['error']}"
        elif kind in ("model_type", "dict_type"):
            yield f"{where}: expected a table"
        elif kind == "literal_error":
            yield f"{where}: {given!r}; expected {one['ctx']['expected']}"
        elif isinstance(given, dict | list | tuple):
            yield f"{where}: {_sentence(one['msg'])}"
        else:
            yield f"{where}: {given!r}; {_sentence(one['msg'])}"


def _sentence(message: str) -> str:
    """Pydantic's message in this file's manner."""
    return message.replace("Input should be", "expected").replace("Tuple should have", "expected")


def _shared_addresses(servers: Mapping[str, Server]) -> Iterator[str]:
    owner: dict[Address, str] = {}
    for name, server in servers.items():
        for address in server.addresses:
            first = owner.setdefault(address, name)
            if first != name:
                yield (
                    f"servers.{name}.addresses: {address} is also an address of"
                    f" servers.{first}; expected no two servers to share one"
                )


def _list(keys: Mapping[str, object] | tuple[str, ...]) -> str:
    return ", ".join(keys)
