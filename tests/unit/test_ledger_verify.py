"""Verification finds and names whatever is changed behind the ledger's back."""

import dataclasses
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from support.ledgers import NAMES, play
from support.tampering import attacker

from ipfl_flower.ledger import Ledger, LedgerError, Problem, checks, tables


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("verify") / "original.db"
    with Ledger.open(path) as ledger:
        play(ledger)
        assert ledger.verify() == []
    return path


@pytest.fixture
def path(original, tmp_path):
    return shutil.copy(original, tmp_path / "ledger.db")


def found(path):
    with Ledger.open(path, create=False) as ledger:
        return ledger.verify()


JOURNAL = (tables.events, tables.acknowledgements, tables.admissions)
PROVEN = [
    (table.name, column.name)
    for table in tables.APPEND_ONLY
    for column in table.columns
    if column.name != "at" and table not in JOURNAL
]


@pytest.mark.parametrize(("table", "column"), PROVEN)
def test_a_changed_value_in_any_column_is_found_and_named(path, table, column):
    kinds = tables.METADATA.tables[table].c[column].type
    with attacker(path) as raw:
        [(row, old)] = raw.execute(f"SELECT rowid, {column} FROM {table} LIMIT 1").fetchall()
        if old is None:
            new = "changed" if kinds.python_type is str else 1
        elif isinstance(old, bytes):
            new = bytes([old[0] ^ 1]) + old[1:]
        elif isinstance(old, str):
            new = old[:-2] + chr(ord(old[-2]) ^ 1) + old[-1]
        else:
            new = old + 1000
        raw.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (new, row))
    problems = found(path)
    assert problems
    named = " ".join(map(str, problems))
    assert table in named


@pytest.mark.parametrize("table", sorted({table for table, _ in PROVEN}))
def test_a_deleted_row_is_found(path, table):
    with attacker(path) as raw:
        raw.execute(f"DELETE FROM {table} WHERE rowid = (SELECT min(rowid) FROM {table})")
    assert found(path)


def test_a_change_of_the_time_alone_proves_nothing_and_breaks_nothing(path):
    with attacker(path) as raw:
        raw.execute("UPDATE transitions SET at = at + 1")
    assert found(path) == []


@pytest.mark.parametrize(
    ("sql", "check", "where", "what"),
    [
        ("UPDATE market SET settings = '{}'", "market_is_recorded", "market", "settings do not"),
        ("DELETE FROM market", "market_is_recorded", "market", "no settings"),
        ("UPDATE institutions SET id = 9 WHERE id = 2", "institutions_are_numbered", "inst", "9"),
        ("DELETE FROM rounds WHERE number = 1", "rounds_are_contiguous", "round 1", "missing"),
        (
            "DELETE FROM transitions WHERE state = 'DELIVERED'",
            "rounds_follow_each_other",
            "round 0",
            "is not DELIVERED",
        ),
        (
            "DELETE FROM transitions WHERE state = 'ABANDONED'",
            "rounds_follow_each_other",
            "round 1",
            "is still OPEN",
        ),
        (
            "INSERT INTO transitions VALUES (2, 'ABANDONED', 'x', 0.0)",
            "transitions_are_legal",
            "round 2",
            "went through ABANDONED, COLLECTING, OPEN, SETTLED",
        ),
        ("DELETE FROM transitions", "transitions_are_legal", "round 3", "went through no state"),
        (
            "UPDATE transitions SET state = 'LOST' WHERE round = 1 AND detail IS NULL",
            "readable",
            "ledger",
            "LOST",
        ),
        (
            "DELETE FROM settlements WHERE round = 2",
            "only_settled_rounds_pay",
            "round 2",
            "SETTLED without a settlement",
        ),
        (
            "INSERT INTO entries VALUES (99, 1, 0, 1, 5, 'transfer', NULL)",
            "only_settled_rounds_pay",
            "round 1",
            "not SETTLED but has",
        ),
        ("DELETE FROM chain WHERE round = 2", "chain_is_unbroken", "round 2", "not in the chain"),
        (
            "INSERT INTO chain SELECT 3, previous, digests, head FROM chain WHERE round = 2",
            "chain_is_unbroken",
            "round 3",
            "unfinished but in the chain",
        ),
        ("DELETE FROM chain WHERE round = 0", "chain_is_unbroken", "round 1", "does not follow"),
        ("UPDATE chain SET digests = 'x'", "chain_is_unbroken", "round 0", "cannot be read"),
        ("UPDATE chain SET previous = 'x'", "chain_is_unbroken", "round 0", "cannot be read"),
        ("UPDATE chain SET head = 'x'", "chain_is_unbroken", "round 0", "head does not fit"),
        (
            "UPDATE refusals SET reason = 'it was late'",
            "chain_is_unbroken",
            "round 0",
            "rows of refusals are not those that were sealed",
        ),
        (
            "UPDATE entries SET amount_micro = amount_micro + 1 WHERE id = 0",
            "net_is_what_was_paid",
            "round 0",
            "institution 0 has net",
        ),
        (
            "UPDATE outcomes SET net_micro = 1 WHERE institution = 0",
            "net_is_what_was_paid",
            "round 0",
            "net payments sum to",
        ),
        (
            "UPDATE reports SET cost = 100.0 WHERE institution = 1",
            "clearing_is_recomputed",
            "round 0",
            "recorded True, recomputed False",
        ),
        (
            "UPDATE outcomes SET gain = gain + 1",
            "clearing_is_recomputed",
            "round 0",
            "gains of 0: recorded",
        ),
        (
            "UPDATE settlements SET fallbacks = 3",
            "clearing_is_recomputed",
            "round 0",
            "fallbacks: recorded 3, recomputed 0",
        ),
        (
            "UPDATE outcomes SET active = 0 WHERE institution = 1",
            "graph_is_clean",
            "round 0",
            "institution 1 is not active but trades",
        ),
        (
            "DELETE FROM reports WHERE round = 2 AND institution = 0",
            "readable",
            "round 2",
            "not of exactly those that reported",
        ),
        (
            "UPDATE entries SET payee = 7 WHERE id = 0",
            "readable",
            "round 0",
            "entry 0 is between 0 and 7",
        ),
        (
            f"UPDATE settlements SET distances = x'{'000000000000f0bf' * 9}'",
            "clearing_is_recomputed",
            "round 0",
            "the recorded inputs cannot be cleared",
        ),
        ("UPDATE settlements SET rules = '{'", "readable", "round 0", "settlements cannot be read"),
        ("UPDATE settlements SET rules = '{\"x\":1}'", "readable", "round 2", "cannot be read"),
        ("UPDATE settlements SET distances = x'00'", "readable", "round 0", "cannot be read"),
        ("UPDATE reports SET metrics = 'x'", "readable", "round 0", "cannot be read"),
        ("UPDATE outcomes SET gain = 1e999", "shapes_fit", "round 0", "gains are not finite"),
        (
            "UPDATE reports SET samples = -5 WHERE round = 0",
            None,
            "round 0",
            "",
        ),
        ("INSERT INTO entries VALUES (99, 3, 0, 0, -5, 'x', 4)", "database", "database", "CHECK"),
        (
            "UPDATE asked SET institution = 12 WHERE institution = 0 AND round = 0",
            "database",
            "database",
            "row 1 of asked refers",
        ),
    ],
)
def test_each_check_finds_what_it_is_for(path, sql, check, where, what):
    with attacker(path) as raw:
        raw.execute(sql)
    problems = found(path)
    assert any(
        check in {None, p.check} and p.where.startswith(where) and what in p.what for p in problems
    ), problems


