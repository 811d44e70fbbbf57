"""What is changed at runtime: `overrides.toml`, stronger than sc.toml, weaker than the environment.

One process writes it: the running service, or the command line when none runs. Whoever reads it
meanwhile sees it as it was before or as it is after.
"""

from __future__ import annotations

import errno
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from bssci.core.protocol.errors import Code, StorageError
from bssci.core.runtime.config import (
    KEYS,
    MAX_FILE,
    RUNTIME_KEYS,
    Config,
    ConfigError,
    Origin,
    Problem,
    load_config,
    overlay_file,
    read_overlay,
)
from bssci.core.runtime.files import write_file
from bssci.core.runtime.sections import SECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["Change", "Changes", "adopt", "change"]

HEADER = """\
# What was changed at runtime, by `bssci config set` or over MQTT. It goes before sc.toml;
# `bssci config unset KEY` takes a change back.

"""


@dataclass(frozen=True, slots=True)
class Change:
    """A setting before and after, as it is shown: a secret is masked.

    Attributes:
        key: `section.name`.
        old, value: what was and what is in force, now or after a restart.
        applied: a running service has it from now on.
        reason: why not; empty when it has.
    """

    key: str
    old: object
    value: object
    applied: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """What has been changed.

    Attributes:
        changed: all that was asked for, in that order.
        restart: the keys whose new value needs a restart.
    """

    changed: tuple[Change, ...]
    restart: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        return {"changed": [asdict(each) for each in self.changed], "restart": list(self.restart)}


def change(
    config: Config,
    values: Mapping[str, object | None],
    *,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, object] | None = None,
    check: Callable[[Config], object] | None = None,
) -> tuple[Config, Changes]:
    """Change settings. They are on disk when this returns; if anything is wrong, nothing is.

    Args:
        config: the one in force; it was read from a file.
        values: by `section.name`; texts are read as in the environment, None takes back what was
            changed earlier.
        environ, options: as for `load_config`, and the same as `config` was read with.
        check: called with the new configuration before it is kept; if it raises, it is not.

    Returns:
        The whole configuration as a start would read it now, and what has changed in it.

    Raises:
        ConfigError: with everything that is wrong, whether it was given now or not.
        StorageError: it could not be written.
    """
    if config.file is None:
        what = "the configuration was not read from a file, so that no change of it can be kept"
        raise ConfigError([Problem("", "", what)])
    file = overlay_file(config)
    wanted = _merged(read_overlay(file), values)
    try:
        changed = load_config(config.file, environ=environ, options=options, overlay=wanted)
    except ConfigError as error:
        # What is not in the file yet is not looked for there.
        raise ConfigError(
            [
                replace(each, where="") if each.where == str(file) and each.key in values else each
                for each in error.problems
            ]
        ) from error
    if check is not None:
        check(changed)
    _write(file, wanted)
    each = tuple(_change(name, config, changed, value) for name, value in values.items())
    return changed, Changes(each, _waiting(values, config, changed))


def adopt(running: Config, read: Config) -> Config:
    """The running configuration with what it takes over, without a restart, from one just read."""
    sections = {
        section: replace(
            getattr(running, section),
            **{
                key.name: getattr(getattr(read, section), key.name)
                for key in KEYS.values()
                if key.section == section and key.full_name in RUNTIME_KEYS
            },
        )
        for section in SECTIONS
    }
    taken = {name: origin for name, origin in read.origins.items() if name in RUNTIME_KEYS}
    return replace(running, **sections, origins=MappingProxyType({**running.origins, **taken}))


# --- values ---


def _merged(
    present: Mapping[str, object], values: Mapping[str, object | None]
) -> dict[str, object]:
    """What the file is to say. An unknown name is in it, too, to be complained about."""
    kept = {name: value for name, value in present.items() if name not in values}
    given = {
        name: _written(name, value)
        for name, value in values.items()
        if value is not None or name not in KEYS
    }
    return kept | given


def _written(name: str, value: object) -> object:
    """A value as the file spells it; if it cannot be one, as it is, to be complained about."""
    if name not in KEYS:
        return value
    kind = KEYS[name].kind
    try:
        return kind.write(kind.read_text(value) if isinstance(value, str) else kind.read(value))
    except (ValueError, OverflowError):
        return value


def _value(config: Config, name: str) -> object:
    key = KEYS[name]
    return getattr(getattr(config, key.section), key.name)


def _change(name: str, before: Config, after: Config, given: object) -> Change:
    key, (old, new) = KEYS[name], (_value(before, name), _value(after, name))
    reason = _obstacle(after.origins[name]) if given is not None else ""
    if not reason and old != new and name not in RUNTIME_KEYS:
        reason = "needs a restart"
    return Change(name, key.shown(old), key.shown(new), not reason, reason)


def _obstacle(origin: Origin) -> str:
    """What hides a change, if anything does."""
    return f"{origin} goes before it" if origin.layer in ("environment", "command line") else ""


def _waiting(values: Mapping[str, object], before: Config, after: Config) -> tuple[str, ...]:
    return tuple(
        name
        for name in values
        if name not in RUNTIME_KEYS and _value(before, name) != _value(after, name)
    )


# --- the file ---


def _write(file: Path, values: Mapping[str, object]) -> None:
    import tomli_w  # only who writes a file pays for it

    table: dict[str, dict[str, object]] = {}
    for name, key in KEYS.items():
        if name in values:
            table.setdefault(key.section, {})[key.name] = values[name]
    try:
        data = (HEADER + tomli_w.dumps(table)).encode()
    except UnicodeEncodeError as error:
        what = "found text that is not Unicode, expected characters that a file can hold"
        raise ConfigError([Problem("", _not_unicode(values), what)]) from error
    if len(data) > MAX_FILE:
        raise ConfigError([Problem(str(file), "", f"would be longer than {MAX_FILE} bytes")])
    try:
        write_file(file, data, mode=0o600)
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(
            f"{file} cannot be written: {error.strerror or error}; nothing is changed",
            code=Code.ENOSPC if is_full else Code.EIO,
        ) from error


def _not_unicode(values: Mapping[str, object]) -> str:
    """The keys whose text has half a character in it, as JSON and the command line can."""
    return ", ".join(
        name
        for name, value in values.items()
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value)
    )
