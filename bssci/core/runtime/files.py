"""Files that are replaced whole or not at all, and old ones that are kept."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

__all__ = ["keep_old", "write_file"]


def write_file(file: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put data into a file. It is on disk, and complete under its name, when this returns.

    Folders on the way are made. Nobody sees the content earlier than the mode.

    Raises:
        OSError: it could not be written; what was there before still is.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.replace(name, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    """The new name, too, must survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_old(file: Path, now: datetime) -> Path:
    """Give a file a second name, with the time in it, under which it stays when it is replaced.

    Raises:
        OSError: that is not possible.
    """
    number = 0
    while True:
        again = f"-{number}" if number else ""
        kept = file.with_name(f"{file.stem}.{now:%Y%m%dT%H%M%S}{again}{file.suffix}")
        number += 1
        if os.path.lexists(kept):
            continue
        try:
            os.link(file, kept)
        except FileExistsError:
            continue
        except OSError:  # a file system without hard links
            shutil.copy2(file, kept)
        return kept
