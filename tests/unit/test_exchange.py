"""How replies are looked for: many small ones at once, large ones singly, with pauses."""

import httpx
import pytest
from flwr.app import Error, Message, RecordDict
from support.fake_grid import FakeGrid

from ipfl_flower.exchange import (
    ATTEMPTS_MAX,
    FAILING_S_MAX,
    PULL_BYTES,
    PULL_IDS_MAX,
    Exchange,
    batches,
    insistently,
    pause_s,
)


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
    assert pause_s(2.0, 4) == 2.0
    # However many wait, a second holds no more than so many pulls.
    assert {pulls / pause_s(0.1, pulls) for pulls in (10, 100, 1000)} == {10.0}


def test_small_replies_come_in_one_pull():
    grid = CountingGrid(five())
    exchange = an_exchange(grid, model_bytes=1000)
    # In the order asked, not in Flower's: what the ledger holds should not depend on chance.
    assert [exchange.node(reply) for reply in exchange.replies()] == list(grid.nodes)
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


def test_after_the_deadline_there_is_one_last_look():
    grid = CountingGrid(five(b=lambda message: None))
    exchange = an_exchange(grid, model_bytes=PULL_BYTES, deadline_s=5.0)
    replies = exchange.replies()
    next(replies)
    grid.now += 10.0  # putting it into the bank took long: what came meanwhile counts
    assert len(list(replies)) == 3
    pulls = [message_id for ids in grid.pulls for message_id in ids]
    assert pulls.count(grid.sent[1].metadata.message_id) == 2


@pytest.mark.parametrize("came_at", [9.5, 10.0])
def test_a_reply_that_came_in_time_counts_however_many_are_waited_for(came_at):
    """Many large models: a look takes many pulls, and the pause after it is long."""
    grid = CountingGrid({f"n{k}": lambda message: None for k in range(200)})
    exchange = an_exchange(grid, model_bytes=PULL_BYTES, deadline_s=10.0)
    grid.at(came_at, lambda: grid._ready.append((grid.now, answer(grid.sent[150]))))
    assert [exchange.node(reply) for reply in exchange.replies()] == [list(grid.nodes)[150]]
    assert grid.now == pytest.approx(10.0)


class FailingGrid(CountingGrid):
    """The SuperLink answers pulls with `status` as long as the clock is before `until`."""

    status, until = 500, 0.0

    def pull_messages(self, message_ids):
        if self.now < self.until:
            request = httpx.Request("POST", "https://superlink/pull")
            response = httpx.Response(self.status, request=request)
            raise httpx.HTTPStatusError("database is locked", request=request, response=response)
        return super().pull_messages(message_ids)


def test_a_superlink_whose_database_was_locked_is_asked_again():
    grid = FailingGrid(five())
    grid.until = FAILING_S_MAX - 1
    exchange = an_exchange(grid, model_bytes=PULL_BYTES)
    assert {exchange.node(reply) for reply in exchange.replies()} == set(grid.nodes)


class ObjectPushError(Exception):
    """Flower raises its own of this name when the SuperLink could not store a part of a message."""


def locked():
    request = httpx.Request("POST", "https://superlink/")
    response = httpx.Response(500, request=request)
    return httpx.HTTPStatusError("database is locked", request=request, response=response)


class HalfDeafGrid(CountingGrid):
    """The SuperLink takes the first pushes, or answers who is there, only after it has failed."""

    def __init__(self, handlers, **failures):
        super().__init__(handlers)
        self.failures = failures
        self.tried = []

    def push_messages(self, messages):
        self.tried += messages
        self.fail("push", locked())
        self.fail("objects", ObjectPushError())
        return super().push_messages(messages)

    def get_nodes(self):
        self.fail("nodes", locked())
        return super().get_nodes()

    def fail(self, what, error):
        if self.failures.get(what):
            self.failures[what] -= 1
            raise error


@pytest.mark.parametrize("what", ["push", "objects", "nodes"])
def test_what_could_not_be_pushed_at_once_is_pushed_again(what):
    grid = HalfDeafGrid(five(), **{what: 3})
    exchange = an_exchange(grid, model_bytes=1000)
    assert {exchange.node(reply) for reply in exchange.replies()} == set(grid.nodes)
    assert len(grid.sent) == len({id(message) for message in grid.tried}) == 5
    assert 3 <= grid.now < 4


