"""``ipfl track``: a market's figures in an experiment tracker, read from its ledger."""

import signal
import threading
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from ipfl_flower import logs
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.cli.tracking.figures import (
    Institution,
    Market,
    Tracker,
    institution_point,
    is_settled,
    market_point,
)
from ipfl_flower.ledger import Ledger, State

FOLLOW_EVERY_S = 2.0
CHUNK = 25
Kind: TypeAlias = Literal["mlflow", "tensorboard"]


def track(
    ledger: Annotated[str, typer.Argument(help="The ledger: a file or a database URL.")],
    *,
    to: Annotated[Kind, typer.Option(help="Which tracker.")],
    folder: Annotated[
        Path | None, typer.Option(help="Where it keeps its files; they need no network.")
    ] = None,
    uri: Annotated[
        str | None, typer.Option(help="Instead: of an MLflow tracking server or database.")
    ] = None,
    experiment: Annotated[str, typer.Option(help="MLflow's, for the runs.")] = "ipfl",
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with rounds to come, until SIGTERM.")
    ] = False,
) -> None:
    """Write the settled rounds of a market to MLflow or TensorBoard; again, only what is new."""
    logs.configure("%(message)s")
    tracker = make_tracker(to, folder, uri, experiment)
    over = threading.Event()
    if follow:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: over.set())
    try:
        with Ledger.open(ledger, create=False) as book:
            following = Following(book, tracker)
            if not following.write() and not follow:
                raise LaunchError(f"{book.name}: no round is settled yet: try again, or --follow")
            logs.announce(f"{following.rounds} rounds of {book.name} are in {tracker.place}")
            while follow and not over.wait(FOLLOW_EVERY_S):
                following.write()
    finally:
        tracker.close()


def make_tracker(kind: Kind, folder: Path | None, uri: str | None, experiment: str) -> Tracker:
    """Return the tracker that the options name; its library is only imported here.

    Raises
    ------
    LaunchError
        If the options don't go together, or the library is not installed.
    """
    if kind == "tensorboard":
        if folder is None or uri is not None:
            raise LaunchError("TensorBoard reads files: give --folder, and no --uri")
        from ipfl_flower.cli.tracking.tensorboard import TensorBoardTracker  # noqa: PLC0415

        return TensorBoardTracker(folder)
    where = uri if folder is None else folder
    if where is None or (folder is not None and uri is not None):
        raise LaunchError("give --folder for a database in it, or --uri of a tracking server")
    from ipfl_flower.cli.tracking.mlflow import MlflowTracker  # noqa: PLC0415

    return MlflowTracker(where, experiment)


class Following:
    """Writes a ledger's settled rounds to a tracker, each once.

    Parameters
    ----------
    ledger : Ledger
        Opened to read.
    tracker : Tracker

    Attributes
    ----------
    rounds : int
        Settled rounds so far.
    """

    def __init__(self, ledger: Ledger, tracker: Tracker) -> None:
        self.rounds = 0
        self._ledger = ledger
        self._tracker = tracker
        self._next = 0
        self._market: Market | None = None
        self._finished: bool | None = None

    def write(self) -> int:
        """Write what has been settled since the last call; return how many rounds that were."""
        before = self.rounds
        while self._write_chunk():
            pass
        finished = self._is_finished()
        if self._market and (before, self._finished) != (self.rounds, finished):
            self._tracker.flush(finished=finished)
            self._finished = finished
        return self.rounds - before

    def _write_chunk(self) -> bool:
        """Write some rounds; tell whether there are more."""
        histories = self._ledger.history(self._next, CHUNK)
        names = {item.id: item.name for item in self._ledger.institutions()}
        for history in histories:
            if history.state in (State.OPEN, State.COLLECTING):
                return False
            market = self._market or self._begun(history.steps[State.OPEN])
            self._next = history.number + 1
            if is_settled(history):
                self.rounds += 1
                self._tracker.write(market, None, market_point(history))
                for i in sorted(history.outcomes):
                    whose = Institution(i, names[i])
                    self._tracker.write(market, whose, institution_point(history, i))
        return len(histories) == CHUNK

    def _begun(self, began_at: float) -> Market:
        self._market = Market(self._ledger.market or "", self._ledger.settings or {}, began_at)
        logs.note(market=logs.short(self._market.id))
        return self._market

    def _is_finished(self) -> bool:
        """Tell whether the market has come to its end: one that was stopped may be resumed."""
        kinds = [event.kind for event in self._ledger.events()]
        last = next((kind for kind in reversed(kinds) if kind in ("started", "finished")), "")
        return last == "finished"
