"""`unix_socket`: whose it is, what it replaces, what it leaves alone, and what it removes."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from bssci.core.runtime.unix_socket import MAX_PATH, SocketError, listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def open_umask():
    """Whoever makes a file now makes it for everybody."""
    before = os.umask(0)
    yield
    os.umask(before)


@contextlib.contextmanager
def bound(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        yield other


def leave_dead(path: Path) -> int:
    """What a process that was killed leaves behind."""
    with bound(path):
        return path.stat().st_ino


def can_connect(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        return client.connect_ex(str(path)) == 0


def refusal(path: Path) -> str:
    with pytest.raises(SocketError) as refused, listening(path):
        pass
    assert refused.value.exit_code == 2
    return str(refused.value)


def test_it_listens_while_the_block_lasts_and_then_is_gone(tmp_path):
    path = tmp_path / "control.sock"
    with listening(path):
        during = can_connect(path)
    assert (during, path.exists()) == (True, False)


def test_folders_on_the_way_are_made(tmp_path):
    path = tmp_path / "run" / "state" / "control.sock"
    with listening(path):
        assert can_connect(path)


@pytest.mark.usefixtures("open_umask")
def test_nobody_but_the_owner_may_open_it_whatever_the_umask(tmp_path):
    path = tmp_path / "control.sock"
    with listening(path):
        assert stat.filemode(path.stat().st_mode) == "srw-------"


@pytest.mark.usefixtures("open_umask")
def test_there_is_no_moment_at_which_others_may_open_it(tmp_path, monkeypatch):
    modes = []

    class Watched(socket.socket):
        def bind(self, address) -> None:
            super().bind(address)
            modes.append(stat.S_IMODE(os.stat(address).st_mode))

    monkeypatch.setattr(socket, "socket", Watched)
    with listening(tmp_path / "control.sock"):
        pass
    assert modes == [0o600]


# --- what is there already -------------------------------------------------------------------


def test_what_a_dead_process_has_left_is_replaced(tmp_path):
    path = tmp_path / "control.sock"
    leave_dead(path)
    with listening(path):
        assert can_connect(path)


def test_who_lives_is_not_displaced(tmp_path):
    path = tmp_path / "control.sock"
    with listening(path):
        assert refusal(path) == (
            f"control.socket: another process listens on {path}. "
            "End that one (it may be a `bssci serve` that runs), or set control.socket."
        )
        assert can_connect(path)


def test_who_lives_but_does_not_come_to_the_door_is_not_displaced(tmp_path):
    path = tmp_path / "control.sock"
    with bound(path) as busy, contextlib.ExitStack() as crowd:
        busy.listen(0)
        for _ in range(3):
            client = crowd.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.setblocking(False)
            client.connect_ex(str(path))
        assert refusal(path).startswith(f"control.socket: another process listens on {path}.")


def test_a_socket_of_another_kind_is_not_displaced(tmp_path):
    path = tmp_path / "log"
    with bound(path, socket.SOCK_DGRAM):
        assert refusal(path).startswith(f"control.socket: another process listens on {path}.")


def test_what_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "control.sock"
    path.write_text("dear diary")
    assert refusal(path) == (
        f"control.socket: {path} is there and is not a socket; it is left alone. "
        "Move it away, or set control.socket to another path."
    )
    assert path.read_text() == "dear diary"


def test_a_link_is_left_alone_even_if_it_leads_to_a_dead_socket(tmp_path):
    path = tmp_path / "control.sock"
    leave_dead(tmp_path / "dead")
    path.symlink_to(tmp_path / "dead")
    assert refusal(path).startswith(f"control.socket: {path} is there and is not a socket;")
    assert path.is_symlink()


def test_of_many_that_find_a_dead_one_at_once_exactly_one_listens(tmp_path):
    path = tmp_path / "control.sock"
    leave_dead(path)
    with contextlib.ExitStack() as opened:

        def begin(_: int) -> bool:
            try:
                opened.enter_context(listening(path))
            except SocketError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(begin, range(8))) == 7 * [False] + [True]
        assert can_connect(path)


# --- where it cannot be ----------------------------------------------------------------------


def test_a_path_that_is_too_long_for_the_kernel_is_told_so(tmp_path):
    folder = tmp_path / ("x" * (MAX_PATH - len(os.fsencode(tmp_path)) - len("//a")))
    with listening(folder / "a"):
        assert can_connect(folder / "a")
    path = folder / "ab"
    assert refusal(path) == (
        f"control.socket: {path} has 108 bytes, and a Unix socket's path may have 107. "
        "Set control.socket to a shorter one, for example below /run."
    )


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "state").write_text("")
    path = tmp_path / "state" / "control.sock"
    assert refusal(path) == (
        f"control.socket: cannot listen on {path}: File exists. "
        "Make its folder writable, or set control.socket to another path."
    )


def test_where_folders_cannot_be_locked_it_works_all_the_same(tmp_path, monkeypatch):
    def refuse(*_) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    with listening(tmp_path / "control.sock"):
        assert can_connect(tmp_path / "control.sock")


def test_what_could_not_be_opened_leaves_no_socket_open(tmp_path, monkeypatch):
    def refuse(*_) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", refuse)
    path = tmp_path / "control.sock"
    assert refusal(path).startswith(
        f"control.socket: cannot listen on {path}: Operation not permitted."
    )


# --- the end ---------------------------------------------------------------------------------


def test_what_has_come_in_our_place_is_not_removed(tmp_path):
    path = tmp_path / "control.sock"
    with listening(path):
        path.unlink()
        theirs = leave_dead(path)
    assert path.stat().st_ino == theirs


def test_that_it_was_removed_already_is_no_error(tmp_path):
    path = tmp_path / "control.sock"
    with listening(path):
        path.unlink()
    assert not path.exists()


def test_it_is_removed_also_when_the_block_fails(tmp_path):
    path = tmp_path / "control.sock"
    with pytest.raises(ZeroDivisionError), listening(path):
        _ = 1 / 0
    assert not path.exists()
