"""What can be set: every key of sc.toml, declared once, with its type, default and explanation.

Reading, checking, the commented sc.toml, the names of environment variables and what may be shown
all come from the section classes below. A bare type says what a value may be (a `Path` is a path);
where it says too little, a `Kind` stands beside it. `Runtime` marks what a running service takes
over; all else needs a restart. A field that is left out of `repr` is a secret. Times are seconds.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from enum import Enum
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Literal, get_args, get_origin, get_type_hints

from bssci.core.runtime.kinds import (
    Choice,
    Duration,
    Eui,
    File,
    Flag,
    Kind,
    Size,
    Text,
    Topic,
    Whole,
    Zone,
    to_toml,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "KEYS",
    "MASK",
    "RUNTIME_KEYS",
    "SECTIONS",
    "AutoDetach",
    "Config",
    "Control",
    "Dedup",
    "Downlinks",
    "Key",
    "Log",
    "Metrics",
    "Mqtt",
    "Origin",
    "Runtime",
    "Sensors",
    "Server",
    "Status",
    "Store",
    "Tls",
]

ENVIRONMENT_PREFIX = "BSSCI_"

MASK = "****"
"""What stands in place of a secret."""

Port = Annotated[int, Whole(0, 65535)]
Count = Annotated[int, Whole(1, 10**9)]
Name = Annotated[str, Text(may_be_empty=False)]
Seconds = Annotated[float, Duration()]
SecondsOrNone = Annotated[float, Duration(above=-1)]


class Runtime(Enum):
    """How a running service takes a change over. The value is what the help of a key says of it."""

    AT_ONCE = ""
    NEXT_CONNECTION = "A change applies to new connections."


AT_ONCE = Runtime.AT_ONCE
NEXT_CONNECTION = Runtime.NEXT_CONNECTION


# --- what can be set ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where base stations connect, who we are to them, and how long they may take."""

    host: Annotated[
        Name,
        'Address to listen on. "0.0.0.0" is every IPv4 address of this machine, "::" every IPv6 '
        "address.",
    ] = "0.0.0.0"
    port: Annotated[
        Port,
        "TCP port that base stations connect to. Some gateways reach only 16017. 0 takes any free "
        "port.",
    ] = 16018
    eui: Annotated[
        int,
        Eui(),
        "EUI64 of this Service Center, 16 hexadecimal digits. `bssci init` makes one; base "
        "stations resume their sessions only with the one they know.",
    ]
    name: Annotated[str, "Name that is shown to base stations."] = "bssci"
    max_connections: Annotated[Count, "Connections at a time, at most."] = 5000
    max_half_open: Annotated[
        Count,
        "Connections that have not completed their connect, at most. When there are more, the "
        "oldest of them is closed, so that a good base station gets in.",
    ] = 1000
    max_half_open_per_address: Annotated[Count, "The same, from one address."] = 100
    handshake_timeout: Annotated[
        Seconds,
        NEXT_CONNECTION,
        "From TCP accept to the end of the connect. Embedded TLS is slow.",
    ] = 30.0
    idle_ping: Annotated[
        Seconds, NEXT_CONNECTION, "A base station that is silent for so long is pinged."
    ] = 20.0
    idle_timeout: Annotated[
        Seconds,
        NEXT_CONNECTION,
        "A connection that is silent for so long is closed. Longer than idle_ping.",
    ] = 60.0
    write_timeout: Annotated[
        Seconds,
        NEXT_CONNECTION,
        "How long a base station may take to accept what we send; then it is closed.",
    ] = 10.0
    operation_timeout: Annotated[
        Seconds,
        NEXT_CONNECTION,
        "How long a base station may take to answer one of our operations.",
    ] = 30.0
    max_frame: Annotated[
        int,
        Size(),
        NEXT_CONNECTION,
        "The longest message accepted from a base station. Longer ones end it.",
    ] = 1048576


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The certificates of this Service Center, and what is asked of those of base stations."""

    cert_file: Annotated[
        Path,
        NEXT_CONNECTION,
        "Certificate of this Service Center, PEM. `bssci certs gen` makes it.",
    ] = Path("certs/service_center_cert.pem")
    key_file: Annotated[
        Path, NEXT_CONNECTION, "Private key of that certificate, PEM, not encrypted."
    ] = Path("certs/service_center_key.pem")
    ca_file: Annotated[
        Path,
        NEXT_CONNECTION,
        "Certificates of the authorities that base stations' certificates must come from, PEM. "
        "`bssci certs` signs with ca_key.pem in the same folder.",
    ] = Path("certs/ca_cert.pem")
    identity: Annotated[
        Literal["match", "pin", "require", "chain"],
        '"match": a certificate that names an EUI (common name or alternative name, any spelling) '
        "must name the one its base station claims; one that names none is accepted and shown as "
        'unbound. "pin": also, each base station is bound to the first certificate it used. '
        '"require": the certificate must name the base station. "chain": any certificate of the '
        "authority will do.",
    ] = "match"
    min_version: Annotated[
        Literal["1.2", "1.3"], NEXT_CONNECTION, "The oldest version of TLS accepted."
    ] = "1.2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mqtt:
    """The broker that uplinks are published to."""

    enabled: Annotated[
        bool, "Without a broker uplinks are kept in the store and shown. `init --mqtt` sets it."
    ] = False
    host: Annotated[Name, "Host name or address of the broker."] = "localhost"
    port: Annotated[
        int, Whole(1, 65535), "TCP port of the broker: usually 1883, and 8883 with TLS."
    ] = 1883
    username: Annotated[str, "User at the broker. Empty: none."] = ""
    password: Annotated[
        str, "Password of that user. Better in password_file, which only you can read."
    ] = field(default="", repr=False)
    password_file: Annotated[
        Path | None, "File whose first line is the password. Not together with password."
    ] = None
    client_id: Annotated[
        str, "MQTT client identifier, one for each service. Empty: made from server.eui."
    ] = ""
    base_topic: Annotated[
        str, Topic(), "What every topic begins with. A trailing slash is ignored."
    ] = "mioty"
    qos: Annotated[
        int,
        Whole(0, 2),
        "Quality of service of what is published. With 0 the broker confirms nothing, and what is "
        "on its way when the connection ends is lost.",
    ] = 1
    keepalive: Annotated[
        int,
        Duration(whole=True, most=65535),
        "Silence after which the broker is pinged; the same again without an answer ends the "
        "connection.",
    ] = 60
    tls: Annotated[bool, "Speak TLS with the broker."] = False
    ca_file: Annotated[
        Path | None,
        "Authorities that the broker's certificate must come from, PEM. Empty: those that the "
        "operating system trusts.",
    ] = None
    cert_file: Annotated[
        Path | None, "Our certificate for the broker, PEM. Empty: none is shown."
    ] = None
    key_file: Annotated[Path | None, "Private key of that certificate, PEM."] = None
    legacy_topics: Annotated[
        bool,
        "Also listen on the topics of the earlier service: EP/+/cmd and EP/+/cmd/.",
    ] = True
    max_inflight: Annotated[
        int,
        Whole(1, 65535),
        "Uplinks that may be on their way to the broker at a time; the others wait on disk.",
    ] = 200
    reconnect_max: Annotated[
        Seconds, "The longest pause between two attempts to reach the broker."
    ] = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Where everything is kept."""

    path: Annotated[
        Path,
        "The database. Its folder is the state folder: what is changed while the service runs is "
        "kept there, too, in overrides.toml.",
    ] = Path("state/bssci.db")
    keep_uplinks: Annotated[
        float,
        Duration(above=-1, spelled=True),
        AT_ONCE,
        "How long uplinks are kept after they were published.",
    ] = 30 * 86400.0
    min_free: Annotated[
        int,
        Size(),
        AT_ONCE,
        "Warn when less is free on that disk. When it is full, uplinks are refused, so that base "
        "stations keep them.",
    ] = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Dedup:
    """How the copies that several base stations receive become one uplink."""

    delay: Annotated[
        SecondsOrNone,
        AT_ONCE,
        "From the first reception until the uplink is published. Receptions in this time are told "
        "with it, and the best one is chosen.",
    ] = 2.0
    early: Annotated[
        bool,
        AT_ONCE,
        "Publish as soon as every base station that usually hears this sensor has reported.",
    ] = True
    memory: Annotated[
        Seconds, AT_ONCE, "How long a late copy is still recognised. Not shorter than delay."
    ] = 600.0
    max_remembered: Annotated[
        Count,
        AT_ONCE,
        "Uplinks that are remembered for this, at most; the oldest are forgotten first.",
    ] = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensors:
    """What is done with sensors."""

    unknown: Annotated[
        Literal["publish", "drop"],
        AT_ONCE,
        'Uplinks of sensors that are not registered: "publish" or "drop" them. They are '
        "acknowledged and counted in any case.",
    ] = "publish"


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoDetach:
    """Sensors that are not heard any more are warned about, then detached."""

    enabled: Annotated[bool, AT_ONCE, "Detach sensors for inactivity."] = True
    timeout: Annotated[Seconds, AT_ONCE, "Silence after which a sensor is detached."] = 259200
    warning_timeout: Annotated[
        Seconds, AT_ONCE, "Silence after which a warning is published. Shorter than timeout."
    ] = 129600
    check_interval: Annotated[Seconds, AT_ONCE, "Time between two checks."] = 3600
    reattach: Annotated[
        bool, AT_ONCE, "A sensor that was detached for inactivity and is heard is attached again."
    ] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What base stations are asked about themselves."""

    interval: Annotated[
        Seconds,
        AT_ONCE,
        "Between two status requests to a base station; the first comes 2 s after its connect. It "
        "also tells the error of the base station's clock.",
    ] = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Downlinks:
    """Messages that wait for sensors."""

    lifetime: Annotated[Seconds, AT_ONCE, "A downlink that was not sent by then expires."] = 86400
    max_per_sensor: Annotated[Count, AT_ONCE, "Downlinks that may wait for one sensor."] = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """How the command line reaches the running service."""

    socket: Annotated[
        Path, "Unix socket of the running service; only its user can open it (mode 0600)."
    ] = Path("state/control.sock")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Figures for monitoring systems. Not in use yet."""

    file: Annotated[
        Path | None, "Prometheus text file, rewritten now and then. Empty: none is written."
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What the service writes about itself."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        AT_ONCE,
        'The least severe kind that is logged; "debug" tells every message.',
    ] = "info"
    format: Annotated[
        Literal["", "console", "json"],
        '"console": lines for people; "json": an object a line, for machines; "": console on a '
        "terminal, JSON elsewhere.",
    ] = ""
    timezone: Annotated[
        str, Zone(), 'Time zone of the times logged: "local", "UTC" or one by name.'
    ] = "local"
    file: Annotated[Path | None, "Log into this file. Empty: to standard error."] = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from.

    Attributes:
        layer: `default`, `code`, `file`, `overlay`, `environment` or `command line`.
        where: the file or variable; empty for the others.
    """

    layer: Literal["default", "code", "file", "overlay", "environment", "command line"]
    where: str = ""

    def __str__(self) -> str:
        return self.where or self.layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that is set, by section: `config.server.port`. Frozen; times are in seconds.

    `load_config` reads one from an sc.toml, `make_config` makes one in code; both check every value
    and make paths absolute.

    Attributes:
        file: the sc.toml it was read from; None: it was made in code.
        origins: for every key (`server.port`), where its value came from.
    """

    server: Server
    tls: Tls = field(default_factory=Tls)
    mqtt: Mqtt = field(default_factory=Mqtt)
    store: Store = field(default_factory=Store)
    dedup: Dedup = field(default_factory=Dedup)
    sensors: Sensors = field(default_factory=Sensors)
    auto_detach: AutoDetach = field(default_factory=AutoDetach)
    status: Status = field(default_factory=Status)
    downlinks: Downlinks = field(default_factory=Downlinks)
    control: Control = field(default_factory=Control)
    metrics: Metrics = field(default_factory=Metrics)
    log: Log = field(default_factory=Log)

    file: Path | None = field(default=None, compare=False)
    origins: Mapping[str, Origin] = field(
        default_factory=lambda: MappingProxyType({}), compare=False, repr=False
    )