def test_who_is_there_is_asked_until_it_is_answered():
    grid = HalfDeafGrid(five(), nodes=3)
    assert len(list(insistently(grid.get_nodes, grid.clock))) == 5


def test_a_superlink_that_takes_no_push_is_given_up():
    grid = HalfDeafGrid(five(), push=1000)
    with pytest.raises(httpx.HTTPStatusError):
        an_exchange(grid, model_bytes=1000)
    assert FAILING_S_MAX < grid.now < FAILING_S_MAX + 2


class LosingGrid(CountingGrid):
    """The SuperLink takes the replies of its first pulls for delivered, and then fails."""

    losses = 1

    def pull_messages(self, message_ids):
        replies = super().pull_messages(message_ids)
        if self.losses:
            self.losses -= 1
            request = httpx.Request("POST", "https://superlink/pull")
            response = httpx.Response(500, request=request)
            raise httpx.HTTPStatusError("database is locked", request=request, response=response)
        return replies


def test_whose_reply_was_lost_with_a_pull_is_asked_again():
    grid = LosingGrid(five())
    exchange = an_exchange(grid, model_bytes=1000, remake=asked)
    assert {exchange.node(reply) for reply in exchange.replies()} == set(grid.nodes)
    assert len(grid.sent) == 10
    assert grid.now < 10


def test_when_nothing_was_lost_with_a_pull_nobody_is_asked_again():
    grid = FailingGrid(five())
    grid.until = 0.05
    exchange = an_exchange(grid, model_bytes=1000, remake=asked)
    assert [exchange.node(reply) for reply in exchange.replies()] == list(grid.nodes)
    assert len(grid.sent) == 5
    # Of those that failed nothing is counted: it never got to the SuperLink.
    assert [len(ids) for ids in grid.pulls] == [1] * 5


class StumblingGrid(CountingGrid):
    """The SuperLink fails whenever it is asked for one message's reply, with others or alone."""

    stumbles_over = None

    def pull_messages(self, message_ids):
        if self.stumbles_over in message_ids:
            raise locked()
        return super().pull_messages(message_ids)


def test_of_a_pull_that_fails_over_and_over_only_whose_reply_it_is_is_asked_again():
    grid = StumblingGrid(five())
    exchange = an_exchange(grid, model_bytes=1000, remake=asked)
    grid.stumbles_over = grid.sent[2].metadata.message_id
    names = [grid.nodes[exchange.node(reply)].name for reply in exchange.replies()]
    assert names == ["a", "b", "d", "e", "c"]
    assert [message.metadata.dst_node_id for message in grid.sent[5:]] == [
        grid.sent[2].metadata.dst_node_id
    ]


def test_who_is_still_at_it_when_a_pull_fails_is_asked_by_batches_again():
    grid = FailingGrid(five(b=lambda message: None))
    exchange = an_exchange(grid, model_bytes=1000, deadline_s=1.0)
    grid.until = 0.05
    assert len(list(exchange.replies())) == 4
    # Alone once each, then together again: here just the one that has not answered.
    assert [len(ids) for ids in grid.pulls][:5] == [1] * 5
    assert not exchange._suspects


def test_it_is_not_asked_for_ever():
    grid = LosingGrid(five())
    grid.losses = 1000
    exchange = an_exchange(grid, model_bytes=1000, remake=asked, deadline_s=20.0)
    assert list(exchange.replies()) == []
    assert len(grid.sent) == 5 * (1 + ATTEMPTS_MAX)


def test_a_superlink_that_only_fails_is_given_up_long_before_the_deadline():
    grid = FailingGrid(five())
    grid.until = 1e6
    exchange = an_exchange(grid, model_bytes=1000, deadline_s=1e6)
    with pytest.raises(httpx.HTTPStatusError):
        list(exchange.replies())
    assert FAILING_S_MAX < grid.now < FAILING_S_MAX + 1


def test_a_refusal_is_no_passing_failure():
    grid = FailingGrid(five())
    grid.status, grid.until = 403, 1.0
    with pytest.raises(httpx.HTTPStatusError):
        list(an_exchange(grid, model_bytes=1000).replies())
    assert grid.now == 0.0
