"""The one configuration file: TOML -> frozen models, with every fault reported at once.

Owns the keys, their defaults and what may stand in them. Whether a file that a key names
can be read is left to the command that needs it: the same configuration serves on two machines.

Pydantic goes through the whole file and collects the faults; each type below says in our words
what is expected there. A fault between two keys belongs to one of them, so that a further fault
elsewhere does not hide it.
"""

import ipaddress
import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin
from urllib.parse import urlsplit

import dns.exception
import dns.inet
import dns.name
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from exporter.kinds import KINDS

DEFAULT_PATH = Path("/etc/zonerw/zonerw.toml")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ConfigError(Exception):
    """The configuration can't be used: `path` and every fault found, one sentence each."""

    def __init__(self, path: Path, faults: list[str]) -> None:
        super().__init__("\n".join(f"{path}: {fault}" for fault in faults))
        self.path = path
        self.faults = faults


# --- values ---------------------------------------------------------------------------------


def _text(parse: Callable[[str], object], expected: str) -> BeforeValidator:
    """A string that `parse` turns into the value, or refuses with a ValueError."""

    def validate(value: object) -> object:
        try:
            if isinstance(value, str):
                return parse(value)
        except ValueError:
            pass  # the same message as for what is no string at all
        raise ValueError(expected)

    return BeforeValidator(validate)


def _whole(low: int, high: int) -> BeforeValidator:
    """A whole number; `true`, which Python takes for 1, is none."""

    def validate(value: object) -> object:
        if type(value) is int and low <= value <= high:
            return value
        raise ValueError(f"a whole number from {low} to {high}")

    return BeforeValidator(validate)


def _array(expected: str) -> BeforeValidator:
    """An array with something in it."""

    def validate(value: object) -> object:
        if isinstance(value, list | tuple) and value:
            return value
        raise ValueError(expected)

    return BeforeValidator(validate)


@dataclass(frozen=True)
class _Before:
    """What stood before in the file: what may be there only once, and the servers' addresses."""

    once: set[object] = field(default_factory=set)
    servers: set[Address] = field(default_factory=set)


def _once(expected: str) -> AfterValidator:
    """What may stand in the file only once; the context holds what stood before."""

    def validate(value: object, info: ValidationInfo) -> object:
        if isinstance(info.context, _Before):
            if value in info.context.once:
                raise ValueError(expected)
            info.context.once.add(value)
        return value

    return AfterValidator(validate)


_MILLISECONDS = {
    "y": 365 * 86_400_000,
    "w": 7 * 86_400_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1000,
    "ms": 1,
}
_DURATION = re.compile("".join(rf"(?:(\d{{1,12}}){unit})?" for unit in _MILLISECONDS), re.ASCII)
# Prometheus ends at 292 years, Python's timeouts soon after.
_LONGEST = 100 * _MILLISECONDS["y"]