SECTIONS: Mapping[str, type] = {
    "server": Server,
    "tls": Tls,
    "mqtt": Mqtt,
    "store": Store,
    "dedup": Dedup,
    "sensors": Sensors,
    "auto_detach": AutoDetach,
    "status": Status,
    "downlinks": Downlinks,
    "control": Control,
    "metrics": Metrics,
    "log": Log,
}


# --- the table of keys ---


@dataclass(frozen=True, slots=True)
class Key:
    """One thing that can be set.

    Attributes:
        default: as in `Config`; None with `is_required`, or for a path that is not set.
        help: what it means, in whole sentences.
        is_secret: never shown, logged or listed.
        runtime: how a running service takes a change over; None: it needs a restart.
    """

    section: str
    name: str
    kind: Kind
    default: object
    help: str
    is_required: bool
    is_secret: bool
    runtime: Runtime | None

    @property
    def full_name(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"{ENVIRONMENT_PREFIX}{self.section}_{self.name}".upper()

    @property
    def unit(self) -> str:
        return self.kind.unit

    @property
    def default_text(self) -> str:
        """The default as it is written in sc.toml; empty where there is none."""
        return "" if self.is_required else to_toml(self.kind.write(self.default))

    def shown(self, value: object, *, reveal: bool = False) -> object:
        """A value as text, number or bool, for people and JSON; a secret as `****`."""
        written = self.kind.write(value)
        return MASK if self.is_secret and written and not reveal else written


def _keys() -> Iterator[Key]:
    for section, declared in SECTIONS.items():
        hints = get_type_hints(declared, include_extras=True)
        for each in fields(declared):
            yield _key(section, each, hints[each.name])


def _key(section: str, declared: Field[object], hint: object) -> Key:
    base, *marks = get_args(hint)
    kinds = [mark for mark in marks if isinstance(mark, Kind)]
    (words,) = [mark for mark in marks if isinstance(mark, str)]
    runtime = next((mark for mark in marks if isinstance(mark, Runtime)), None)
    is_required = declared.default is MISSING
    return Key(
        section,
        declared.name,
        kinds[0] if kinds else _kind(base),
        None if is_required else declared.default,
        f"{words} {runtime.value if runtime else ''}".rstrip(),
        is_required,
        not declared.repr,
        runtime,
    )


def _kind(base: object) -> Kind:
    """What a bare type says about its values."""
    if get_origin(base) is Literal:
        return Choice(get_args(base))
    if isinstance(base, UnionType):
        return File(may_be_empty=NoneType in get_args(base))
    kinds: dict[object, Kind] = {bool: Flag(), str: Text(), Path: File()}
    return kinds[base]


KEYS: Mapping[str, Key] = MappingProxyType({key.full_name: key for key in _keys()})
"""Everything that can be set, by `section.name`, in the order of sc.toml."""

RUNTIME_KEYS = frozenset(name for name, key in KEYS.items() if key.runtime is not None)
"""What a running service takes over, without a restart."""
