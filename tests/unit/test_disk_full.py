"""A disk that is full, and files that can't be written: one clear line, and nothing is lost.

No disk is filled and nothing is mounted: the kernel's limit on the size of a file ends writes where
a test wants them to end, in the same calls, with EFBIG instead of ENOSPC.
"""

import os
import resource
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.rounds import four_distances, four_terms, play, settled

from ipfl_flower.ledger import Ledger, LedgerError, Report, State
from ipfl_flower.market import Rules
from ipfl_flower.models import BankError, Layout, ModelBank, load_model, save_model
from ipfl_flower.notary import Minutes
from ipfl_flower.receipts import ReceiptError, ReceiptFolder, sign

NOBODY = 65534
REFERENCE = {"w": np.zeros((50, 60), np.float32)}
LAYOUT = Layout.of(REFERENCE)


@contextmanager
def files_end_at(size):
    """Let no file grow beyond `size` bytes (Python ignores the signal, so writes fail)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def read_only(*paths):
    """Take away the right to write, also from root: as nobody, who owns nothing."""
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.fixture
def shared():
    """Make a folder that any user reaches, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def model(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(a.shape).astype(a.dtype) for name, a in REFERENCE.items()}


def names(folder):
    return sorted(item.name for item in folder.iterdir())


# --- the ledger -----------------------------------------------------------------------------------


def settlement(number):
    return settled(number, four_terms(), four_distances(number), Rules())


def collect(ledger, settlement):
    """Bring a round to where it can be settled."""
    number = settlement.round
    ledger.open_round(number, range(4), 10.0, 0)
    ledger.collect(number)
    for i, terms in enumerate(settlement.terms):
        digest = settlement.model_digests[i]
        ledger.report(Report(number, i, terms, digest, leaving=False, metrics={}))


def seen(ledger):
    return ledger.rounds(), ledger.state(), ledger.reports(1), ledger.balances(), ledger.head()


@pytest.fixture
def ledger(tmp_path):
    """Give a ledger that is about to settle round 1."""
    with Ledger.open(tmp_path / "ledger.db") as opened:
        play(opened, [settlement(0)], {"market": "of four"})
        collect(opened, settlement(1))
        yield opened


def test_a_full_disk_stops_a_settlement_at_any_write_and_loses_nothing(ledger, tmp_path):
    path, wal = tmp_path / "ledger.db", tmp_path / "ledger.db-wal"
    before, failed, end, head = seen(ledger), 0, wal.stat().st_size, None
    while head is None:
        with files_end_at(end):
            try:
                head = ledger.commit(settlement(1))
            except LedgerError as error:
                said = str(error)
        if head is None:
            assert said.startswith(f"ledger {path}: reading or writing failed"), said
            assert said.endswith(": check the disk")
            assert seen(ledger) == before
            assert ledger.verify() == []
            failed += 1
            end += 2048
    assert failed > 5
    assert ledger.commit(settlement(1)) == head == ledger.head()
    assert ledger.verify() == []
    assert ledger.state().state is State.SETTLED


def test_a_disk_without_room_is_called_full_and_the_ledger_goes_on(ledger):
    before = seen(ledger)
    with ledger._database.engine.connect() as connection:  # the pool has one: writes use it, too
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerError, match=r"the disk is full .*: free some space") as caught:
        ledger.log_event("test", "x" * 100_000)
    assert "\n" not in str(caught.value)
    assert (seen(ledger), ledger.events(), ledger.verify()) == (before, [], [])
    with ledger._database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    ledger.commit(settlement(1))
    assert ledger.verify() == []


def test_a_full_disk_when_a_ledger_is_closed_loses_nothing(ledger, tmp_path):
    ledger.commit(settlement(1))
    before = seen(ledger)
    with files_end_at(0):
        ledger.close()  # the WAL can't be copied back into the file
    with Ledger.open(tmp_path / "ledger.db", create=False) as again:
        assert seen(again) == before
        assert again.verify() == []


@pytest.mark.parametrize("size", [0, 4096, 50_000])
def test_a_ledger_that_the_disk_has_no_room_for_is_not_made(tmp_path, size):
    path = tmp_path / "ledger.db"
    with files_end_at(size), pytest.raises(LedgerError, match=r"ledger\.db: .*check the disk"):
        Ledger.open(path)
    assert names(tmp_path) == []
    with Ledger.open(path) as ledger:
        assert ledger.verify() == []


