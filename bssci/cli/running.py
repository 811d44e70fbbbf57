"""The running service, for commands that do their work on files also while it does not run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from bssci.cli import output

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bssci.core.runtime.config import Config

__all__ = ["ask", "reload", "tell"]


def ask(loaded: Config, method: str, **params: object) -> Any:  # noqa: ANN401  # the method's
    """What the running service answers; None if none runs.

    Raises:
        UnreachableError: one is there, but cannot be talked to.
        RequestError: it refuses.
    """
    if not os.path.exists(loaded.control.socket):
        return None
    from bssci.cli import remote  # which has its options from the commands that need this
    from bssci.core.runtime.client import UnreachableError

    try:
        return remote.ask(None, loaded.control.socket, method, **params)
    except UnreachableError as error:
        if isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError):
            return None  # a dead service has left its socket
        raise


def reload(loaded: Config, kept: Sequence[Path] = ()) -> bool:
    """Have the running service read its certificates again; False if none runs.

    Raises:
        RequestError: it does not take them, and goes on with those it has.
    """
    from bssci.core.center.rpc import RequestError

    try:
        return ask(loaded, "certs.reload") is not None
    except RequestError as error:
        raise RequestError(
            f"the new files are in place, but the running service does not take them: {error}",
            hint="the old ones are kept: " + ", ".join(map(str, kept)) if kept else error.hint,
        ) from error


def tell(*, is_running: bool) -> None:
    """What the service makes of new files."""
    if is_running:
        output.note("the running service uses it from the next connection on")
    else:
        output.note(
            "the service does not run; it will use it when it starts. (One that was not found at "
            "its control socket takes it after SIGHUP.)"
        )