def _seconds(text: str) -> float:
    """A duration as Prometheus writes it."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(text)
    units = zip(match.groups("0"), _MILLISECONDS.values(), strict=True)
    milliseconds = sum(int(number) * unit for number, unit in units)
    if not 0 < milliseconds <= _LONGEST:
        raise ValueError(text)
    return milliseconds / 1000


def _plain(address: Address) -> Address:
    """An address that can stand in a zone, a URL and a metric, and is spelt in one way only."""
    if address.is_unspecified or address.is_multicast:
        raise ValueError("the address of one machine")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        raise ValueError(f'the IPv4 address itself, "{address.ipv4_mapped}"')
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise ValueError("an address that needs no scope")
    return address


def _boolean(value: object) -> object:
    """True or false; 1 and "yes", which pydantic takes too, are neither."""
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def _matching(pattern: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(text)
        return text

    return parse


def _known_kind(text: str) -> str:
    if text not in KINDS:
        raise ValueError(text)
    return text


def _absolute(text: str) -> Path:
    if "\0" in text or not Path(text).is_absolute():
        raise ValueError(text)
    return Path(text)


def _url(text: str) -> str:
    parts = urlsplit(text)  # which skips tabs and line ends without a word
    if (
        not re.fullmatch("[!-~]+", text)
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.port == 0
    ):
        raise ValueError(text)
    return text


def _without_user(url: str) -> str:
    """Refuse a password: what is asked for stands in logs and on pages."""
    if "@" in urlsplit(url).netloc:
        raise ValueError("a URL without user and password")
    return url


# RFC 1035, section 2.3.4: 255 bytes on the wire are 253 in writing, less the dot that may end it.
_HOST_NAME = re.compile(r"(?=.{1,253}\.?$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")


def _with_host(url: str) -> str:
    """Refuse a host that nobody can ask for; TLS raises over some of them."""
    host = urlsplit(url).hostname or ""
    if ":" not in host and not _HOST_NAME.fullmatch(host):
        raise ValueError(
            "a host of letters, digits, hyphens and underscores, 1 to 63 between dots, 253 in all"
        )
    return url


def _host(text: str) -> str:
    if not _HOST_NAME.fullmatch(text) or text.endswith("."):
        raise ValueError(text)
    return text


def _key_name(text: str) -> str:
    try:
        name = dns.name.from_text(text)
    except dns.exception.DNSException as error:
        raise ValueError(text) from error
    if name == dns.name.root:
        raise ValueError(text)
    return text


@dataclass(frozen=True)
class Listen:
    """Where a program listens."""

    host: str
    port: int

    @property
    def family(self) -> int:
        """The kind of socket that listens there: AF_INET or AF_INET6."""
        return dns.inet.af_for_address(self.host)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _listen(text: str) -> Listen:
    match = re.fullmatch(r"(?:\[([^%]+)\]|(.+)):(\d{1,5})", text, re.ASCII)
    if not match or not 0 < int(match[3]) < 2**16:
        raise ValueError(text)
    host = ipaddress.IPv6Address(match[1]) if match[1] else ipaddress.IPv4Address(match[2])
    return Listen(str(host), int(match[3]))


@dataclass(frozen=True)
class Reference:
    """Somebody else's machine: while any one answers, our own line works.

    `url` is what is asked for over HTTP, and None where nothing but an address is needed.
    """

    scheme: Literal["tcp", "dns", "http", "https"]
    address: Address
    port: int
    url: str | None = None


def _reference(text: str) -> Reference:
    parts = urlsplit(text)
    address, port = ipaddress.ip_address(parts.hostname or ""), parts.port
    if "@" in parts.netloc:
        raise ValueError(text)
    bare = text == f"{parts.scheme}://{parts.netloc}" and port != 0
    match parts.scheme:
        case "tcp" if bare and port:
            return Reference("tcp", address, port)
        case "dns" if bare:
            return Reference("dns", address, port or 53)
        case "http":
            return Reference("http", address, port or 80, _url(text))
        case "https":
            return Reference("https", address, port or 443, _url(text))
    raise ValueError(text)


def _of_a_server(address: Address, info: ValidationInfo) -> Address:
    if isinstance(info.context, _Before):
        info.context.servers.add(address)
    return address


def _elsewhere(reference: Reference, info: ValidationInfo) -> Reference:
    """Refuse a server of ours: that it answers, or not, says nothing of our own line."""
    _plain(reference.address)
    if isinstance(info.context, _Before) and reference.address in info.context.servers:
        raise ValueError("an address that no server has")
    return reference


def _one_of_each_family(addresses: tuple[Address, ...]) -> tuple[Address, ...]:
    if len({a.version for a in addresses}) < len(addresses):
        raise ValueError("at most one IPv4 and one IPv6 address")
    return addresses


def _no_two_alike(addresses: tuple[Address, ...]) -> tuple[Address, ...]:
    if len(set(addresses)) < len(addresses):
        raise ValueError("each address once")
    return addresses


@dataclass(frozen=True)
class Roots:
    """Two folders to be kept in step: one of this machine's, and one by path or ssh:// URL."""

    local: str
    remote: str


