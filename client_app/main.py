"""The bridge between Flower and the institution's trainer: a message in, a message out.

No torch and no data here: both are the trainer's, which the SuperNode's node config names.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from ipfl_flower import logs
from ipfl_flower.protocol import Reply, Request, request_id
from ipfl_flower.trainer_api import FitCall, Progress, Tls, TrainerClient

logger = logging.getLogger(__name__)

app = ClientApp()


@app.train()
@app.evaluate()
def serve(message: Message, context: Context) -> Message:
    """Answer one message of the market: train in a round, judge the centre at the last delivery."""
    logs.configure("ipfl: %(message)s")
    name = request_id(message.metadata.message_id)
    with logs.context(run=context.run_id, request=name) as about:
        try:
            request = Request.from_records(message.content)
            about(market=request.market, round=request.round, institution=request.institution)
            logger.info("round %d: asked", request.round)
            reply = _reply(request, name, message, context)
        except Exception as error:
            # Flower logs it, too, but not of which request.
            logger.error("failed: %s: %s", type(error).__name__, error)  # noqa: TRY400
            raise
        logger.info("round %d: answered", request.round)
    return Message(reply.to_records(), reply_to=message)


def _reply(request: Request, name: str, message: Message, context: Context) -> Reply:
    call = FitCall(
        round=request.round,
        train=request.train,
        role=request.role,
        arrays=request.arrays,
        coefficient=request.coefficient,
        start=request.start,
        statement=request.statement,
        task=request.task,
        market=request.market,
        request=name,
    )
    with _trainer(context.node_config) as client:
        answer = client.fit(call, deadline_s=message.metadata.ttl, on_progress=_log)
    return Reply(
        round=request.round,
        arrays=answer.arrays,
        terms=answer.terms,
        leaving=answer.leaving,
        metrics=answer.metrics,
    )


@contextmanager
def _trainer(config: Mapping[str, Any]) -> Iterator[TrainerClient]:
    """Connect to the trainer that the node config names, or to one in this process."""
    address, institution = _text(config, "trainer"), _text(config, "institution")
    if address is not None:
        with TrainerClient(address, _tls(config)) as client:
            yield client
    elif institution is not None:
        # Only here: a node that names a trainer has neither torch nor data.
        from ipfl_flower.trainer.embedded import embedded_trainer  # noqa: PLC0415

        with embedded_trainer(Path(institution)) as here, TrainerClient(here) as client:
            yield client
    else:
        raise TypeError(
            "the SuperNode's node config names no trainer: start it with "
            "--node-config 'trainer=\"unix:///path/to/trainer.sock\"', or for one in this process "
            "with --node-config 'institution=\"/path/to/institution.toml\"'"
        )


def _tls(config: Mapping[str, Any]) -> Tls | None:
    names = ("trainer-ca", "trainer-certificate", "trainer-key")
    files = {name: text for name in names if (text := _text(config, name)) is not None}
    if not files:
        return None
    missing = [name for name in names if name not in files]
    if missing:
        raise TypeError(f"the SuperNode's node config lacks {', '.join(missing)}: TLS needs all")
    return Tls(*(Path(files[name]) for name in names))


def _text(config: Mapping[str, Any], name: str) -> str | None:
    value = config.get(name)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} in the SuperNode's node config must be text, is {value!r}")
    return value


def _log(progress: Progress) -> None:
    logger.debug(
        "trainer: %s, %d of %d, %.0f s",
        progress.phase,
        progress.done,
        progress.of,
        progress.seconds,
    )
