"""One step of SGD at batch 1, written as in Flower's PyTorch template."""

import time

import torch
from bench_model.network import LEARNING_RATE, Network, loss, samples
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model on local data."""
    megabytes = float(context.run_config["megabytes"])
    began = time.perf_counter()
    model = Network(megabytes)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    inputs, labels = samples(megabytes, context.node_id)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    value = loss(model(inputs[:1]), labels[:1])
    value.backward()
    optimizer.step()
    metrics = {
        "train-loss": value.item(),
        "num-examples": 1,
        "fit-seconds": time.perf_counter() - began,
    }
    content = RecordDict(
        {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord(metrics)}
    )
    return Message(content, reply_to=message)