_PATH = r"(/[^/\0\n]+)+/?"
# ssh://[USER@]HOST[:PORT]//PATH: nothing in it can be taken for an option, or for two words.
_SSH_ROOT = re.compile(
    r"ssh://([A-Za-z_][A-Za-z0-9._-]*@)?"
    rf"([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9a-f:.]+\])(:\d{{1,5}})?/{_PATH}"
)


def _local_root(text: str) -> str:
    return _matching(_PATH)(text).rstrip("/")


def _remote_root(text: str) -> str:
    if not re.fullmatch(_PATH, text) and not _SSH_ROOT.fullmatch(text):
        raise ValueError(text)
    return text.rstrip("/")


_ROOTS = (
    "a local root and a remote one such as"
    ' ["/home/alice/Maildir", "ssh://alice@192.0.2.1//home/alice/Maildir"], or a list of such pairs'
)


def _two(value: object) -> object:
    if isinstance(value, list) and len(value) == 2:  # noqa: PLR2004
        return value
    raise ValueError(_ROOTS)


def _apart(roots: tuple[str, str]) -> tuple[str, str]:
    here, there = (f"{root}/" for root in roots)
    if here.startswith(there) or there.startswith(here):
        raise ValueError("two roots of which neither is in the other")
    return roots


def _each_once(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    before = ""
    for root in sorted(f"{local}/" for local, _ in pairs):
        if before and root.startswith(before):
            raise ValueError("each local root once, and none in another")
        before = root
    return pairs


def _one_or_several(value: object) -> str:
    several = isinstance(value, list) and value and all(isinstance(one, list) for one in value)
    return "[several]" if several else "[one]"


def _share(text: str) -> float:
    """A share in percent."""
    match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,3})?)%", text, re.ASCII)
    if not match or not 0 < float(match[1]) <= 100:  # noqa: PLR2004
        raise ValueError(text)
    return float(match[1]) / 100


def _any_of(keys: Iterable[str]) -> str:
    *most, last = keys
    return f"{', '.join(most)} or {last}" if most else last


def _table_of_urls(table: object) -> object:
    if not isinstance(table, dict):
        raise ValueError("a table [references]")  # noqa: TRY004 - what pydantic collects
    return table


def _at_least_one(servers: dict[str, Any]) -> dict[str, Any]:
    if not servers:
        raise ValueError("at least one server such as [servers.main]")
    return servers


Duration = Annotated[
    float,
    _text(_seconds, 'a duration such as "250ms", "30s" or "1h30m", from 1ms to 100y'),
]
IP = Annotated[
    Address,
    _text(ipaddress.ip_address, 'an IPv4 or IPv6 address such as "192.0.2.1" or "2001:db8::1"'),
    AfterValidator(_plain),
]
Name = Annotated[
    str,
    _text(
        _matching("[a-z0-9]([a-z0-9-]*[a-z0-9])?"),
        "a name of lower-case letters, digits and inner hyphens",
    ),
]
Kind = Annotated[str, _text(_known_kind, _any_of(map(json.dumps, KINDS)))]
NameserverName = Annotated[Name, _once("a name that no other nameserver has")]
TrueOrFalse = Annotated[bool, BeforeValidator(_boolean)]
AbsolutePath = Annotated[Path, _text(_absolute, 'an absolute path such as "/etc/zonerw"')]
Port = Annotated[int, _whole(1, 65535)]
Command = Annotated[
    tuple[Annotated[str, _text(_matching(r"[^\0]+"), 'a word such as "nsd-checkzone"')], ...],
    _array('a command and its arguments such as ["nsd-control", "-c", "/etc/nsd/nsd.conf"]'),
]
ListenAddress = Annotated[
    Listen, _text(_listen, 'an address and a port such as "127.0.0.1:9853" or "[::1]:9853"')
]
Addresses = Annotated[
    tuple[
        Annotated[
            IP,
            AfterValidator(_of_a_server),
            _once("an address that no other server has, given once"),
        ],
        ...,
    ],
    _array('one or two addresses such as ["192.0.2.1", "2001:db8::1"]'),
    AfterValidator(_one_of_each_family),
]
LookedAt = Annotated[
    tuple[Annotated[IP, AfterValidator(_of_a_server)], ...],
    _array('the addresses where probes go instead, such as ["127.0.0.1"]'),
    AfterValidator(_no_two_alike),
]
ReferenceURL = Annotated[
    Reference,
    _text(
        _reference,
        'a URL such as "tcp://9.9.9.9:53", "dns://9.9.9.9", "http://192.0.2.80/" or'
        ' "https://[2001:db8::80]/", with an IP address for the host: no name is resolved',
    ),
    AfterValidator(_elsewhere),
]


