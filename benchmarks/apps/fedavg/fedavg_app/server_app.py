"""Flower's strategy as it comes; when each round ended is noted through its own hook."""

import json
import time
from pathlib import Path

from bench_model.network import Network
from flwr.app import ArrayRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run FedAvg over all nodes, without its second leg: nothing is evaluated."""
    config = context.run_config
    institutions = int(config["institutions"])
    ends: list[float] = []

    def note_end(server_round: int, _: ArrayRecord) -> None:
        if server_round > 0:
            ends.append(time.time())

    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_train_nodes=institutions,
        min_available_nodes=institutions,
        train_metrics_aggr_fn=summary,
    )
    result = strategy.start(
        grid,
        ArrayRecord(Network(float(config["megabytes"])).state_dict()),
        num_rounds=int(config["rounds"]),
        evaluate_fn=note_end,
    )
    metrics = result.train_metrics_clientapp
    outcome = {
        "ends": ends,
        "replies": [metrics[number]["replies"] for number in sorted(metrics)],
        "fit_seconds": [metrics[number]["fit-seconds"] for number in sorted(metrics)],
    }
    Path(str(config["outcome"])).write_text(json.dumps(outcome), encoding="utf-8")


def summary(replies: list[RecordDict], _: str) -> MetricRecord:
    """Count the replies of a round, and average what a step took."""
    seconds = [float(reply["metrics"]["fit-seconds"]) for reply in replies]
    return MetricRecord({"replies": len(replies), "fit-seconds": sum(seconds) / len(seconds)})
