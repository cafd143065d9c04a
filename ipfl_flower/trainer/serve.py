"""``ipfl trainer``: an institution's trainer as a process that stays.

python -m ipfl_flower.trainer.serve institution.toml --listen unix:///run/ipfl/trainer.sock
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ipfl_flower import logs
from ipfl_flower.tasks import TaskDataError, TaskError
from ipfl_flower.trainer.errors import InstitutionError
from ipfl_flower.trainer.loaded import LoadedInstitution
from ipfl_flower.trainer.server import Listen, listening
from ipfl_flower.trainer.service import ServiceOptions, TrainerService
from ipfl_flower.trainer_api import Address, AddressError, Tls

logger = logging.getLogger("ipfl_flower.trainer.serve")  # not __main__

_PERIOD_S_MIN = 0.01


async def serve(
    institution: Path, listen: Listen, options: ServiceOptions, *, grace_s: float
) -> bool:
    """Serve until SIGTERM or SIGINT; tell whether all that had begun has ended.

    Parameters
    ----------
    institution
        The institution.toml.
    listen
        Where, and for whom.
    options
        The service's patience.
    grace_s
        How long a fit may go on after the signal. One that is abandoned has committed nothing.

    Raises
    ------
    InstitutionError, TaskError, TaskDataError
        The institution can't be loaded.
    AddressError
        It can't listen there.
    """
    loaded = LoadedInstitution(institution)
    service = TrainerService(loaded, options)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with listening(service, listen) as server:
        loading = asyncio.ensure_future(service.load())
        stopping = asyncio.ensure_future(stopped.wait())
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            name = loading.result().institution.name
            await server.set_serving(serving=True)
            logs.note(institution=name)
            logs.announce(f"serving {name} on {server.address}")
            await stopping
        logger.info("stopping: nothing new is begun, what runs has %g s to end", grace_s)
        return await server.stop(grace_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve; return the exit status."""
    given = _parser().parse_args(arguments)
    try:
        logs.configure("%(asctime)s %(levelname)s %(message)s")
        listen = _listen(given)
        options = ServiceOptions(
            waiting_max=given.waiting_max,
            waiting_s=given.waiting_s,
            idle_s=given.idle_s,
            progress_s=given.progress_s,
        )
        ended = asyncio.run(serve(given.institution, listen, options, grace_s=given.grace_s))
    except (
        AddressError,
        InstitutionError,
        logs.LogSettingError,
        TaskDataError,
        TaskError,
    ) as error:
        logs.fail(f"error: {error}")
        return 1
    if not ended:
        logger.warning("abandoned a fit: it will be trained when it is asked for again")
        # Its thread can't be ended otherwise.
        logging.shutdown()
        os._exit(0)
    return 0


def _listen(given: argparse.Namespace) -> Listen:
    files = (given.client_ca, given.certificate, given.key)
    if any(files) and not all(files):
        raise AddressError("TLS needs all of --certificate, --key and --client-ca")
    beside = given.institution.resolve().parent / "trainer.sock"
    return Listen(
        Address.parse(given.listen or f"unix://{beside}"),
        Tls(*files) if all(files) else None,
        given.socket_group,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ipfl_flower.trainer.serve")
    patience = ServiceOptions()
    parser.add_argument("institution", type=Path, help="the institution.toml")
    parser.add_argument("--listen", help="unix:///path or host:port; default: trainer.sock beside")
    parser.add_argument("--certificate", type=Path, help="this trainer's, PEM")
    parser.add_argument("--key", type=Path, help="of the certificate, PEM")
    parser.add_argument("--client-ca", type=Path, help="who signed the clients' certificates, PEM")
    parser.add_argument("--socket-group", help="whose members may use the Unix socket, too")
    parser.add_argument("--waiting-max", type=_count, default=patience.waiting_max)
    parser.add_argument("--waiting-s", type=_seconds, default=patience.waiting_s)
    parser.add_argument("--idle-s", type=_period, default=patience.idle_s)
    parser.add_argument("--progress-s", type=_period, default=patience.progress_s)
    parser.add_argument("--grace-s", type=_seconds, default=20.0)
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be ≥ 0, is {text}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be ≥ 0 and finite, is {text}")
    return value


def _period(text: str) -> float:
    value = _seconds(text)
    if value < _PERIOD_S_MIN:
        raise argparse.ArgumentTypeError(f"must be ≥ {_PERIOD_S_MIN}, is {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
