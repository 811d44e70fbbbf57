"""sc.toml -> `Config` (frozen), and where each value came from; what can be set is in `sections`.

Precedence: command line > environment > overlay > sc.toml > default. Each of these is read to its
end, so that one `ConfigError` tells all that is wrong. Nothing here writes; times are in seconds.
What is changed while the service runs is the work of `overlay`.
"""

from __future__ import annotations

import difflib
import json
import os
import textwrap
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal

from bssci.core.protocol.errors import BssciError
from bssci.core.runtime.kinds import Choice, Duration, Size, to_toml
from bssci.core.runtime.sections import (
    ENVIRONMENT_PREFIX,
    KEYS,
    MASK,
    RUNTIME_KEYS,
    SECTIONS,
    AutoDetach,
    Config,
    Control,
    Dedup,
    Downlinks,
    Key,
    Log,
    Metrics,
    Mqtt,
    Origin,
    Runtime,
    Sensors,
    Server,
    Status,
    Store,
    Tls,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "CONFIG_NAME",
    "KEYS",
    "MASK",
    "OVERLAY_NAME",
    "RUNTIME_KEYS",
    "AutoDetach",
    "Config",
    "ConfigError",
    "Control",
    "Dedup",
    "Downlinks",
    "Key",
    "Log",
    "Metrics",
    "Mqtt",
    "Origin",
    "Problem",
    "Runtime",
    "Sensors",
    "Server",
    "Status",
    "Store",
    "Tls",
    "describe",
    "entry",
    "find_config",
    "load_config",
    "make_config",
    "overlay_file",
    "read_overlay",
    "render_config",
    "suggestion",
]

CONFIG_NAME = "sc.toml"
OVERLAY_NAME = "overrides.toml"
# A configuration is some kilobytes; this keeps a wrong path (/dev/zero) from filling the memory.
MAX_FILE = 1024 * 1024

# --- what is wrong ---


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: the file, environment variable or option.
        key: `section.name`; empty when it is about the whole file.
        what: what was found and what is expected.
    """

    where: str
    key: str
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.what) if part)


class ConfigError(BssciError):
    """The configuration cannot be used. Tells everything that is wrong with it.

    Attributes:
        problems: each with file, section and key, what was found and what is expected.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def _shown(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value if len(value) <= 60 else f"{value[:60]}…", ensure_ascii=False)
        case dict():
            return "a section"
        case list():
            return "a list"
        case _:
            return str(value)


