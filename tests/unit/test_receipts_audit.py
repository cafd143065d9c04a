"""Receipts in a market over the fake Grid: kept by institutions, compared by an auditor."""

import json
import shutil

import pytest
from support.fake_grid import FakeGrid
from support.institutions import FakeInstitution, theta0
from support.rounds import four_distances, four_terms, play, settled
from typer.testing import CliRunner

from ipfl_flower.audit import audit
from ipfl_flower.cli.main import cli
from ipfl_flower.ledger import Ledger, LedgerError
from ipfl_flower.market import Rules
from ipfl_flower.notary import OPERATOR_KEY, Minutes, Notary
from ipfl_flower.protocol import Request, array_record
from ipfl_flower.receipts import ReceiptError, load_or_make_key, stored_receipts
from ipfl_flower.settings import Settings
from ipfl_flower.strategy import IPFL
from ipfl_flower.trainer.receipts import Receipts

NAMES = [f"institution {i}" for i in range(4)]


def keeping(folder, institution):
    """Return a handler that does with receipts what the trainer does."""
    receipts = Receipts(folder, None, "continue")

    def handler(message):
        request = Request.from_records(message.content)
        centre = request.role == "centre"
        assert receipts.take(request.statement, request.round, centre=centre) == 0
        reply = institution(message)
        if request.train:
            receipts.report(request.round, institution.terms)
        return reply

    return handler


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Play a market of four rounds; return its folder: ledger.db, and institutions' receipts."""
    folder = tmp_path_factory.mktemp("market")
    settings = Settings.read(
        {
            "rounds": 4,
            "quorum": 1,
            "institutions-min": 4,
            "ledger": str(folder / "ledger.db"),
            "models-dir": str(folder / "models"),
            "initial-model": str(folder / "theta0.npz"),
        }
    )
    handlers = {
        name: keeping(folder / "kept" / name, FakeInstitution(i)) for i, name in enumerate(NAMES)
    }
    grid = FakeGrid(handlers)
    with Ledger.open(settings.ledger) as ledger:
        IPFL(settings, ledger, grid.clock).start(grid, array_record(theta0()))
        assert any(item.edges for item in ledger.rounds())
    assert (folder / "receipt.key").exists()
    return folder


@pytest.fixture
def market(played, tmp_path):
    return shutil.copytree(played, tmp_path / "market")


def ipfl(*arguments):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def receipts_of(market, name):
    return market / "kept" / name / "receipts"


def test_each_institution_has_a_receipt_of_every_round_and_all_verify(market):
    for name in NAMES:
        folder = receipts_of(market, name)
        assert sorted(path.name for path in folder.glob("round-*")) == [
            f"round-{number:06d}.json" for number in range(4)
        ]
        assert ipfl("receipts", "verify", folder) == (0, "verified: 4 receipts\n", "")
    code, said, _ = ipfl("ledger", "verify", market / "ledger.db", "--receipts", market / "kept")
    assert code == 0
    assert said.startswith("verified: 4 rounds, head ")


def test_the_operators_key_is_printed_and_can_be_given(market, tmp_path):
    code, key, _ = ipfl("receipts", "operator-key", market / "ledger.db")
    assert code == 0
    file = tmp_path / "operator.pub"
    file.write_text(key)
    folder = receipts_of(market, NAMES[0])
    assert ipfl("receipts", "verify", folder, "--operator-key", file)[0] == 0
    file.write_text("0" * 64)
    code, _, said = ipfl("receipts", "verify", folder, "--operator-key", file)
    assert code == 1
    assert said.count("the operator's is 0000000000000000") == 4


def test_a_changed_receipt_is_named_by_its_file(market):
    folder = receipts_of(market, NAMES[1])
    path = folder / "round-000002.json"
    whole = json.loads(path.read_text())
    whole["receipt"]["balance"] += 1
    path.write_text(json.dumps(whole, sort_keys=True, separators=(",", ":")))
    code, _, said = ipfl("receipts", "verify", folder)
    assert code == 1
    assert f"{path}: the signature is not one of key" in said
    code, _, said = ipfl("ledger", "verify", market / "ledger.db", "--receipts", market / "kept")
    assert code == 1
    assert f"{path}: round 2, {NAMES[1]}: the signature is wrong" in said


def test_a_damaged_or_renamed_receipt_is_named_by_both(market):
    folder = receipts_of(market, NAMES[1])
    (folder / "round-000003.json").rename(folder / "round-000009.json")
    (folder / "round-000001.json").write_bytes(b"\xff")
    for command in (
        ("receipts", "verify", folder),
        ("ledger", "verify", market / "ledger.db", "--receipts", market / "kept"),
    ):
        code, _, said = ipfl(*command)
        assert code == 1
        assert "round-000009.json: it is the receipt of round 3" in said
        assert "round-000001.json: it is not in canonical form" in said
    assert (
        "round-000002.json: can't be checked against what is stored"
        in ipfl("receipts", "verify", folder)[2]
    )


def rewritten(market, tmp_path, *, rounds=4, abandoned=(), change=None):
    """Rebuild the ledger as a cheating operator would: consistent in itself, and other rounds."""
    with Ledger.open(market / "ledger.db", create=False) as ledger:
        settlements = [ledger.settlement(number) for number in range(rounds)]
        settings = ledger.settings
    if change is not None:
        settlements[change] = settled(
            change, four_terms(), four_distances(), settlements[change].rules
        )
    other = Ledger.open(tmp_path / "other.db")
    play(other, settlements, settings, abandoned=abandoned)
    assert other.verify() == []
    return other


