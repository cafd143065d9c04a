"""The bridge between Flower and the institution's trainer: a message in, a message out."""

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from ipfl_flower.protocol import Reply, Request
from ipfl_flower.trainer import FitRequest, Institution, Trainer

app = ClientApp()


@app.train()
@app.evaluate()
def serve(message: Message, context: Context) -> Message:
    """Answer one message of the market: train in a round, judge the centre at the last delivery."""
    request = Request.from_records(message.content)
    reply = Trainer(_institution(context)).fit(
        FitRequest(
            round=request.round,
            centre=request.arrays if request.role == "centre" else None,
            initial=request.arrays if request.role == "initial" else None,
            coefficient=request.coefficient,
            start=request.start,
            train=request.train,
            receipt=request.statement,
        )
    )
    answer = Reply(
        round=request.round,
        arrays=reply.arrays,
        terms=reply.terms,
        leaving=reply.leaving,
        metrics=reply.metrics,
    )
    return Message(answer.to_records(), reply_to=message)


def _institution(context: Context) -> Institution:
    path = context.node_config.get("institution")
    if not isinstance(path, str):
        raise TypeError(
            "the SuperNode's node config names no institution file: start it with "
            "--node-config 'institution=\"/path/to/institution.toml\"'"
        )
    return Institution.load(Path(path))
