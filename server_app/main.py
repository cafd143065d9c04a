"""Opens the market's ledger and θ⁰, runs the strategy, and writes down how it ended."""

import logging
from contextlib import suppress

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from ipfl_flower import logs
from ipfl_flower.ledger import ContractError, Ledger, LedgerError
from ipfl_flower.models import ModelError, load_model
from ipfl_flower.protocol import array_record
from ipfl_flower.receipts import ReceiptError
from ipfl_flower.resume import ResumeError
from ipfl_flower.settings import Settings
from ipfl_flower.strategy import IPFL, MarketError

logger = logging.getLogger(__name__)

app = ServerApp()

# The market ended itself, for a reason that starting it again does not change.
DELIBERATE = (MarketError, ResumeError, ContractError, ModelError, ReceiptError)

_LEVELS = {"stopped": logging.ERROR, "died": logging.ERROR}


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the market that the run's configuration describes."""
    logs.configure()
    logs.note(run=context.run_id)
    settings = Settings.read(context.run_config)
    with Ledger.open(settings.ledger, serve=True) as ledger:
        _note(ledger, "started", f"Flower run {context.run_id}")
        try:
            initial = array_record(load_model(settings.initial_model))
            IPFL(settings, ledger).start(grid, initial)
        except DELIBERATE as error:
            _note(ledger, "stopped", str(error))
            raise
        except BaseException as error:
            # The SuperLink went away, the disk was full, a bug: going on may well be possible.
            with suppress(LedgerError):
                _note(ledger, "died", f"{type(error).__name__}: {error}")
            raise
        _note(ledger, "finished", f"{len(ledger.rounds())} rounds")


def _note(ledger: Ledger, kind: str, text: str) -> None:
    """Note an event in the ledger, and log it."""
    logs.note(market=logs.short(ledger.market))  # None until the market begins
    logger.log(_LEVELS.get(kind, logging.INFO), "%s: %s", kind, text)
    ledger.log_event(kind, text)