def test_a_ledger_with_another_round_in_it_is_found(market, tmp_path):
    stored = stored_receipts(market / "kept", nested=True)
    with rewritten(market, tmp_path, change=2) as other:
        found = audit(other, stored)
    # Every head differs, since the rounds had another deadline; amounts only from round 2 on.
    for name in NAMES:
        assert any(f"round 2, {name}: terms is" in line for line in found)
        assert any(f"round 2, {name}: head is" in line for line in found)
        assert any(f"round 3, {name}: balance is" in line for line in found)
        assert not any(f"round 1, {name}: balance is" in line for line in found)


def test_a_ledger_whose_end_was_cut_off_is_found(market, tmp_path):
    stored = stored_receipts(market / "kept", nested=True)
    with rewritten(market, tmp_path, rounds=3) as other:
        found = audit(other, stored)
    for name in NAMES:
        assert any(f"round 3, {name}: the ledger ends at round 2" in line for line in found)


def test_a_round_that_is_said_to_have_been_abandoned_is_found(market, tmp_path):
    stored = stored_receipts(market / "kept", nested=True)
    with rewritten(market, tmp_path, abandoned=[1]) as other:
        found = audit(other, stored)
    for name in NAMES:
        assert any(
            f"round 1, {name}: the round is ABANDONED in the ledger" in line for line in found
        )


def test_another_markets_empty_ledger_and_another_key_are_found(market, tmp_path):
    stored = stored_receipts(market / "kept", nested=True)
    with Ledger.open(tmp_path / "empty.db") as empty:
        found = audit(empty, stored)
    assert sum("the ledger is empty: it was cut off" in line for line in found) == 16
    assert sum("the ledger names None" in line for line in found) == 16
    assert ipfl("receipts", "operator-key", tmp_path / "empty.db")[0] == 1


def test_a_receipt_signed_besides_the_ledger_is_found_in_an_alarm_too(tmp_path):
    notary = Notary(load_or_make_key(tmp_path / "receipt.key"))
    rounds = [settled(0, four_terms(), four_distances(), Rules())]
    other = [settled(0, four_terms(1.0), four_distances(), Rules())]
    settings = {OPERATOR_KEY: notary.public_key}
    with Ledger.open(tmp_path / "a.db") as ledger, Ledger.open(tmp_path / "b.db") as second:
        play(ledger, rounds, settings)
        play(second, other, settings)
        receipts = Receipts(tmp_path / "state", None, "continue")
        receipts.report(0, rounds[0].terms[1])
        for book, settlement, alarms in ((ledger, rounds[0], 0), (second, other[0], 1)):
            statement = notary.signed(Minutes.of(book, settlement), 1).to_object()
            assert receipts.take(statement, 1, centre=True) == alarms
        receipts.take({"receipt": "unsigned"}, 1, centre=False)
        stored = stored_receipts(tmp_path / "state" / "receipts")
        assert [item.alarm for item in stored] == [True, True, False]
        found = audit(ledger, stored)
        assert found
        assert all(".alarm.json: round 0, institution 1: " in line for line in found)
        assert any(": head is" in line for line in found)


def test_who_took_no_part_in_a_round_can_hold_no_receipt_of_it(market):
    stored = [item for item in stored_receipts(market / "kept", nested=True) if not item.alarm]
    with Ledger.open(market / "ledger.db", create=False) as ledger:
        shown = ledger.settlement

        def without_the_last(number):
            whole = shown(number)
            return settled(number, whole.terms[:3], whole.distances[:3, :3], whole.rules)

        ledger.settlement = without_the_last
        found = audit(ledger, stored)
    assert sum(f"{NAMES[3]}: the institution took no part" in line for line in found) == 4


def test_an_alarm_is_told_again_by_verify(market):
    folder = receipts_of(market, NAMES[0])
    Receipts(folder.parent, None, "continue").take({}, 7, centre=True)
    code, _, said = ipfl("receipts", "verify", folder)
    assert code == 1
    assert "an alarm was raised: a prox-centre came without a receipt" in said
    (folder / "operator.key").unlink()
    code = CliRunner().invoke(cli, ["receipts", "verify", str(folder)])
    assert "pins no operator's key: give --operator-key FILE" in str(code.exception)


def test_a_round_that_the_ledger_cannot_show_is_said(market):
    with Ledger.open(market / "ledger.db", create=False) as ledger:

        def damaged(number):
            raise LedgerError(f"round {number} cannot be read")

        ledger.settlement = damaged
        found = audit(ledger, stored_receipts(market / "kept", nested=True))
    assert len(found) == 16
    assert "round 0, institution 0: the ledger's round can't be read: round 0 cannot" in found[0]


def test_a_folder_without_receipts_is_said(tmp_path):
    for command in (
        ("receipts", "verify", tmp_path),
        ("receipts", "verify", tmp_path / "absent"),
    ):
        result = CliRunner().invoke(cli, [str(argument) for argument in command])
        assert isinstance(result.exception, ReceiptError)
        assert "holds no receipts: name the folder 'receipts'" in str(result.exception)
