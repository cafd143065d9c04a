"""The Grid in this process: what Flower promises of its own, and no more in memory than needed."""

import weakref

import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from ipfl_flower.experiment.grid import LocalGrid


def message(node, text):
    content = RecordDict({"config": ConfigRecord({"text": text})})
    return Message(content=content, dst_node_id=node, message_type=MessageType.TRAIN)


def echo(received):
    return Message(received.content, reply_to=received)


def failing(received):
    raise ValueError("no such data")


def test_nodes_are_in_the_order_of_the_handlers_by_key():
    grid = LocalGrid({"zoe": echo, "adam": echo})
    nodes = sorted(grid.get_nodes(), key=lambda node: node.public_key)
    assert [node.name for node in nodes] == ["zoe", "adam"]
    assert [node.node_id for node in nodes] == list(grid.get_node_ids())
    assert {node.status for node in nodes} == {"online"}


def test_each_message_is_answered_once_and_by_its_own_node():
    grid = LocalGrid({"a": echo, "b": failing})
    a, b = grid.get_node_ids()
    ids = grid.push_messages([message(a, "one"), message(b, "two"), message(a, "three")])
    assert len(set(ids)) == 3
    first, second, third = (grid.pull_messages([name]) for name in ids)
    assert first[0].content["config"]["text"] == "one"
    assert third[0].content["config"]["text"] == "three"
    assert third[0].metadata.reply_to_message_id == ids[2]
    assert second[0].error.code == 2
    assert second[0].error.reason == "<class 'ValueError'>:<'no such data'>"
    assert grid.pull_messages(ids) == []


def test_a_node_that_there_is_not_gets_no_message():
    grid = LocalGrid({"a": echo})
    (node,) = grid.get_node_ids()
    assert grid.push_messages([message(node + 7, "lost")]) == [""]


def test_a_message_is_answered_when_its_reply_is_pulled_and_not_held_until_then():
    seen = []

    def handler(received):
        seen.append(received.content["config"]["text"])
        return echo(received)

    grid = LocalGrid({"a": handler, "b": handler})
    a, b = grid.get_node_ids()
    pushed = [message(a, "one"), message(b, "two")]
    gone = [weakref.ref(item.content) for item in pushed]
    first, second = grid.push_messages(pushed)
    assert seen == []
    pushed.clear()
    assert [item() for item in gone] == [None, None]
    assert len(grid.pull_messages([second])) == 1
    assert seen == ["two"]
    assert [reply.metadata.src_node_id for reply in grid.pull_messages([first, second])] == [a]
    assert seen == ["two", "one"]


def test_what_needs_a_flower_run_is_refused():
    grid = LocalGrid({})
    with pytest.raises(NotImplementedError):
        grid.send_and_receive([])
    with pytest.raises(NotImplementedError):
        grid.run  # noqa: B018