def test_a_ledger_that_cannot_be_written_says_so_and_is_as_it_was(shared):
    path = shared / "ledger.db"
    with Ledger.open(path) as ledger:
        play(ledger, [settlement(0)], {"market": "of four"})
        before = ledger.rounds(), ledger.balances(), ledger.head()
    content = path.read_bytes()
    with read_only(path, shared):
        with (
            pytest.raises(LedgerError, match=r"ledger\.db: .*check the p") as caught,
            Ledger.open(path, create=False) as ledger,
        ):
            ledger.log_event("test", "a write")
        assert "\n" not in str(caught.value)
        with pytest.raises(LedgerError, match=r"other\.db: .*check"):
            Ledger.open(shared / "other.db")
    assert path.read_bytes() == content
    with Ledger.open(path, create=False) as ledger:
        assert (ledger.rounds(), ledger.balances(), ledger.head()) == before
        assert ledger.verify() == []


# --- models ---------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_row_of_a_bank_absent_and_the_others_whole(tmp_path):
    path = tmp_path / "round-000001.bank"
    with ModelBank(path, LAYOUT, 3, REFERENCE) as bank:
        digests = {i: bank.put(i, model(i)) for i in (0, 1)}
        gram, size = bank.gram(), path.stat().st_size
        for missing in (1000, 10_000, 12_288):  # a row is 12 000 bytes, in three pages
            with (
                files_end_at(size - missing),
                pytest.raises(BankError, match=r"round-000001\.bank can't be written.*free space"),
            ):
                bank.put(2, model(2))
            assert bank.present.tolist() == [True, True, False]
            np.testing.assert_array_equal(bank.gram(), gram)
    with ModelBank(path, LAYOUT, 3, REFERENCE) as again:
        assert again.present.tolist() == [True, True, False]
        for i, digest in digests.items():
            again.verify(i)
            assert again.digest(i) == digest
        again.put(2, model(2))
        again.verify(2)


@pytest.mark.parametrize("size", [0, 100, 4096])
def test_a_bank_that_the_disk_has_no_room_for_is_not_made(tmp_path, size):
    path = tmp_path / "round-000001.bank"
    with files_end_at(size), pytest.raises(BankError, match=r"can't be written.*free space"):
        ModelBank(path, LAYOUT, 3, REFERENCE)
    assert names(tmp_path) == []


def test_a_full_disk_leaves_the_old_model(tmp_path):
    path = tmp_path / "model.npz"
    save_model(path, model(0))
    content = path.read_bytes()
    for size in (0, 1, 100, 5000, len(content) - 1):
        with files_end_at(size), pytest.raises(OSError, match="File too large"):
            save_model(path, model(1))
        assert path.read_bytes() == content
        assert names(tmp_path) == [path.name]
    save_model(path, model(1))
    np.testing.assert_array_equal(load_model(path)["w"], model(1)["w"])


def test_models_that_cannot_be_written_are_as_they_were(shared):
    path, saved = shared / "round-000001.bank", shared / "model.npz"
    with ModelBank(path, LAYOUT, 3, REFERENCE) as bank:
        bank.put(0, model(0))
    save_model(saved, model(0))
    contents = path.read_bytes(), saved.read_bytes()
    with read_only(path, saved, shared):
        for where in (path, shared / "another.bank"):
            with pytest.raises(BankError, match=rf"{where.name} can't be .*Permission denied"):
                ModelBank(where, LAYOUT, 3, REFERENCE)
        with pytest.raises(PermissionError):
            save_model(saved, model(1))
    assert (path.read_bytes(), saved.read_bytes()) == contents


# --- receipts -------------------------------------------------------------------------------------


def test_a_receipt_that_the_disk_has_no_room_for_is_taken_later(tmp_path):
    folder = tmp_path / "receipts"
    own, key = ReceiptFolder(folder), Ed25519PrivateKey.from_private_bytes(bytes(32))
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        play(ledger, [settlement(0)], {"market": "of four"})
        text = sign(Minutes.of(ledger, settlement(0)).receipt(1), key).to_json()
    own.report(0, settlement(0).terms[1])
    kept = names(folder)
    for size in (0, 10, len(text) - 1):
        with files_end_at(size), pytest.raises(ReceiptError, match=r"can't be written.*free space"):
            own.take(text, 1)
        assert set(names(folder)) <= {*kept, "operator.key"}
    assert own.take(text, 1) == []
    assert names(folder) == sorted([*kept, "operator.key", "round-000000.json"])
