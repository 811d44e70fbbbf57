"""`bssci migrate`: a working folder of ours, made from the folder of the earlier service.

Its base stations go on with what they have: the Service Center shows the certificate that they
know. But the private key of the earlier authority came with the source of the earlier service, for
everybody to read. So it signs nothing any more, and a new authority is there beside it from the
start; the change is half done then, and ends when every base station has new files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from bssci.cli import certs, earlier, output, remote, settings
from bssci.core.protocol.errors import BssciError

if TYPE_CHECKING:
    from bssci.core.center.earlier import Env
    from bssci.core.runtime.config import Config, Tls

__all__ = ["migrate"]

Fields = dict[str, Any]

# Variable, and where the file was when it was not set.
CERTIFICATES = {
    "CERT_FILE": "certs/service_center_cert.pem",
    "KEY_FILE": "certs/service_center_key.pem",
    "CA_FILE": "certs/ca_cert.pem",
}
CHUNK = 500  # sensors that are registered in one transaction
MAX_SHOWN = 20  # files that are named as left

PUBLISHED = (
    "The private key of the earlier authority came with the source of the earlier service. Whoever "
    "has it can make a certificate with which anything gets in here as any base station, and can "
    "pass for this Service Center. Its base stations may also all share one certificate: then it "
    "does not tell which of them calls."
)
UNTIL_THEN = (
    "Until every base station has new files and the old authority is dropped, that stays so: let "
    "only the networks of your base stations reach the port."
)


class MigrateError(BssciError):
    """A folder that cannot be taken over; says why and what to do."""

    exit_code: ClassVar[int] = 2


def migrate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Of the earlier service: with .env, endpoints.json and certs. It is only read.",
        ),
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to put it all; made if need be.")
    ] = Path(),
    host: certs.Host = None,
    new_ca: Annotated[
        bool,
        typer.Option(
            "--new-ca",
            help="Take no certificates over. Base stations connect once they have new ones.",
        ),
    ] = False,
    force: certs.Force = False,
    as_json: remote.Json = False,
) -> None:
    """Take over the earlier service: its settings, its sensors and its certificates.

    Base stations go on with the certificates they have, and a new authority is made beside the
    earlier one, which must not be trusted for long: the output says why. Sensors are registered;
    base stations are told of them when they connect. --host is for a new certificate of the
    Service Center, where one is made.

    \b
    Exit codes: 0 all was taken over, 6 some sensors were not, 2 nothing was done.

    Example: bssci migrate /opt/mioty /srv/bssci
    """
    source, folder = source.absolute(), folder.absolute()
    made = _Migration(source, folder, host or [], new_ca=new_ca, force=force).run()
    if as_json:
        output.show_json(made.as_json())
    else:
        output.show(made.as_text())
        output.note(made.remarks())
    raise typer.Exit(remote.SOME_FAILED if made.failed else 0)


# --- what has come of it ---


@dataclass(frozen=True, slots=True)
class Migrated:
    """What was done, and what is left to do."""

    moved: earlier.Moved
    tls: Tls
    is_carried: bool
    rows: tuple[Fields, ...]
    left: tuple[Path, ...]
    kept: tuple[Path, ...]

    @property
    def failed(self) -> list[Fields]:
        return [row for row in self.rows if row["result"] == "error"]

    def as_json(self) -> Fields:
        done = len(self.rows) - len(self.failed)
        told = self.moved.as_json()
        return told | {
            "certificates": {
                "carried": self.is_carried,
                "cert_file": str(self.tls.cert_file),
                "ca_file": str(self.tls.ca_file),
            },
            "sensors": {"done": done, "failed": len(self.failed), "rows": self.failed},
            "left_files": [str(file) for file in self.left],
            "warnings": self._warnings(),
            "next": [command for command, _ in self._next()],
            "kept": [*told["kept"], *map(str, self.kept)],
        }

    def as_text(self) -> str:
        from bssci.core.protocol.eui import format_eui

        done = output.plural(len(self.rows) - len(self.failed), "sensor")
        rows = [
            ("configuration", str(self.moved.config_file)),
            ("Service Center EUI", format_eui(self.moved.config.server.eui)),
            ("certificate", f"{self.tls.cert_file}, {'as before' if self.is_carried else 'new'}"),
            ("authority", f"{self.tls.ca_file}, {self._authority()}"),
            ("sensors", f"{done} registered"),
        ]
        lines = [output.columns(rows), "", self.moved.as_text()]
        lines += [
            f"row {row['row']}  {row['eui'] or output.NOTHING}  {row['error']}"
            for row in self.failed
        ]
        return "\n".join(lines)

    def _authority(self) -> str:
        return "the earlier one and a new one" if self.is_carried else "new"

    def remarks(self) -> str:
        """What is left, what to beware of, what to do next."""
        import textwrap

        env, known = self.moved.env, self.moved.earlier
        told = [f"Kept: {file}" for file in (*self.moved.kept, *self.kept)]
        if known.left:
            told.append(f"Left out, there is no such setting: {', '.join(known.left)}")
        if env.unread:
            told.append(f"Left out, it assigns nothing: line {', '.join(map(str, env.unread))}")
        told += [f"Not taken over: {file}" for file in self.left]
        warned = [textwrap.fill(each, 80) for each in self._warnings()]
        steps = [(f"{number}.", *step) for number, step in enumerate(self._next(), 1)]
        return "\n\n".join(
            part
            for part in (
                "\n".join(told),
                *(f"WARNING: {each}" if not place else each for place, each in enumerate(warned)),
                f"Next:\n{output.columns(steps)}",
            )
            if part
        )

    def _warnings(self) -> list[str]:
        return [PUBLISHED, UNTIL_THEN] if self.is_carried else [PUBLISHED]

    def _next(self) -> Iterator[tuple[str, str]]:
        option = f" -c {self.moved.config_file}"
        port = self.moved.config.server.port
        if not self.is_carried:
            yield f"bssci certs station EUI{option}", "for each base station: put the files on it"
        yield f"bssci serve{option}", f"after the earlier service has let go of port {port}"
        yield f"bssci doctor{option}", "is everything as it should be?"
        if self.failed:
            yield f"bssci sensors import FILE{option}", "those that were not taken, once corrected"
        if self.is_carried:
            yield (
                f"bssci certs renew --station EUI{option}",
                "for each base station: put the files on it",
            )
            yield f"bssci certs renew --ca --finish{option}", "then: the earlier authority goes"


# --- doing it ---


class _Migration:
    def __init__(
        self, source: Path, folder: Path, hosts: Sequence[str], *, new_ca: bool, force: bool
    ) -> None:
        from bssci.core.center.earlier import read_env

        if source.resolve() == folder.resolve():
            raise MigrateError(
                f"{folder} is the folder of the earlier service itself; name another one as DIR, "
                "so that you can go back"
            )
        self._env_file = source / ".env"
        if not self._env_file.is_file():
            raise MigrateError(
                f"{self._env_file} is not there. Name the folder of the earlier service; where it "
                "got its variables otherwise, write them into that file"
            )
        self._source, self._folder = source, folder
        self._hosts, self._new_ca, self._force = hosts, new_ca, force
        self._env = read_env(earlier.text_of(self._env_file))

    def run(self) -> Migrated:
        """Do it. All that can be wrong is looked for before anything is written."""
        self._refuse_if_it_runs()
        files = None if self._new_ca else self._found()
        rows = self._sensors()
        tls = settings.tls_in(self._folder)
        written = [tls.cert_file, tls.key_file, tls.ca_file]
        certs.refuse_to_overwrite([self._folder / "sc.toml", *written], force=self._force)
        kept = self._make_certificates(tls, files)
        moved = self._move()
        (self._folder / "state").mkdir(mode=0o700, exist_ok=True)
        results = remote.run(lambda: _register(moved.config, rows))
        left = tuple(self._left(files))
        return Migrated(moved, tls, files is not None, tuple(results), left, kept)

    def _refuse_if_it_runs(self) -> None:
        from bssci.core.runtime.backup import is_in_use
        from bssci.core.runtime.config import Store

        path = self._folder / Store().path
        if is_in_use(path):
            raise MigrateError(f"{path} is in use: a service runs in {self._folder}; stop it first")

    # --- certificates ---

    def _found(self) -> Tls | None:
        """The earlier certificates, checked; None: there are none.

        Raises:
            CertificateError: they cannot be used.
        """
        from bssci.core.runtime.tls import CertificateError, check_pair, read_certificates

        found = [self._located(name, usual) for name, usual in CERTIFICATES.items()]
        if not any(file.exists() for file in found):
            return None
        cert_file, key_file, ca_file = found
        try:
            check_pair(cert_file, key_file)
            read_certificates(ca_file, "CA file")
        except CertificateError as error:
            raise CertificateError(
                f"{error}. With --new-ca no certificate is taken over, and new ones are made"
            ) from error
        usual_tls = settings.tls_in(self._folder)
        return replace(usual_tls, cert_file=cert_file, key_file=key_file, ca_file=ca_file)

    def _located(self, variable: str, usual: str) -> Path:
        """Where a file is: as the variable says, or, if that was true in a container only, here."""
        named = self._source / self._env.variables.get(variable, usual)
        return named if named.exists() else self._source / usual

    def _make_certificates(self, tls: Tls, found: Tls | None) -> tuple[Path, ...]:
        """Put them in place; gives where older ones are kept."""
        from datetime import UTC, datetime

        from bssci.core.runtime.authority import ca_key_file, load_pair, write_pair
        from bssci.core.runtime.files import keep_old, write_file
        from bssci.core.runtime.succession import begin

        if found is None:
            made = certs.generate(tls, self._hosts, force=self._force, new_ca=True)
            settings.write_gitignore(tls.ca_file.parent)
            return made.kept
        settings.write_gitignore(tls.ca_file.parent)
        kept: list[Path] = []
        for file in (tls.ca_file, ca_key_file(tls.ca_file)):
            if file.exists():
                kept.append(keep_old(file, datetime.now(UTC)))
                file.unlink()
        write_file(tls.ca_file, found.ca_file.read_bytes())
        # What this keeps of a moment ago stays: by it the change is known to be under way.
        kept += begin(tls.ca_file)
        pair = load_pair(found.cert_file, found.key_file)
        return (*kept, *write_pair(pair, tls.cert_file, tls.key_file, force=self._force))

    # --- settings ---

    def _move(self) -> earlier.Moved:
        from bssci.core.center.earlier import translate

        others = {k: text for k, text in self._env.variables.items() if k not in CERTIFICATES}
        env: Env = replace(self._env, variables=others)
        meant = translate(env)
        target = self._folder / "sc.toml"
        return earlier.move(self._env_file, env, meant, target, force=self._force)

    # --- sensors ---

    def _sensors(self) -> Sequence[Fields]:
        from bssci.core.center.earlier import translate
        from bssci.core.runtime.sheets import MAX_SHEET, read_sheet

        file = self._sensors_file(translate(self._env).sensors_file)
        if file is None:
            return ()
        with file.open("rb") as stream:
            data = stream.read(MAX_SHEET + 1)
        # It had an empty list for none.
        return read_sheet(data, name=str(file)).rows if data.strip() else ()

    def _sensors_file(self, named: str | None) -> Path | None:
        places = [self._source / named] if named else []
        places.append(self._source / earlier.SENSORS_FILE)
        return next((file for file in places if file.is_file()), None)

    # --- what is not taken ---

    def _left(self, found: Tls | None) -> Iterator[Path]:
        taken = set() if found is None else {found.cert_file, found.key_file, found.ca_file}
        folder = self._source / "certs"
        if not folder.is_dir():
            return
        files = sorted(file for file in folder.iterdir() if file.suffix in (".pem", ".crt", ".key"))
        yield from [file for file in files if file not in taken][:MAX_SHOWN]


async def _register(config: Config, rows: Sequence[Fields]) -> list[Fields]:
    """Have the sensors registered by the service itself, with its doors as good as shut."""
    import logging
    import tempfile

    import trio

    from bssci.core.runtime.config import load_config
    from bssci.core.runtime.service import ServiceCenter

    if not rows:
        return []
    results: list[Fields] = []
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="bssci-") as name:
        shut = {
            "server.host": "127.0.0.1",
            "server.port": 0,
            "mqtt.enabled": False,
            "control.socket": os.path.join(name, "s"),
        }
        center = ServiceCenter(load_config(config.file, environ={}, options=shut, overlay={}))
        logging.disable(logging.CRITICAL)  # there is nothing that the operator should know
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(center.run)
                for start in range(0, len(rows), CHUNK):
                    chunk = [dict(row) for row in rows[start : start + CHUNK]]
                    done = await center.sensors.import_(rows=chunk)
                    shown = done["rows"]
                    assert isinstance(shown, list)
                    results += shown
                center.stop()
        finally:
            logging.disable(logging.NOTSET)
    return results
