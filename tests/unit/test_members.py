"""Who is asked: only who is online and not expelled."""

import pytest
from support.fake_grid import FakeGrid

from ipfl_flower.ledger import Ledger
from ipfl_flower.members import AbsenceError, Members


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        yield ledger


@pytest.fixture
def grid():
    return FakeGrid(dict.fromkeys(["alder", "birch", "cedar"]))


@pytest.fixture
def members(ledger, grid):
    return Members(ledger, 1000, grid.clock, 0.1)


def names(members):
    return [member.name for member in members]


def test_an_expelled_institution_is_not_asked_although_its_node_is_there(members, grid, ledger):
    members.refresh(grid)
    ledger.expel("birch", "sold noise")
    members.refresh(grid)
    assert names(members) == ["alder", "cedar"]
    assert [event.kind for event in ledger.events()] == ["expelled", "not admitted"]


def test_it_is_asked_again_once_it_is_admitted_again(members, grid, ledger):
    members.refresh(grid)
    ledger.expel("birch")
    members.refresh(grid)
    ledger.admit(1)
    members.refresh(grid)
    assert names(members) == ["alder", "birch", "cedar"]


def test_a_server_that_starts_anew_does_not_ask_it_either(members, grid, ledger):
    members.refresh(grid)
    ledger.expel("birch")
    again = Members(ledger, 1000, grid.clock, 0.1)
    grid.come_back("birch")
    again.refresh(grid)
    assert names(again) == ["alder", "cedar"]


def test_an_institution_that_was_admitted_before_it_came_keeps_its_place(members, grid, ledger):
    ledger.admit(ledger.enrol("cedar", b"key of cedar", samples_cap=1000))
    members.refresh(grid)
    assert {member.name: member.institution for member in members}["cedar"] == 0


def test_too_few_because_of_an_expulsion_is_said(members, grid, ledger):
    members.refresh(grid)
    ledger.expel("birch")
    with pytest.raises(AbsenceError, match=r"2 of 3 institutions came .*birch was expelled"):
        members.wait_for(grid, 3, 5.0)


def test_who_left_and_who_was_expelled_are_not_waited_for(members, grid, ledger):
    members.refresh(grid)
    members.leave(next(iter(members)))
    ledger.expel("birch")
    assert members.wait_for(grid, 2, 5.0) is False
    assert grid.now == 0.0