def suggestion(name: str, known: Mapping[str, object]) -> str:
    """`; did you mean …?`, to follow an unknown name; nothing if none of the known is like it."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


# --- reading ---


@dataclass(frozen=True, slots=True)
class _Setting:
    value: object
    origin: Origin


class _Reader:
    """Collects settings layer by layer, the weakest first, and everything that is wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[Problem] = []
        self._layers: dict[str, dict[str, _Setting]] = {}

    def complain(self, where: str, key: str, what: str) -> None:
        self.problems.append(Problem(where, key, what))

    # --- layers ---

    def read_file(self, layer: Literal["file", "overlay"], file: Path) -> bool:
        """Take what a file says; False if that cannot be known."""
        table = self.read_table(layer, file)
        for section, content in (table or {}).items():
            self._read_section(section, content, Origin(layer, str(file)))
        return table is not None

    def read_table(self, layer: Literal["file", "overlay"], file: Path) -> dict[str, object] | None:
        """What a file says, as it is; an overlay that is not there says nothing."""
        try:
            return tomllib.loads(_text(file))
        except (FileNotFoundError, NotADirectoryError):
            if layer == "overlay":
                return {}
            self.complain(str(file), "", "does not exist; make one with `bssci init`")
        except tomllib.TOMLDecodeError as error:
            self.complain(str(file), "", f"is not valid TOML: {error}")
        except (OSError, ValueError) as error:
            self.complain(str(file), "", f"cannot be read: {_reason(error)}")
        return None

    def _read_section(self, section: str, content: object, origin: Origin) -> None:
        if section not in SECTIONS:
            self.complain(origin.where, f"[{section}]", f"is unknown{self._known(section)}")
        elif not isinstance(content, dict):
            what = f"found {_shown(content)}, expected a section: [{section}]"
            self.complain(origin.where, section, what)
        else:
            for name, value in content.items():
                self.set(f"{section}.{name}", value, origin, is_text=False)

    def _known(self, section: str) -> str:
        """What may have been meant by an unknown name at the top of a file."""
        homes = [key.full_name for key in KEYS.values() if key.name == section]
        if homes:
            return f"; it belongs into a section: {' or '.join(homes)}"
        return suggestion(section, SECTIONS)

    def read_environment(self, environ: Mapping[str, str]) -> None:
        variables = {key.variable: key for key in KEYS.values()}
        sections = tuple(f"{ENVIRONMENT_PREFIX}{section}_".upper() for section in SECTIONS)
        for name, text in environ.items():
            if name in variables:
                origin = Origin("environment", name)
                self.set(variables[name].full_name, text, origin, is_text=True)
            # Only what is clearly meant for us: others may have variables of this prefix, too.
            elif name.startswith(sections):
                self.complain(name, "", f"is unknown{suggestion(name, variables)}")

    def read_options(self, options: Mapping[str, object]) -> None:
        for name, value in options.items():
            value = str(value) if isinstance(value, Path) else value
            self.set(name, value, Origin("command line"), is_text=isinstance(value, str))

    def set(self, name: str, value: object, origin: Origin, *, is_text: bool) -> None:
        """Take a setting, or complain about it."""
        where = origin.where or origin.layer
        key = KEYS.get(name)
        if key is None:
            self.complain(where, name, f"is unknown{suggestion(name, KEYS)}")
            return
        try:
            read = key.kind.read_text(str(value)) if is_text else key.kind.read(value)
        except (ValueError, OverflowError) as error:
            # A secret in the wrong place must not be shown either.
            found = MASK if key.is_secret else _shown(value)
            own_words = str(error) if str(error).startswith(key.kind.expected) else ""
            self.complain(where, name, f"found {found}, expected {own_words or key.kind.expected}")
            self._layers.setdefault("broken", {})[name] = _Setting(None, origin)
            return
        if isinstance(read, Path):
            read = Path(os.path.abspath(self.folder / os.path.expanduser(read)))
        self._layers.setdefault(origin.layer, {})[name] = _Setting(read, origin)

    # --- what it comes to ---

    def says(self, layer: str, name: str) -> bool:
        return name in self._layers.get(layer, {})

    def is_broken(self, name: str) -> bool:
        """Somebody tried to set it and failed."""
        return self.says("broken", name)

    def settings(self) -> dict[str, _Setting]:
        """The strongest setting of every key."""
        merged: dict[str, _Setting] = {}
        for layer in ("default", "code", "file", "overlay", "environment", "command line"):
            merged |= self._layers.get(layer, {})
        return merged

    def take_defaults(self) -> None:
        for name, key in KEYS.items():
            if not key.is_required:
                self.set(name, key.kind.write(key.default), Origin("default"), is_text=False)


def _text(file: Path) -> str:
    with file.open("rb") as stream:
        data = stream.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise ValueError(f"longer than {MAX_FILE} bytes")
    return data.decode("utf-8-sig")


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start})"
    return str(error)


def find_config(environ: Mapping[str, str] | None = None) -> Path:
    """The sc.toml to use when none is named: here, the user's, or the machine's.

    Raises:
        ConfigError: there is none; says where it was looked for.
    """
    environ = os.environ if environ is None else environ
    home = environ.get("XDG_CONFIG_HOME") or "~/.config"
    places = [
        Path(CONFIG_NAME),
        Path(os.path.expanduser(home)) / "bssci" / CONFIG_NAME,
        Path("/etc/bssci") / CONFIG_NAME,
    ]
    for place in places:
        if os.path.isfile(place):  # unlike Path.is_file it raises nothing
            return Path(os.path.abspath(place))
    looked = ", ".join(map(str, places))
    what = f"not found; looked for {looked}. Make one with `bssci init`, or name it with -c FILE"
    raise ConfigError([Problem(CONFIG_NAME, "", what)])


def load_config(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, object] | None = None,
    overlay: Mapping[str, object] | None = None,
) -> Config:
    """Read and check the configuration.

    Args:
        path: the sc.toml, or the folder it is in; by default the one of `find_config`.
        environ: by default that of this process.
        options: what the command line says, by `section.name`; texts are read like the environment.
        overlay: what the overlay would say, by `section.name`; by default what it does say.

    Raises:
        ConfigError: with everything that is wrong.
    """
    environ = os.environ if environ is None else environ
    file = find_config(environ) if path is None else Path(os.path.abspath(path))
    if os.path.isdir(file):
        file /= CONFIG_NAME
    reader = _Reader(file.parent)
    reader.take_defaults()
    is_read = reader.read_file("file", file)
    reader.read_environment(environ)
    reader.read_options(options or {})
    _take_overlay(reader, overlay)
    return _finished(reader, file, is_whole=is_read)