_Pair = Annotated[
    tuple[
        Annotated[str, _text(_local_root, 'an absolute path such as "/home/alice/Maildir"')],
        Annotated[
            str,
            _text(
                _remote_root,
                'a root such as "ssh://alice@192.0.2.1//home/alice/Maildir", with two slashes'
                " before the path, or an absolute path",
            ),
        ],
    ],
    BeforeValidator(_two),
    AfterValidator(_apart),
]
Pairs = Annotated[
    Annotated[_Pair, Tag("[one]")]
    | Annotated[tuple[_Pair, ...], AfterValidator(_each_once), Tag("[several]")],
    Discriminator(_one_or_several),
]


# --- sections -------------------------------------------------------------------------------


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _missing_is_none(cls, table: object) -> object:
        """None, which TOML hasn't, for each missing key: its type then says what it expects."""
        if not isinstance(table, dict):
            return table
        required = (key for key, field in cls.model_fields.items() if field.is_required())
        return dict.fromkeys(required) | table


class HttpCheck(_Section):
    """GET `url` has to be answered with status 200, and with `contains` in the page."""

    url: Annotated[
        str,
        _text(_url, 'a URL in ASCII such as "http://www.example.org/index.html"'),
        AfterValidator(_with_host),
        AfterValidator(_without_user),
    ]
    contains: Annotated[str, _text(_matching("(?s).+"), 'text such as "welcome"')] | None = None
    follow_redirects: TrueOrFalse = False
    required: TrueOrFalse = True  # if not, it is shown, and makes no server down


class TcpCheck(_Section):
    """A connection to the port `tcp`, which says at once what begins with `banner`.

    `tls`: the name that is asked for, and in the certificate, where TLS is spoken from the start.
    """

    tcp: Port
    tls: Annotated[str, _text(_host, 'a name in lower case such as "mail.example.org"')] | None = (
        None
    )
    banner: Annotated[str, _text(_matching("(?s).+"), 'text such as "220 "')] | None = None
    required: TrueOrFalse = True


class DnsCheck(_Section):
    """A question for the SOA of the zone `dns` has to be answered, with authority."""

    dns: Annotated[str, _text(_host, 'a zone in lower case such as "example.org"')]
    port: Port = 53
    required: TrueOrFalse = True


# How it is told that a server does its work.
Check = HttpCheck | TcpCheck | DnsCheck


def _by_key(kinds: Mapping[str, type[_Section]]) -> Discriminator:
    """Tell a table's kind by the one key of `kinds` that it has."""

    def kind_of(table: object) -> str | None:
        if isinstance(table, _Section):
            return next(f"[{key}]" for key, kind in kinds.items() if isinstance(table, kind))
        if not isinstance(table, dict):
            return f"[{next(iter(kinds))}]"  # which says that it has to be a table
        keys = [key for key in kinds if key in table]
        return f"[{keys[0]}]" if len(keys) == 1 else None

    return Discriminator(
        kind_of,
        custom_error_type="kind_of_table",
        custom_error_message=f"exactly one of the keys {_any_of(kinds)}",
    )


