"""A byte flipped or a file cut anywhere: it is found and named, or nothing that counts is lost."""

import random
import re
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.rounds import four_distances, four_terms, play, settled

from ipfl_flower.cli.receipts import verify_folder
from ipfl_flower.ledger import Ledger, LedgerError, tables
from ipfl_flower.market import Rules
from ipfl_flower.models import BankError, Layout, ModelBank
from ipfl_flower.models.rows import PAGE
from ipfl_flower.notary import Minutes
from ipfl_flower.receipts import ReceiptError, ReceiptFolder, read_public_key, sign

ROUNDS = 3
# What the chain doesn't prove, and settles nothing: when things happened, and the journal.
JOURNAL = (tables.events, tables.acknowledgements)


def flip(path, offset, rng):
    with path.open("r+b") as file:
        file.seek(offset)
        [byte] = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ (1 << rng.randrange(8))]))


def cut(path, length):
    with path.open("r+b") as file:
        file.truncate(length)


def spread(size, count, rng):
    """Draw `count` offsets, one in each of as many equal stretches: no page is left out."""
    return [rng.randrange(size * k // count, size * (k + 1) // count) for k in range(count)]


def content(path):
    """Dump the ledger's proven columns, and its schema."""
    with closing(sqlite3.connect(path)) as raw:
        rows = {
            "schema": raw.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        }
        for table in tables.METADATA.sorted_tables:
            if table not in JOURNAL:
                columns = ", ".join(c.name for c in table.columns if c.name != "at")
                query = f"SELECT {columns} FROM {table.name} ORDER BY {columns}"
                rows[table.name] = raw.execute(query).fetchall()
    return rows


def found(path):
    """Return the lines that say what is wrong with a ledger, none if it is accepted."""
    try:
        with Ledger.open(path, create=False) as ledger:
            return [str(problem) for problem in ledger.verify()]
    except LedgerError as error:
        assert str(path) in str(error)  # noqa: PT017 - one of the right outcomes
        return [str(error)]


def rounds():
    return [settled(n, four_terms(), four_distances(n), Rules()) for n in range(ROUNDS)]


# --- the ledger -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    path = tmp_path_factory.mktemp("closed") / "ledger.db"
    with Ledger.open(path) as ledger:
        play(ledger, rounds(), {"market": "of four"})
    return path


@pytest.mark.parametrize("seed", range(2))
def test_a_flipped_byte_of_the_ledger_is_found_or_lies_where_nothing_is(closed, tmp_path, seed):
    rng, path, intact = random.Random(seed), tmp_path / "ledger.db", content(closed)
    silent = 0
    for offset in spread(closed.stat().st_size, 60, rng):
        shutil.copy(closed, path)
        flip(path, offset, rng)
        lines = found(path)
        if lines:
            assert all(line and "\n" not in line.strip() for line in lines), (offset, lines)
        else:
            assert content(path) == intact, f"a byte flipped at {offset} changes what is stored"
            silent += 1
        for extra in tmp_path.glob("ledger.db-*"):
            extra.unlink()
    assert silent < 60


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        # SQLite's own complaint quotes the byte, and is then no text either.
        (b"CREATE TABLE entries", b"CREATE T\xc1BLE entries", "the file is damaged"),
        (b"amount_micro >= 0", b"amount_micro >=-9", "the definition of entries is not"),
        (
            b"WHERE kind = 'transfer'",
            b"WHERE kind = 'tr\x00nsfer'",
            "entries_once|damaged|malformed",
        ),
    ],
)
def test_a_damaged_schema_is_found(closed, tmp_path, old, new, says):
    path, whole = tmp_path / "ledger.db", closed.read_bytes()
    assert whole.count(old) == 1
    path.write_bytes(whole.replace(old, new))
    assert any(re.search(says, line) for line in found(path)), found(path)


def test_a_ledger_cut_anywhere_is_refused_or_its_damage_is_named(closed, tmp_path):
    rng, path, size = random.Random(0), tmp_path / "ledger.db", closed.stat().st_size
    lengths = [0, 1, 99, 100, 511, 4095, 4096, 4097, size - 4096, size - 1]
    for length in [*lengths, *spread(size, 20, rng)]:
        shutil.copy(closed, path)
        cut(path, length)
        assert found(path), length


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """Copy a ledger while it is open, with what its WAL held after each transaction."""
    source, copy = (tmp_path_factory.mktemp(name) / "ledger.db" for name in ("live", "copy"))
    wal = source.with_name(source.name + "-wal")
    states = []

    class Watched(Ledger):
        """Looks at the file after every transaction."""

        def __getattribute__(self, name):
            step = super().__getattribute__(name)
            if name not in {
                "begin",
                "enrol",
                "open_round",
                "collect",
                "report",
                "commit",
                "deliver",
            }:
                return step

            def watched(*arguments, **how):
                result = step(*arguments, **how)
                states.append((wal.stat().st_size, content(source)))
                return result

            return watched

    with Watched.open(source) as ledger:
        states.append((0, content(source)))
        play(ledger, rounds(), {"market": "of four"})
        shutil.copy(source, copy)
        shutil.copy(wal, copy.with_name(copy.name + "-wal"))
    sizes = [size for size, _ in states]
    assert sizes == sorted(set(sizes)), "SQLite has begun the WAL anew: what follows is not sound"
    return copy, states


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_wal_leaves_the_last_state_that_was_committed_before_it(live, tmp_path, damage):
    (source, states), path = live, tmp_path / "ledger.db"
    rng, wal = random.Random(0), tmp_path / "ledger.db-wal"
    source_wal = source.with_name(source.name + "-wal")
    for offset in [0, 5, *spread(source_wal.stat().st_size, 40, rng)]:
        shutil.copy(source, path)
        shutil.copy(source_wal, wal)
        if damage is flip:
            flip(wal, offset, rng)
        else:
            cut(wal, offset)
        assert found(path) == [], offset
        *_, committed = (state for size, state in states if size <= offset)
        assert content(path) == committed, offset