def make_config(folder: Path | str = ".", /, **settings: object) -> Config:
    """A configuration made in code, without a file, checked like one.

        config = make_config("/srv/mioty", server_eui="70B3D59CD0000009", mqtt_enabled=True)

    Nothing else is asked: no environment, no overlay. For the same reason what is set in it cannot
    be changed while the service runs.

    Args:
        folder: where relative paths begin; those of the certificates and the database, too.
        settings: `section_key`, such as `server_port`, or from a mapping `section.key`. Values are
            as in sc.toml, a path may be a `Path`. `server_eui` must be given.

    Raises:
        ConfigError: with everything that is wrong.
    """
    reader = _Reader(Path(os.path.abspath(folder)))
    reader.take_defaults()
    names = {name.replace(".", "_"): name for name in KEYS}
    for name, value in settings.items():
        value = str(value) if isinstance(value, Path) else value
        if name not in KEYS and name not in names:
            reader.complain("", name, f"is unknown{suggestion(name, names)}")
        else:
            reader.set(names.get(name, name), value, Origin("code"), is_text=False)
    return _finished(reader, None)


def _finished(reader: _Reader, file: Path | None, *, is_whole: bool = True) -> Config:
    """What was read, if all of it is right and goes together."""
    _read_password(reader)
    settings = reader.settings()
    if is_whole:
        _check_required(settings, reader, "" if file is None else str(file))
    _check_order(settings, reader)
    _check_broker(settings, reader)
    if reader.problems:
        raise ConfigError(reader.problems)
    return _config(settings, file)


def _take_overlay(reader: _Reader, overlay: Mapping[str, object] | None) -> None:
    """What was changed while the service ran lies beside the database."""
    database = reader.settings()["store.path"].value
    assert isinstance(database, Path)
    if reader.is_broken("store.path"):
        return
    file = database.with_name(OVERLAY_NAME)
    if overlay is None:
        reader.read_file("overlay", file)
    else:
        for name, value in overlay.items():
            reader.set(name, value, Origin("overlay", str(file)), is_text=False)
    # Also if something stronger hides it: that may be gone tomorrow.
    if reader.says("overlay", "store.path"):
        what = f"cannot be set here, beside the database; set it in {CONFIG_NAME}"
        reader.complain(str(file), "store.path", what)


def overlay_file(config: Config) -> Path:
    """Where what is changed at runtime is kept: beside the database."""
    return config.store.path.with_name(OVERLAY_NAME)


