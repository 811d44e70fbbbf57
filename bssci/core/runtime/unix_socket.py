"""A Unix socket to listen on: nobody but its owner can open it, and it cleans up after itself."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from typing import TYPE_CHECKING, ClassVar

from bssci.core.protocol.errors import BssciError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["MAX_PATH", "SocketError", "listening"]

MAX_PATH = 107  # bytes; sun_path of unix(7) has 108, and the last is zero

MODE = 0o600  # whoever can write to the socket can do everything

BACKLOG = 128


class SocketError(BssciError):
    """The control socket cannot be opened: which, why, and what to do about it."""

    exit_code: ClassVar[int] = 2


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A socket that listens at a path while the block lasts; then the file is removed.

    Folders on the way are made. A file that a dead process has left there is replaced; nothing
    else ever is, and at the end nothing is removed that has come in our place.

    Raises:
        SocketError: says why it cannot listen there, and what to do.
    """
    with _open(path) as listener:
        ours = _identity(path)
        try:
            yield listener
        finally:
            # Before it is closed: until then nobody else's file can have our inode's number.
            if _identity(path) == ours:
                path.unlink(missing_ok=True)


def _open(path: Path) -> socket.socket:
    _check_length(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(path.parent):
            _make_room(path)
            return _bound(path)
    except OSError as error:
        raise SocketError(
            f"control.socket: cannot listen on {path}: {error.strerror or error}. "
            "Make its folder writable, or set control.socket to another path."
        ) from error


def _check_length(path: Path) -> None:
    length = len(os.fsencode(path))
    if length > MAX_PATH:
        raise SocketError(
            f"control.socket: {path} has {length} bytes, and a Unix socket's path may have "
            f"{MAX_PATH}. Set control.socket to a shorter one, for example below /run."
        )


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Of two services that start at once, only one may take a socket for a dead one's."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # a file system that cannot lock folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_room(path: Path) -> None:
    """Remove what a dead process has left."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise SocketError(
            f"control.socket: {path} is there and is not a socket; it is left alone. "
            "Move it away, or set control.socket to another path."
        )
    if not _is_dead(path):
        raise SocketError(
            f"control.socket: another process listens on {path}. "
            "End that one (it may be a `bssci serve` that runs), or set control.socket."
        )
    path.unlink(missing_ok=True)


def _is_dead(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # who has many waiting at the door is alive
        return probe.connect_ex(str(path)) in (errno.ECONNREFUSED, errno.ENOENT)


def _bound(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux makes the file with the mode of the socket: there is no moment at which others
        # could open it, and no umask to change under the other threads.
        os.fchmod(listener.fileno(), MODE)
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