# --- a bank of models -----------------------------------------------------------------------------

REFERENCE = {"w": np.zeros((30, 40), np.float32), "b": np.zeros(3, np.float64)}
LAYOUT = Layout.of(REFERENCE)
HEADER_BYTES = 8 + 4 + 8 + 8 + 32 + 32 + 32
ENTRY_BYTES = 64


def model(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(a.shape).astype(a.dtype) for name, a in REFERENCE.items()}


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """Write a bank with rows 0, 1 and 3, without row 2."""
    path = tmp_path_factory.mktemp("bank") / "round-000001.bank"
    with ModelBank(path, LAYOUT, 4, REFERENCE) as opened:
        for i in (0, 1, 3):
            opened.put(i, model(i))
    return path


def faulty_row(offset):
    """Tell which row's bytes an offset is in; None: in the header, an entry, or between rows."""
    row, byte = divmod(offset - 2 * PAGE, -(-LAYOUT.bytes // PAGE) * PAGE)
    return row if row >= 0 and byte < LAYOUT.bytes else None


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_byte_of_a_bank_is_found_and_its_row_named(bank, tmp_path, seed):
    rng, path = random.Random(seed), tmp_path / bank.name
    header, entries = range(HEADER_BYTES), range(PAGE, PAGE + 4 * ENTRY_BYTES)
    anywhere = spread(bank.stat().st_size, 60, rng)
    for offset in [*rng.sample(header, 20), *rng.sample(entries, 40), *anywhere]:
        shutil.copy(bank, path)
        flip(path, offset, rng)
        if offset in header or offset in entries:
            row = (offset - PAGE) // ENTRY_BYTES
            what = f"the entry of row {row};" if offset in entries else "is damaged"
            with pytest.raises(BankError, match=what) as caught:
                ModelBank(path, LAYOUT, 4, REFERENCE)
            assert str(path) in str(caught.value)
            continue
        with ModelBank(path, LAYOUT, 4, REFERENCE) as opened:
            assert opened.present.tolist() == [True, True, False, True]
            for i in (0, 1, 3):
                if i == faulty_row(offset):
                    for read in (opened.verify, opened.model):
                        with pytest.raises(BankError, match=rf"changed on the disk: row {i};"):
                            read(i)
                else:
                    opened.verify(i)


def test_a_bank_cut_anywhere_is_refused(bank, tmp_path):
    rng, path, size = random.Random(0), tmp_path / bank.name, bank.stat().st_size
    for length in [0, 1, HEADER_BYTES, PAGE, size - 1, *spread(size, 20, rng)]:
        shutil.copy(bank, path)
        cut(path, length)
        with pytest.raises(BankError, match=r"damaged|cut off"):
            ModelBank(path, LAYOUT, 4, REFERENCE)


# --- an institution's receipts --------------------------------------------------------------------


@pytest.fixture(scope="module")
def receipts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("institution") / "receipts"
    own, key = ReceiptFolder(folder), Ed25519PrivateKey.from_private_bytes(bytes(32))
    with Ledger.open(tmp_path_factory.mktemp("operator") / "ledger.db") as ledger:
        settlements = rounds()
        play(ledger, settlements, {"market": "of four"})
        for number, settlement in enumerate(settlements):
            own.report(number, settlement.terms[1])
            signed = sign(Minutes.of(ledger, settlement).receipt(1), key)
            assert own.take(signed.to_json(), number + 1) == []
    assert verify_folder(folder, None) == ([], ROUNDS)
    return folder


NAMES = [f"{kind}-{n:06d}.json" for kind in ("round", "terms") for n in range(ROUNDS)]


def complaints(folder):
    try:
        return verify_folder(folder, None)[0]
    except ReceiptError as error:
        return [str(error)]


@pytest.mark.parametrize("name", [*NAMES, "operator.key"])
def test_a_damaged_file_of_receipts_is_found_and_named(receipts, tmp_path, name):
    rng, folder = random.Random(name), tmp_path / "receipts"
    shutil.copytree(receipts, folder)
    path, whole = folder / name, (receipts / name).read_bytes()
    number = name.removeprefix("terms-").removeprefix("round-")
    for offset in spread(len(whole), min(60, len(whole)), rng):
        for damage in (lambda at: flip(path, at, rng), lambda at: cut(path, at)):
            path.write_bytes(whole)
            damage(offset)
            lines = complaints(folder)
            if not lines:  # a key may be written in capitals, and end without a line's end
                assert name == "operator.key"
                assert read_public_key(path) == read_public_key(receipts / name)
            elif name != "operator.key":
                assert any(f"round-{number}" in line or str(path) in line for line in lines), lines