def read_overlay(file: Path) -> dict[str, object]:
    """What an overlay says, by `section.name`, unchecked; nothing if there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    reader = _Reader(file.parent)
    table = reader.read_table("overlay", file)
    if table is None:
        raise ConfigError(reader.problems)
    found: dict[str, object] = {}
    for section, content in table.items():
        if isinstance(content, dict):
            found |= {f"{section}.{name}": value for name, value in content.items()}
        else:
            found[section] = content
    return found


def _read_password(reader: _Reader) -> None:
    settings = reader.settings()
    file = settings["mqtt.password_file"].value
    if not isinstance(file, Path):
        return
    origin = settings["mqtt.password_file"].origin
    if settings["mqtt.password"].value:
        other = settings["mqtt.password"].origin
        what = f"not together with mqtt.password ({other}); remove one of them"
        reader.complain(str(origin), "mqtt.password_file", what)
        return
    try:
        password = _text(file).partition("\n")[0].rstrip("\r")
    except (OSError, ValueError) as error:
        reader.complain(str(file), "mqtt.password_file", f"cannot be read: {_reason(error)}")
        return
    if not password:
        reader.complain(str(file), "mqtt.password_file", "its first line is empty")
    reader.set("mqtt.password", password, Origin(origin.layer, str(file)), is_text=False)


def _check_required(settings: Mapping[str, _Setting], reader: _Reader, where: str) -> None:
    for name, key in KEYS.items():
        if key.is_required and name not in settings and not reader.is_broken(name):
            what = f"is missing, expected {key.kind.expected}; `bssci init` makes one"
            reader.complain(where, name, what)


# What one key alone does not tell: the first is shorter than the second.
_ORDER = (
    ("server.idle_ping", "shorter than", "server.idle_timeout"),
    ("auto_detach.warning_timeout", "shorter than", "auto_detach.timeout"),
    ("dedup.delay", "not longer than", "dedup.memory"),
)


def _check_order(settings: Mapping[str, _Setting], reader: _Reader) -> None:
    for less, relation, more in _ORDER:
        if reader.is_broken(less) or reader.is_broken(more):
            continue
        small, great = settings[less].value, settings[more].value
        assert isinstance(small, int | float)
        assert isinstance(great, int | float)
        if small > great or (small == great and relation == "shorter than"):
            # Blame the one that was set.
            set_here = settings[less].origin
            blamed = set_here if set_here.layer != "default" else settings[more].origin
            what = f"found {small:g} s, expected {relation} {more}, which is {great:g} s"
            reader.complain(str(blamed), less, what)


_FILES = ("ca_file", "cert_file", "key_file")

# (this one, needs that one, why)
_BROKER_NEEDS = (
    *((f"mqtt.{name}", "mqtt.tls", "it is used with TLS only") for name in _FILES),
    ("mqtt.cert_file", "mqtt.key_file", "a certificate needs its key"),
    ("mqtt.key_file", "mqtt.cert_file", "a key needs its certificate"),
    ("mqtt.password", "mqtt.username", "MQTT knows no password without a user"),
)


def _check_broker(settings: Mapping[str, _Setting], reader: _Reader) -> None:
    for name, needed, why in _BROKER_NEEDS:
        if settings[name].value and not settings[needed].value and not reader.is_broken(needed):
            reader.complain(str(settings[name].origin), name, f"is set without {needed}; {why}")


def _config(settings: Mapping[str, _Setting], file: Path | None) -> Config:
    # A constructor of any arguments: their names and types were checked against the declarations.
    make: Callable[..., Config] = Config
    sections = {
        section: declared(
            **{each.name: settings[f"{section}.{each.name}"].value for each in fields(declared)}
        )
        for section, declared in SECTIONS.items()
    }
    origins = MappingProxyType({name: settings[name].origin for name in KEYS})
    return make(**sections, file=file, origins=origins)


# --- showing and writing ---


def describe(config: Config, *, reveal: bool = False) -> Iterator[tuple[Key, object, Origin]]:
    """Every key with its value, as text, number or bool, and its origin; secrets are masked."""
    for name, key in KEYS.items():
        value = getattr(getattr(config, key.section), key.name)
        yield key, key.shown(value, reveal=reveal), config.origins.get(name, Origin("default"))


def entry(key: Key, value: object, origin: Origin) -> dict[str, object]:
    """What `describe` tells of a key, as listings for programs have it."""
    return {
        "key": key.full_name,
        "value": value,
        "origin": str(origin),
        "default": None if key.is_required else key.shown(key.default),
        "help": key.help,
        "secret": key.is_secret,
        "runtime": key.runtime is not None,
    }


_HEADER = """\
Configuration of bssci, the mioty Service Center.

Every key is listed with its meaning. A line that begins with "#" and a key shows the default; \
take the "#" away to change it. Times are in seconds, or texts such as "90s", "12h", "30d". \
Relative paths begin in the folder of this file. The environment goes before this file: \
BSSCI_SERVER_PORT=16017 sets port in section server.
"""


def render_config(values: Mapping[str, object] | None = None) -> str:
    """A whole sc.toml in which every key is explained.

    Args:
        values: what is set, by `section.name`; all other keys are there as comments.
    """
    values = values or {}
    lines = _comment(_HEADER)
    for section, declared in SECTIONS.items():
        lines += ["", "", *_comment(declared.__doc__ or ""), f"[{section}]"]
        for key in KEYS.values():
            if key.section == section:
                lines += ["", *_comment(key.help + _limits(key)), _line(key, values)]
    return "\n".join(lines) + "\n"


def _limits(key: Key) -> str:
    match key.kind:
        case Choice(choices) if not all(f'"{choice}"' in key.help for choice in choices):
            return f" One of {key.kind.expected}."
        case Duration(spelled=False):
            return " In seconds."
        case Size() if not isinstance(key.kind.write(key.default), str):
            return " In bytes."
        case _:
            return ""


def _line(key: Key, values: Mapping[str, object]) -> str:
    if key.full_name in values:
        return f"{key.name} = {to_toml(key.kind.write(values[key.full_name]))}"
    return f"#{key.name} = {key.default_text or to_toml('')}"


def _comment(text: str) -> list[str]:
    return [
        f"# {line}".rstrip()
        for paragraph in text.strip().split("\n\n")
        for line in (*textwrap.wrap(paragraph, 95, break_on_hyphens=False), "")
    ][:-1]
