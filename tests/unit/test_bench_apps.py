"""The apps of benchmarks/bench_rounds.py, in one process: what is measured is what is meant."""

import json
from importlib import import_module
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from support.fake_grid import FakeGrid

APPS = Path(__file__).parents[2] / "benchmarks" / "apps"
ROUNDS = 3


class OneProcess(FakeGrid):
    """Lets Flower's own loop push and pull, without its sleep."""

    def send_and_receive(self, messages, *, timeout=None):
        return self.pull_messages(self.push_messages(messages))


@pytest.fixture(params=["fedavg", "transport"])
def played(request, tmp_path, monkeypatch):
    """Play an app with two nodes; give what it wrote down, and requests and replies as bytes."""
    monkeypatch.syspath_prepend(APPS / request.param)
    client = import_module(f"{request.param}_app.client_app")
    server = import_module(f"{request.param}_app.server_app")
    config = {
        "rounds": ROUNDS,
        "institutions": 2,
        "megabytes": 0.1,
        "poll-s": 0.1,
        "outcome": str(tmp_path / "outcome.json"),
    }
    exchanged = []

    def handler(message):
        node = message.metadata.dst_node_id
        reply = client.app(message, Context(1, node, {}, RecordDict(), config))
        both = (message.content, reply.content)
        exchanged.append([[array.data for array in each["arrays"].values()] for each in both])
        return reply

    server.main(OneProcess({"a": handler, "b": handler}), Context(1, 1, {}, RecordDict(), config))
    return json.loads((tmp_path / "outcome.json").read_text()), exchanged


def test_all_rounds_and_all_replies_are_written_down(played):
    outcome, exchanged = played
    assert outcome["replies"] == [2] * ROUNDS
    assert outcome["ends"] == sorted(outcome["ends"])
    assert len(outcome["ends"]) == ROUNDS
    assert len(exchanged) == 2 * ROUNDS


def test_no_tensor_comes_back_as_it_was_sent_nor_as_another_node_has_it(played):
    _, exchanged = played
    replies = [tensor for _, reply in exchanged for tensor in reply]
    requests = {tensor for request, _ in exchanged for tensor in request}
    assert len(set(replies)) == len(replies)
    assert requests.isdisjoint(replies)
    assert all(list(map(len, request)) == list(map(len, reply)) for request, reply in exchanged)