# By the key that says which kind a check is.
_CHECKS: Mapping[str, type[_Section]] = {"url": HttpCheck, "tcp": TcpCheck, "dns": DnsCheck}
_AnyCheck = Annotated[
    Annotated[HttpCheck, Tag("[url]")]
    | Annotated[TcpCheck, Tag("[tcp]")]
    | Annotated[DnsCheck, Tag("[dns]")],
    _by_key(_CHECKS),
]


def _one_required(checks: dict[str, Check]) -> dict[str, Check]:
    if checks and not any(check.required for check in checks.values()):
        raise PydanticCustomError("none_required", "at least one check that is required")
    return checks


class Server(_Section):
    """A machine where services run."""

    addresses: Addresses
    checks: Annotated[dict[Name, _AnyCheck], AfterValidator(_one_required)] = {}
    look_at: LookedAt | None = None

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

    @property
    def required(self) -> dict[str, Check]:
        """The configured checks without which it is down."""
        return {name: check for name, check in self.checks.items() if check.required}

    @property
    def judged(self) -> Self:
        """The server with nothing but what judges it: its first address, the required checks."""
        return self.model_copy(update={"look_at": self.looked_at[:1], "checks": self.required})

    def checks_at(self, address: Address) -> Mapping[str, Check]:
        """The checks made at one address: those configured, else the default page."""
        if self.checks:
            return self.checks
        host = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004
        return {"web": HttpCheck(url=f"http://{host}/index.html")}


class Zones(_Section):
    """Where the owner's base files are, and where the published zones go."""

    sources: AbsolutePath
    published: AbsolutePath

    @field_validator("published")
    @classmethod
    def _apart(cls, published: Path, info: ValidationInfo) -> Path:
        if published == info.data.get("sources"):
            raise ValueError("another folder than sources")
        return published


class Nameserver(_Section):
    """What any nameserver has: where questions for it go."""

    address: IP
    port: Port = 53


class Primary(Nameserver):
    """The nameserver on this machine that loads the published zones."""

    name: NameserverName = Field(default="primary", validate_default=True)
    kind: Kind
    control: Command = ()  # its kind's, and so is the checker
    checker: Command = ()

    @model_validator(mode="before")
    @classmethod
    def _programs_of_its_kind(cls, table: object) -> object:
        if isinstance(table, dict) and isinstance(kind := table.get("kind"), str) and kind in KINDS:
            return {"control": KINDS[kind].control, "checker": KINDS[kind].checker} | table
        return table


class Tsig(_Section):
    """A key that signs messages to a nameserver (RFC 8945)."""

    name: Annotated[str, _text(_key_name, 'the name of a TSIG key such as "transfer"')]
    algorithm: Literal["hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224", "hmac-sha1"] = (
        "hmac-sha256"
    )
    secret_file: AbsolutePath


class Secondary(Nameserver):
    """A nameserver that transfers the zones from the primary."""

    tsig: Tsig | None = None


class Alertmanager(_Section):
    """Whom to ask which alerts are active, and how often."""

    url: Annotated[
        str,
        _text(_url, 'a URL in ASCII such as "http://127.0.0.1:9093"'),
        AfterValidator(_with_host),
    ]
    poll: Duration = 5.0


class Policy(_Section):
    """How much evidence a switch takes, and whether the way back is taken unasked."""

    handback: Literal["auto", "manual"] = "auto"
    looks: Annotated[int, _whole(1, 100)] = 3
    every: Duration = 5.0


class Exporter(_Section):
    """The exporter's own settings."""

    listen: ListenAddress = Listen("127.0.0.1", 9853)


