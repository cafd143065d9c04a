"""Opens the market's ledger and θ⁰, runs the strategy, and writes down how it ended."""

import logging

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from ipfl_flower.ledger import Ledger
from ipfl_flower.models import load_model
from ipfl_flower.protocol import array_record
from ipfl_flower.settings import Settings
from ipfl_flower.strategy import IPFL

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the market that the run's configuration describes."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    settings = Settings.read(context.run_config)
    with Ledger.open(settings.ledger, serve=True) as ledger:
        ledger.log_event("started", f"Flower run {context.run_id}")
        try:
            initial = array_record(load_model(settings.initial_model))
            IPFL(settings, ledger).start(grid, initial)
        except BaseException as error:
            ledger.log_event("stopped", f"{type(error).__name__}: {error}")
            raise
        ledger.log_event("finished", f"{settings.rounds} rounds")
