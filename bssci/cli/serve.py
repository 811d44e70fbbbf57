"""The command that runs the service: signals in, exit code out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import trio

    from bssci.core.runtime.service import ServiceCenter

__all__ = ["serve"]


def serve(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="Configuration. Default: ./sc.toml, then the user's, then /etc/bssci/sc.toml.",
        ),
    ] = None,
) -> None:
    """Run the Service Center until SIGTERM or Ctrl-C.

    Both stop it in order, within 5 seconds. SIGHUP reads configuration and certificates again:
    certificates are used from the next connection on; the log says which settings need a restart.

    Example: bssci serve -c /etc/bssci/sc.toml
    """
    import contextlib
    import gc

    import trio

    from bssci.core.runtime.config import load_config
    from bssci.core.runtime.log import logging_to, time_zone
    from bssci.core.runtime.service import ServiceCenter, StartError

    settings = load_config(config)
    log = settings.log
    with contextlib.ExitStack() as logs:
        try:
            zone = time_zone(log.timezone)
            logs.enter_context(
                logging_to(level=log.level, form=log.format, zone=zone, file=log.file)
            )
        except OSError as error:
            raise StartError(f"log.file: {log.file} cannot be written: {error.strerror}") from error
        # Uplinks live for seconds and hold no cycles: look for garbage rarely, and never again at
        # what lasts as long as the process.
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        trio.run(_serve, ServiceCenter(settings), config)


async def _serve(center: ServiceCenter, file: Path | None) -> None:
    import trio

    async with trio.open_nursery() as nursery:
        await nursery.start(_heed_signals, center, file)
        await center.run()
        nursery.cancel_scope.cancel()


async def _heed_signals(
    center: ServiceCenter, file: Path | None, *, task_status: trio.TaskStatus[None]
) -> None:
    import signal

    import trio

    stopping = (signal.SIGTERM, signal.SIGINT)
    with trio.open_signal_receiver(*stopping, signal.SIGHUP) as numbers:
        task_status.started()
        async for number in numbers:
            if number in stopping:
                center.stop()
            else:
                _reload(center, file)


def _reload(center: ServiceCenter, file: Path | None) -> None:
    from bssci.core.protocol.errors import BssciError
    from bssci.core.runtime.config import load_config

    try:
        center.reload(load_config(file))
    except BssciError as error:
        logging.getLogger(__name__).error("not reloaded, nothing is changed: %s", error)