class Actions(_Section):
    """The settings of actions."""

    state: AbsolutePath = Path("/var/lib/zonerw")
    webhook_token_file: AbsolutePath | None = None
    operator_token_file: AbsolutePath | None = Field(default=None, validate_default=True)
    listen: ListenAddress = Listen("127.0.0.1", 9854)

    @field_validator("operator_token_file")
    @classmethod
    def _both_or_neither(cls, operator: Path | None, info: ValidationInfo) -> Path | None:
        webhook = info.data.get("webhook_token_file", "faulty, but there")
        if (webhook is None) != (operator is None):
            raise ValueError("both webhook_token_file and operator_token_file, or neither")
        return operator

    @field_validator("listen")
    @classmethod
    def _guarded(cls, listen: Listen, info: ValidationInfo) -> Listen:
        keys = ("webhook_token_file", "operator_token_file")
        tokens = any(info.data.get(key, "faulty, but there") for key in keys)
        if not tokens and not listen.is_loopback:
            raise ValueError("a loopback address such as 127.0.0.1, or token files")
        return listen


class _Job(_Section):
    """What a job that keeps the servers in step has, of either kind; durations in seconds."""

    every: Duration = 600.0
    timeout: Duration = 600.0


class UnisonJob(_Job):
    """Folders that Unison keeps in step, both ways.

    A run that would delete more than the share `max_deletions` of the messages is refused.
    """

    unison: Pairs
    max_deletions: Annotated[
        float, _text(_share, 'a share such as "5%", more than 0% and at most 100%')
    ] = 0.05

    @property
    def pairs(self) -> tuple[Roots, ...]:
        """All pairs, also where there is one."""
        match self.unison:
            case (str(local), str(remote)):
                return (Roots(local, remote),)
        return tuple(Roots(*pair) for pair in self.unison)


class CommandJob(_Job):
    """A command that keeps something in step, such as git or rsync; its exit status tells."""

    command: Annotated[
        Command, _array('a command and its arguments such as ["git", "-C", "/srv/www", "pull"]')
    ]


Job = UnisonJob | CommandJob

_JOBS: Mapping[str, type[_Section]] = {"unison": UnisonJob, "command": CommandJob}
_AnyJob = Annotated[
    Annotated[UnisonJob, Tag("[unison]")] | Annotated[CommandJob, Tag("[command]")],
    _by_key(_JOBS),
]


@dataclass(frozen=True)
class Config:
    """The whole file. `servers` are in order of preference."""

    path: Path
    servers: Mapping[str, Server]
    references: Mapping[str, Reference]
    zones: Zones
    primary: Primary
    secondaries: Mapping[str, Secondary]
    alertmanager: Alertmanager | None
    policy: Policy
    exporter: Exporter
    actions: Actions
    sync: Mapping[str, Job]

    @property
    def preferred(self) -> str:
        """The server that serves while all is well."""
        return next(iter(self.servers))

    @property
    def nameservers(self) -> Mapping[str, Nameserver]:
        """The primary first, then the secondaries, by their label in metrics."""
        return {self.primary.name: self.primary, **self.secondaries}


class _File(_Section):
    """The keys of the file, in the order they are read.

    The servers' addresses come before the references, the primary's name before the secondaries'.
    """

    servers: Annotated[dict[Name, Server], AfterValidator(_at_least_one)]
    references: Annotated[dict[Name, ReferenceURL], BeforeValidator(_table_of_urls)] = {}
    zones: Zones
    primary: Primary
    secondaries: dict[NameserverName, Secondary] = {}
    alertmanager: Alertmanager | None = None
    policy: Policy = Policy()
    exporter: Exporter = Exporter()
    actions: Actions = Actions()
    sync: dict[Name, _AnyJob] = {}


# --- reading --------------------------------------------------------------------------------


