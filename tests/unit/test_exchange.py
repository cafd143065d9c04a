"""How replies are looked for: many small ones at once, large ones singly, with pauses."""

from flwr.app import Error, Message, RecordDict
from support.fake_grid import FakeGrid

from ipfl_flower.exchange import PULL_BYTES, PULL_IDS_MAX, Exchange, batches, pause_s


class CountingGrid(FakeGrid):
    def __init__(self, handlers):
        super().__init__(handlers)
        self.pulls = []

    def pull_messages(self, message_ids):
        self.pulls.append(list(message_ids))
        return super().pull_messages(message_ids)


def an_exchange(grid, *, model_bytes, remake=lambda node: None, deadline_s=60.0):
    exchange = Exchange(grid, deadline_s, 30.0, 0.1, model_bytes, remake, grid.clock)
    refused = exchange.send(asked(node) for node in grid.nodes)
    assert refused == []
    return exchange


def asked(node):
    return Message(RecordDict(), dst_node_id=node, message_type="train")


def answer(message):
    return Message(RecordDict(), reply_to=message)


def five(**others):
    return {name: others.get(name, answer) for name in "abcde"}


def test_ids_are_divided_by_what_their_replies_may_take():
    ids = [str(k) for k in range(250)]
    assert batches(ids, PULL_BYTES // 3) == [tuple(ids[k : k + 3]) for k in range(0, 250, 3)]
    assert [len(batch) for batch in batches(ids, 10 * PULL_BYTES)] == [1] * 250
    assert [len(batch) for batch in batches(ids, 0)] == [PULL_IDS_MAX, PULL_IDS_MAX, 50]
    assert batches([], 1000) == []


def test_the_pause_grows_with_the_pulls_of_a_look():
    assert pause_s(0.1, 1) == 0.1
    assert pause_s(0.1, 4) == 0.1
    assert pause_s(2.0, 4) == 2.0
    # However many wait, a second holds no more than so many pulls.
    assert {pulls / pause_s(0.1, pulls) for pulls in (40, 400, 4000)} == {40.0}


def test_small_replies_come_in_one_pull():
    grid = CountingGrid(five())
    exchange = an_exchange(grid, model_bytes=1000)
    assert {exchange.node(reply) for reply in exchange.replies()} == set(grid.nodes)
    assert [len(ids) for ids in grid.pulls] == [5]
    assert grid.now == 0.0


def test_large_replies_come_one_at_a_time():
    grid = CountingGrid(five())
    exchange = an_exchange(grid, model_bytes=PULL_BYTES)
    assert {exchange.node(reply) for reply in exchange.replies()} == set(grid.nodes)
    assert [len(ids) for ids in grid.pulls] == [1] * 5


def test_in_one_pull_an_answer_an_absence_and_a_passing_failure_are_told_apart():
    def killed_once(message):
        return answer(message) if grid.pushes > 5 else Message(Error(code=8), reply_to=message)

    grid = CountingGrid(five(b=killed_once))
    grid.go_offline("c")
    exchange = an_exchange(grid, model_bytes=1000, remake=asked)
    names = [grid.nodes[exchange.node(reply)].name for reply in exchange.replies()]
    # Who is away is waited for, then given up; who was killed is asked again.
    assert sorted(names) == ["a", "b", "d", "e"]
    assert 30 <= grid.now < 60
    away = grid.sent[2].metadata.message_id
    assert sum(away in ids for ids in grid.pulls) == 1


def test_a_second_answer_of_a_node_is_dropped():
    grid = CountingGrid(five())
    exchange = an_exchange(grid, model_bytes=1000, remake=asked)
    grid.come_back("a")
    exchange._look_who_is_back()  # asked again, though the first answer is already there
    nodes = [exchange.node(reply) for reply in exchange.replies()]
    assert sorted(nodes) == sorted(grid.nodes)


def test_after_the_deadline_no_further_pull_is_made():
    grid = CountingGrid(five())
    exchange = an_exchange(grid, model_bytes=PULL_BYTES, deadline_s=5.0)
    replies = exchange.replies()
    next(replies)
    grid.now += 10.0  # putting it into the bank took long
    assert list(replies) == []
    assert len(grid.pulls) == 1
