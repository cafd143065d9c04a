"""The same service inside the process that asks it, for a node that names no trainer."""

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from ipfl_flower.trainer.loaded import LoadedInstitution
from ipfl_flower.trainer.server import Listen, listening
from ipfl_flower.trainer.service import ServiceOptions, TrainerService
from ipfl_flower.trainer_api import Address

_START_DEADLINE_S = 60.0
_END_DEADLINE_S = 600.0

_Started: TypeAlias = tuple[asyncio.Event, asyncio.AbstractEventLoop]


@contextmanager
def embedded_trainer(institution: Path) -> Iterator[str]:
    """Serve an institution from a thread; give the address, in a folder of this user's alone.

    Parameters
    ----------
    institution
        The institution.toml.

    Raises
    ------
    InstitutionError, TaskError, TaskDataError
        The institution can't be loaded.
    """
    loaded = LoadedInstitution(institution)
    try:
        loaded.refresh()
        with tempfile.TemporaryDirectory(prefix="ipfl-trainer-") as folder:
            address = Address(socket=Path(folder, "trainer.sock"))
            started: Future[_Started] = Future()
            thread = threading.Thread(
                target=lambda: asyncio.run(_serve(loaded, address, started)), name="trainer-server"
            )
            thread.start()
            stop, loop = started.result(_START_DEADLINE_S)
            try:
                yield str(address)
            finally:
                loop.call_soon_threadsafe(stop.set)
                thread.join()
    finally:
        loaded.close()


async def _serve(
    loaded: LoadedInstitution,
    address: Address,
    started: "Future[_Started]",
) -> None:
    stop = asyncio.Event()
    try:
        service = TrainerService(loaded, ServiceOptions())
        async with listening(service, Listen(address)) as server:
            await server.set_serving(serving=True)
            started.set_result((stop, asyncio.get_running_loop()))
            await stop.wait()
            # Whoever asked has its answer, or has gone: then the fit is finished for the next time.
            await server.stop(_END_DEADLINE_S)
    except BaseException as error:
        if not started.done():
            started.set_exception(error)
        raise