def path_from(option: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """Which file to read: the command line's, else ZONERW_CONFIG's, else the default one."""
    return option or Path(environment.get("ZONERW_CONFIG") or DEFAULT_PATH)


def read(path: Path) -> Config:
    """Read and check the file; `ConfigError` carries every fault."""
    tree = _parse(path)
    try:
        file = _File.model_validate(tree, context=_Before())
    except ValidationError as error:
        faults = error.errors()
        order = {section: n for n, section in enumerate(tree)}
        faults.sort(key=lambda fault: order.get(str(fault["loc"][0]), len(order)))
        raise ConfigError(path, [_sentence(fault) for fault in faults]) from error
    return Config(path, **dict(file))


def read_or_exit(option: Path | None) -> Config:
    """Read the file that a command goes by; it ends with every fault told, and status 2."""
    try:
        return read(path_from(option))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError as error:
        fault = "no such file; name the configuration with --config or ZONERW_CONFIG"
        raise ConfigError(path, [fault]) from error
    except OSError as error:
        raise ConfigError(path, [f"can't be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(path, [f"line {line}: not UTF-8; expected TOML in UTF-8"]) from error
    except ValueError as error:  # TOMLDecodeError, and what it lets through, as endless numbers
        raise ConfigError(path, [f"not TOML: {error}"]) from error


def _sentence(fault: ErrorDetails) -> str:
    """Place, what was given, what was expected."""
    loc, kind = _without_tag(fault["loc"])
    place = _place(loc)
    given = json.dumps(fault["input"], ensure_ascii=False, default=str) + "; "
    match fault["type"]:
        case "extra_forbidden":
            given, expected = "unknown key; ", _any_of(_keys_beside(loc, kind))
        case "model_type":
            given, expected = "", f"a table [{place}]"  # what is there could be a secret
        case "dict_type":
            given, expected = "", f"tables [{place}.NAME]"
        case "kind_of_table":
            given, expected = f"{json.dumps([*fault['input']])}; ", fault["msg"]
        case "none_required":
            given, expected = "", fault["msg"]
        case "literal_error":
            expected = fault["ctx"]["expected"].replace("'", '"')
        case _:
            expected = str(fault["ctx"]["error"])
            if loc[-1] == "[key]":
                place = _place(loc[:-2])  # what was given is the key itself
    if fault["input"] is None:
        given = "missing; "
    return f"{place}: {given}expected {expected}"


def _place(loc: tuple[int | str, ...]) -> str:
    """The key as TOML spells it."""
    place = ""
    for part in loc:
        if isinstance(part, int):
            place += f"[{part}]"
        else:
            bare = re.fullmatch("[A-Za-z0-9_-]+", part)
            place += "." + (part if bare else json.dumps(part, ensure_ascii=False))
    return place.removeprefix(".")


def _without_tag(
    loc: tuple[int | str, ...],
) -> tuple[tuple[int | str, ...], type[_Section] | None]:
    """The place without the kind of a table, which stands behind its name; and that kind."""
    match loc:
        case ("servers", _, "checks", _, str(tag), *_) if tag.strip("[]") in _CHECKS:
            return loc[:4] + loc[5:], _CHECKS[tag.strip("[]")]
        case ("sync", _, str(tag), *_) if tag.strip("[]") in _JOBS:
            untagged = tuple(p for p in loc if p not in (tag, "[one]", "[several]"))
            return untagged, _JOBS[tag.strip("[]")]
    return loc, None


def _keys_beside(loc: tuple[int | str, ...], kind: type[_Section] | None) -> Iterable[str]:
    """The keys of the section that holds `loc`, found from the top of the file downwards."""
    if kind:
        return tuple(kind.model_fields)
    here: Any = _File
    for part in loc[:-1]:
        named = get_origin(here) is dict
        here = get_args(here)[1] if named else here.model_fields[part].annotation
        if type(None) in get_args(here):
            here = get_args(here)[0]
    return tuple(here.model_fields)
