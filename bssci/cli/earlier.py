"""`bssci config import`: an sc.toml that does what the `.env` of the earlier service did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bssci.cli import certs, output, remote, settings

if TYPE_CHECKING:
    from bssci.core.center.earlier import Earlier, Env
    from bssci.core.runtime.config import Config, Problem

__all__ = ["Moved", "import_", "move", "text_of"]

PASSWORD_FILE = Path("certs/mqtt_password")  # in the folder of sc.toml, as `init` has it
SENSORS_FILE = "endpoints.json"  # where the earlier service had its sensors if it was told nothing


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The .env of the earlier service.")
    ] = Path(".env"),
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The sc.toml to write.")
    ] = Path("sc.toml"),
    force: certs.Force = False,
    as_json: remote.Json = False,
) -> None:
    """Make an sc.toml that does what the .env of the earlier service did.

    The password for the broker goes into a file of its own. What means nothing here is listed.
    With --force, an sc.toml that is there is replaced (the old one is kept under a name with the
    time); its EUI stays.

    Example: bssci config import .env --out /srv/bssci/sc.toml
    """
    from bssci.core.center.earlier import read_env, translate

    env = read_env(text_of(file))
    target = (out / "sc.toml" if out.is_dir() else out).absolute()
    moved = move(file.absolute(), env, translate(env), target, force=force)
    if as_json:
        output.show_json(moved.as_json())
        return
    output.show(moved.as_text())
    output.note(moved.remarks())


def text_of(file: Path) -> str:
    from bssci.core.runtime.config import MAX_FILE, ConfigError, Problem

    with file.open("rb") as stream:
        data = stream.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise ConfigError([Problem(str(file), "", f"is longer than {MAX_FILE} bytes")])
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        what = f"cannot be read: not UTF-8 (byte {error.start})"
        raise ConfigError([Problem(str(file), "", what)]) from error


# --- what has come of it ---


@dataclass(frozen=True, slots=True)
class Moved:
    """What has come of a `.env`."""

    config: Config
    values: Mapping[str, object]
    env: Env
    earlier: Earlier
    sensors_file: Path | None
    kept: tuple[Path, ...]

    @property
    def config_file(self) -> Path:
        assert self.config.file is not None
        return self.config.file

    def as_json(self) -> dict[str, Any]:
        from bssci.core.protocol.eui import format_eui
        from bssci.core.runtime.config import KEYS

        return {
            "config_file": str(self.config_file),
            "eui": format_eui(self.config.server.eui),
            "settings": {name: KEYS[name].shown(value) for name, value in self.values.items()},
            "assumed": self.earlier.assumed,
            "left": list(self.earlier.left),
            "unread": list(self.env.unread),
            "sensors_file": str(self.sensors_file) if self.sensors_file else None,
            "next": [command for command, _ in self._next()],
            "kept": [str(file) for file in self.kept],
        }

    def as_text(self) -> str:
        from bssci.core.runtime.config import KEYS
        from bssci.core.runtime.kinds import to_toml

        sources = self.earlier.sources | self.earlier.assumed
        sources["mqtt.password_file"] = sources.get("mqtt.password", "")
        rows = [
            (name, to_toml(KEYS[name].kind.write(value)), sources.get(name, ""))
            for name, value in self.values.items()
        ]
        columns = [
            output.Column("setting"),
            output.Column("value", least=12),
            output.Column("from", least=12),
        ]
        return output.table(columns, rows, width=output.width())

    def remarks(self) -> str:
        """What is left out, and what to do next."""
        import textwrap

        # A path stays on its line however long it is: it is there to be copied.
        files = [f"Written: {self.config_file}", *(f"Kept: {file}" for file in self.kept)]
        left = []
        if self.earlier.left:
            left.append(f"Left out, there is no such setting: {', '.join(self.earlier.left)}")
        if self.env.unread:
            left.append(
                f"Left out, it assigns nothing: line {', '.join(map(str, self.env.unread))}"
            )
        told = [textwrap.fill(line, 80, subsequent_indent="  ") for line in left]
        steps = [(f"{number}.", *step) for number, step in enumerate(self._next(), 1)]
        return "\n".join([*files, *told, "", "Next:", output.columns(steps)])

    def _next(self) -> Iterator[tuple[str, str]]:
        """Commands, and why."""
        name = _from_here(self.config_file)
        option = "" if name == Path("sc.toml") else f" -c {name}"
        tls = self.config.tls
        if not all(file.exists() for file in (tls.cert_file, tls.key_file, tls.ca_file)):
            yield f"bssci certs gen{option}", "its certificates are not there yet"
        port = self.config.server.port
        yield f"bssci serve{option}", f"base stations connect to port {port}, TLS"
        if self.sensors_file is not None:
            yield f"bssci sensors import {_from_here(self.sensors_file)}{option}", "while it runs"


def _from_here(file: Path) -> Path:
    here = Path.cwd()
    return file.relative_to(here) if file.is_relative_to(here) else file


# --- doing it ---


def move(file: Path, env: Env, earlier: Earlier, target: Path, *, force: bool) -> Moved:
    """Write it all; sc.toml comes last, so that it is there only when the rest is."""
    from bssci.core.runtime.config import load_config, render_config

    meant = _meant(file, earlier, settings.eui_so_far(target) or settings.new_eui())
    values = _values(meant, earlier, target.parent)
    password, password_file = meant.mqtt.password, target.parent / PASSWORD_FILE
    certs.refuse_to_overwrite([target, *([password_file] if password else [])], force=force)
    kept: list[Path] = []
    if password:
        settings.write_gitignore(password_file.parent)
        kept += settings.replace_file(password_file, f"{password}\n", mode=0o600)
    kept += settings.replace_file(target, render_config(values), mode=0o644)
    config = load_config(target, environ={}, overlay={})
    return Moved(config, values, env, earlier, _sensors_file(file, earlier), tuple(kept))


def _sensors_file(file: Path, earlier: Earlier) -> Path | None:
    """Where the sensors are: where the variable says, or in the usual place if they are there."""
    if earlier.sensors_file:
        return file.parent / earlier.sensors_file
    usual = file.parent / SENSORS_FILE
    return usual if usual.exists() else None


def _meant(file: Path, earlier: Earlier, eui: int) -> Config:
    """The configuration that the variables mean.

    Raises:
        ConfigError: with everything that is wrong, by variable.
    """
    import tempfile

    from bssci.core.protocol.eui import format_eui
    from bssci.core.runtime.config import ConfigError, Problem, load_config

    problems = list(_problems(file, earlier))
    options = {name: _located(name, text, file) for name, text in earlier.settings.items()}
    with tempfile.NamedTemporaryFile(suffix=".toml") as nothing:
        try:
            options["server.eui"] = format_eui(eui)
            config = load_config(Path(nothing.name), environ={}, options=options, overlay={})
        except ConfigError as error:
            problems += [
                Problem(str(file), earlier.sources.get(each.key, each.key), each.what)
                for each in error.problems
            ]
    if problems:
        raise ConfigError(problems)
    return config


def _problems(file: Path, earlier: Earlier) -> Iterator[Problem]:
    """What is wrong with the variables as such."""
    from bssci.core.runtime.config import MASK, Problem

    if not earlier.sources:
        what = "holds no variable of the earlier service, such as LISTEN_PORT=16018"
        yield Problem(str(file), "", what)
    for variable, what in earlier.faults.items():
        yield Problem(str(file), variable, what)
    if not earlier.settings.get("mqtt.password", "").isprintable():
        what = f"found {MASK}, expected one line of text without control characters"
        yield Problem(str(file), "MQTT_PASSWORD", what)


def _located(name: str, text: str, file: Path) -> str:
    """A value; a relative path began in the folder of the `.env`."""
    from bssci.core.runtime.config import KEYS
    from bssci.core.runtime.kinds import File

    is_relative = isinstance(KEYS[name].kind, File) and text and not text.startswith("~")
    return str(file.parent / text) if is_relative else text


def _values(config: Config, earlier: Earlier, folder: Path) -> dict[str, object]:
    """What sc.toml is to say, in its order; paths in its folder are relative."""
    from bssci.core.runtime.config import KEYS

    said = {"server.eui", *earlier.settings} - {"mqtt.password"}
    values = {
        name: _written(getattr(getattr(config, key.section), key.name), folder)
        for name, key in KEYS.items()
        if name in said
    }
    if config.mqtt.password:
        values["mqtt.password_file"] = PASSWORD_FILE
    return {name: values[name] for name in KEYS if name in values}


def _written(value: object, folder: Path) -> object:
    match value:
        case Path() if value.is_relative_to(folder):
            return value.relative_to(folder)
        case float() if value.is_integer():
            return int(value)
        case _:
            return value
