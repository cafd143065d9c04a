"""The message goes back as it came, but for a stamp that makes it another one."""

import bench_model
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def echo(message: Message, context: Context) -> Message:
    """Answer with a message of the same size."""
    values = {name: array.numpy().copy() for name, array in message.content["arrays"].items()}
    number = int(message.content["config"]["round"])
    bench_model.stamp(values, number, float(context.node_id % 10**6), -1.0)
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(value) for name, value in values.items()}),
            "metrics": MetricRecord({"num-examples": 1}),
        }
    )
    return Message(content, reply_to=message)