@pytest.mark.parametrize(("row", "kept"), [("'transfer', NULL", True), ("'correction', 0", False)])
def test_a_transfer_cannot_be_replaced_under_another_id_but_can_be_corrected(path, row, kept):
    with closing(sqlite3.connect(path)) as raw:
        copy = f"SELECT 99, round, payer, payee, 0, {row} FROM entries WHERE id = 0"
        if kept:
            with pytest.raises(sqlite3.IntegrityError, match="entries cannot be replaced"):
                raw.execute(f"INSERT OR REPLACE INTO entries {copy}")
        else:
            raw.execute(f"INSERT OR REPLACE INTO entries {copy}")
            assert raw.execute("SELECT id FROM entries WHERE id IN (0, 99)").fetchall() == [
                (0,),
                (99,),
            ]


def test_missing_triggers_are_named(path):
    with attacker(path, restore_triggers=False):
        pass
    problems = found(path)
    assert len(problems) == 3 * len(tables.APPEND_ONLY)
    assert any("trigger entries_no_update" in p.what for p in problems)


def test_a_damaged_page_is_found(path):
    with closing(sqlite3.connect(path)) as raw:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'entries'"
        [(page,)] = raw.execute(query).fetchall()
        [(size,)] = raw.execute("PRAGMA page_size").fetchall()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    problems = found(path)
    assert {p.where for p in problems} >= {"database", "ledger", "round 0", "round 2"}
    assert all("malformed" in p.what for p in problems)


def test_a_tampered_round_cannot_be_read_or_continued(path):
    with attacker(path) as raw:
        raw.execute("INSERT INTO transitions VALUES (3, 'DELIVERED', NULL, 0.0)")
    with Ledger.open(path, create=False) as ledger:
        for read in (ledger.state, ledger.rounds, lambda: ledger.collect(3)):
            with pytest.raises(LedgerError, match="round 3 went through impossible states"):
                read()


def test_a_correction_is_part_of_the_chain_and_of_the_balances(path):
    with attacker(path) as raw:
        query = "SELECT payer, payee, amount_micro FROM entries WHERE id = 0"
        [(payer, payee, amount)] = raw.execute(query).fetchall()
        row = (99, 2, payee, payer, amount, "correction", 0)
        raw.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    with Ledger.open(path, create=False) as ledger:
        [problem] = ledger.verify()
        line = ledger.statement(NAMES[payer]).lines[-1]
    assert problem.where == "round 2"
    assert "rows of entries" in problem.what
    assert (line.direction, line.amount_micro) == ("earned", amount)


def test_a_problem_reads_as_one_line():
    problem = Problem("net_is_what_was_paid", "round 3", "net payments sum to 1, not 0")
    assert str(problem) == "round 3: net payments sum to 1, not 0 [net_is_what_was_paid]"


def test_unequal_balances_are_found():
    book = checks.Book(None, None, (), (), {}, set(), set(), {"alpha": 3, "beta": -1}, ())
    assert list(checks.balances_sum_to_zero(book)) == [
        ("entries", "balances sum to 2 micro-credits, not 0")
    ]


def test_misshapen_settlements_are_not_looked_into(original):
    with Ledger.open(original, create=False) as ledger:
        settlement = ledger.settlement(0)
    assert list(checks.settlement_faults(settlement)) == []
    short = dataclasses.replace(settlement, active=np.ones(2, bool))
    assert [check for check, _ in checks.settlement_faults(short)] == ["shapes_fit"]
