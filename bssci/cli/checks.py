"""What can be wrong with a set-up: files, certificates, disk, clock, limits; a check for each.

A check asks nobody but this machine, may block, and gives one `Finding`. What others have to say
is asked in `probes`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bssci.cli import certs, output

if TYPE_CHECKING:
    from bssci.core.runtime.config import Config

__all__ = ["CHECKS", "Case", "Check", "Finding"]

LEAST_DAYS = 30  # that a certificate should still be good for
SLOW_SYNC = 0.2  # seconds for what is written to be on disk; every uplink waits for that
SYNCS = 5  # of which the middle one counts
OWN_FILES = 200  # descriptors besides those of base stations
RELEASED = 1_704_067_200.0  # Unix time; a clock before 2024 was never set


@dataclass(frozen=True, slots=True)
class Finding:
    """What has come of a check.

    Attributes:
        ok: None: it could not be looked at; `seen` says why.
        seen: what was found.
        advice: what to do; also where all is well, if something is better looked at.
    """

    check: str
    ok: bool | None
    seen: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """What is known before anything is checked.

    Attributes:
        service: what the running service says of itself (`service.info`); None: none answers.
        silence: why none does, and what to do about it.
    """

    config: Config
    service: dict[str, Any] | None
    silence: tuple[str, str] = ("", "")


Check = Callable[[Case], Finding]


# --- certificates ---


def check_files(case: Case) -> Finding:
    """The files are there, can be read, and hold what they should."""
    from bssci.core.runtime.tls import CertificateError, read_certificates, read_key

    tls = case.config.tls
    faults = []
    for read, file in (
        (read_certificates, tls.cert_file),
        (read_key, tls.key_file),
        (read_certificates, tls.ca_file),
    ):
        try:
            read(file)
        except CertificateError as error:
            faults.append(str(error))
    if not faults:
        return Finding("files", True, f"certificate, key and authority in {tls.cert_file.parent}")
    advice = "`bssci certs gen` makes what is missing; what is there is replaced with --force only"
    return Finding("files", False, "; ".join(faults), advice)


def check_pair(case: Case) -> Finding:
    """The key belongs to the certificate."""
    from bssci.core.runtime import tls as room

    tls = case.config.tls
    try:
        room.read_certificates(tls.cert_file)
        room.read_key(tls.key_file)
    except room.CertificateError:
        return _files_first("key match")
    try:
        room.check_pair(tls.cert_file, tls.key_file)
    except room.CertificateError as error:
        advice = "put back the other one, or make both anew: `bssci certs gen --force`"
        return Finding("key match", False, str(error), advice)
    return Finding("key match", True, "the key belongs to the certificate")


def _files_first(check: str) -> Finding:
    return Finding(check, None, "a file cannot be read")


def check_chain(case: Case) -> Finding:
    """Base stations that know the authority will accept the certificate."""
    from bssci.core.runtime.tls import CertificateError, certificate_warnings

    tls = case.config.tls
    try:
        warnings = certificate_warnings(tls.cert_file, tls.ca_file)
    except CertificateError:
        return _files_first("authority")
    if foreign := [each for each in warnings if "does not come from" in each]:
        advice = "`bssci certs gen --force` makes one that does, if ca_key.pem is there"
        return Finding("authority", False, "; ".join(foreign), advice)
    return Finding("authority", True, f"the certificate comes from an authority in {tls.ca_file}")


def check_expiry(case: Case) -> Finding:
    """Certificate and authority are good now, and for a while."""
    from bssci.core.runtime.tls import certificate_facts

    tls = case.config.tls
    facts = certificate_facts(tls.cert_file, tls.ca_file)
    if any("error" in fact for fact in facts):
        return _files_first("expiry")
    ends = [f"{Path(str(fact['file'])).name} {_end(fact)}" for fact in facts]
    bad = [fact for fact in facts if not fact["ok"] or _days(fact) < LEAST_DAYS]
    if not bad:
        return Finding("expiry", True, ", ".join(ends))
    is_early = any(not fact["ok"] and _days(fact) > 0 for fact in bad)
    if is_early:
        advice = "one is not valid yet: set the clock of this machine"
    elif any(fact["file"] == str(tls.ca_file) for fact in bad):
        advice = (
            "`bssci certs renew --ca` begins a change of the authority, in which no base station "
            "is cut off"
        )
    else:
        advice = "`bssci certs renew` makes a new one; base stations notice nothing"
    return Finding("expiry", False, ", ".join(ends), advice)


def _days(fact: dict[str, object]) -> int:
    days = fact["days"]
    assert isinstance(days, int)
    return days


def _end(fact: dict[str, object]) -> str:
    end = fact["not_after"]
    assert isinstance(end, float)
    days = _days(fact)
    if days < 0:
        return f"has expired on {output.moment(end)[:10]}"
    if not fact["ok"]:
        return "is not valid yet"
    return f"until {output.moment(end)[:10]} ({output.plural(days, 'day')})"


def check_names(case: Case) -> Finding:
    """The certificate names something that base stations can connect to."""
    from bssci.core.runtime.tls import CertificateError, certificate_names, is_loopback

    config = case.config
    try:
        names = certificate_names(config.tls.cert_file)
    except CertificateError:
        return _files_first("names")
    advice = "`bssci certs renew --host NAME` with the name or address that they connect to"
    if not names:
        return Finding("names", False, "the certificate names no host and no address", advice)
    seen = f"base stations connect to {' or '.join(names)}"
    if all(map(is_loopback, names)):
        if is_loopback(config.server.host) and config.server.host not in ("0.0.0.0", "::"):
            return Finding("names", True, f"{seen}, from this machine only")
        return Finding("names", False, f"{seen}, which means each its own machine", advice)
    if any(_leads_somewhere(name) for name in names):
        return Finding("names", True, seen)
    seen += "; neither is it a name or an address of this machine, nor can it be resolved here"
    return Finding("names", False, seen, f"{advice}; or it has yet to be entered into the DNS")


def _leads_somewhere(name: str) -> bool:
    """It is ours, an address (of a router, maybe), or DNS knows it."""
    import ipaddress
    import socket

    if name in certs.names_of_this_machine():
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        return True
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False


def check_secrets(case: Case) -> Finding:
    """Nobody else can read the keys."""
    from bssci.core.runtime.authority import ca_key_file

    config = case.config
    files = [ca_key_file(config.tls.ca_file), config.tls.key_file]
    files += [config.mqtt.password_file] if config.mqtt.password_file else []
    there = [file for file in files if file.exists()]
    open_ones = [file for file in there if file.stat().st_mode & 0o077]
    if open_ones:
        seen = ", ".join(f"{file} has mode {file.stat().st_mode & 0o777:04o}" for file in open_ones)
        advice = f"chmod 600 {' '.join(map(str, open_ones))}"
        return Finding("key permissions", False, f"others can read keys: {seen}", advice)
    names = ", ".join(file.name for file in there) or "no key is here"
    return Finding("key permissions", True, f"for their owner only: {names}")


# --- this machine ---


def check_disk(case: Case) -> Finding:
    """There is room, what is written stays, and that does not take too long."""
    store = case.config.store
    folder = next(each for each in store.path.parents if each.exists())
    try:
        took = _time_sync(folder)
        system = os.statvfs(folder)
    except OSError as error:
        advice = "it must belong to the user of the service and be on a disk that takes writes"
        return Finding("disk", False, f"{folder} cannot be written: {error.strerror}", advice)
    free = system.f_bavail * system.f_frsize
    seen = f"{free / 1e6:.0f} MB free in {folder}, {took * 1000:.1f} ms until something is on disk"
    if free < store.min_free:
        advice = (
            f"make room: below {store.min_free / 1e6:.0f} MB (store.min_free) it is warned, and "
            "when it is full uplinks are refused. A shorter store.keep_uplinks helps"
        )
        return Finding("disk", False, seen, advice)
    if took > SLOW_SYNC:
        advice = "each uplink waits for that: take another disk, or find out what it is busy with"
        return Finding("disk", False, seen, advice)
    return Finding("disk", True, seen)


def _time_sync(folder: Path) -> float:
    """Seconds until what is written is on disk."""
    import tempfile
    import time

    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNCS):
            file.write(bytes(4096))
            file.flush()
            begun = time.monotonic()
            os.fsync(file.fileno())
            times.append(time.monotonic() - begun)
    return sorted(times)[SYNCS // 2]


def check_clock(case: Case) -> Finding:
    """The time of this machine can be right."""
    now = output.now()
    seen = f"{output.moment(now)} here, {_sync_state()}"
    advice = "set the clock and keep it so: timedatectl set-ntp true"
    if now < RELEASED:
        return Finding("clock", False, f"{seen}: the clock was never set", advice)
    if (last := _newest(case.config.store.path)) > now + 60:
        seen += f"; it has gone back, the database was written {output.span(last - now)} later"
        return Finding("clock", False, seen, advice)
    return Finding("clock", True, seen, advice if "not kept" in seen else "")


def _newest(path: Path) -> float:
    files = (path, path.with_name(f"{path.name}-wal"))
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


TIME_ERROR = 5  # adjtimex(2): nobody keeps the clock


def _sync_state() -> str:
    """What the kernel knows of NTP, whichever program speaks it."""
    import ctypes

    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024))
    except (OSError, AttributeError):
        state = -1
    if state < 0:
        return "whether NTP keeps it is not known"
    return "not kept by NTP" if state == TIME_ERROR else "kept by NTP"


def check_database(case: Case) -> Finding:
    """It can be opened, and no damage was met."""
    from bssci.core.protocol.errors import BssciError
    from bssci.core.runtime.backup import is_in_use, look

    path = case.config.store.path
    if not path.exists() or not path.stat().st_size:
        return Finding("database", True, f"{path} is yet to be made, by the first start")
    if not os.access(path, os.R_OK | os.W_OK):
        advice = "run this as the user of the service, or give the database to that user"
        return Finding("database", False, f"{path} cannot be opened by this user", advice)
    try:
        version, damage_met = look(path)
    except BssciError as error:
        return Finding("database", False, str(error), "`bssci restore FILE` brings a backup back")
    seen = f"{path}, {path.stat().st_size / 1e6:.1f} MB, tables of version {version}"
    if damage_met:
        advice = "the next start examines it. Make a backup before, and doubt disk and memory"
        return Finding("database", False, f"{seen}; damage was met in it", advice)
    if case.service is None and is_in_use(path):
        seen += "; another process has it, which does not answer at the control socket"
        advice = "end that process (fuser shows it), or name its configuration with -c"
        return Finding("database", False, seen, advice)
    if aside := sorted(path.parent.glob(f"{path.name}.damaged-*")):
        note = f"{aside[-1].name} was damaged and set aside: what is lost can be in it"
        return Finding("database", True, seen, note)
    return Finding("database", True, seen)


def check_limits(case: Case) -> Finding:
    """As many connections can be open as are allowed."""
    needed = case.config.server.max_connections + OWN_FILES
    limit = _file_limit(None if case.service is None else case.service["pid"])
    if limit is None:
        return Finding("file limit", True, "no limit")
    seen = f"{limit} files may be open, {needed} are needed for server.max_connections"
    if limit < needed:
        advice = f"LimitNOFILE={needed} in the unit of the service, or a smaller max_connections"
        return Finding("file limit", False, seen, advice)
    return Finding("file limit", True, seen)


def _file_limit(pid: int | None) -> int | None:
    """To which a process can raise its number of descriptors; ours if it is not known."""
    import resource

    for line in _lines(Path(f"/proc/{pid}/limits")):
        if line.startswith("Max open files"):
            hard = line.split()[4]
            return None if hard == "unlimited" else int(hard)
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard_limit == resource.RLIM_INFINITY else hard_limit


def _lines(file: Path) -> Iterator[str]:
    try:
        yield from file.read_text().splitlines()
    except OSError:
        return


CHECKS: dict[str, Check] = {
    "files": check_files,
    "key match": check_pair,
    "authority": check_chain,
    "expiry": check_expiry,
    "names": check_names,
    "key permissions": check_secrets,
    "disk": check_disk,
    "clock": check_clock,
    "database": check_database,
    "file limit": check_limits,
}
"""In the order in which they are told."""
