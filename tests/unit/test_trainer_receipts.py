"""An institution's receipts: kept, pinned to a key, never replaced, and the alarms about them."""

import dataclasses
import logging

import pytest
from support.device import DEVICE
from support.rounds import four_distances, four_terms, play, settled

from ipfl_flower.ledger import Ledger
from ipfl_flower.market import Rules
from ipfl_flower.notary import OPERATOR_KEY, Minutes, Notary
from ipfl_flower.receipts import (
    ReceiptError,
    ReceiptFolder,
    SignedReceipt,
    load_or_make_key,
    sign,
)
from ipfl_flower.tasks import load_task
from ipfl_flower.trainer import FitRequest, Institution, Trainer
from ipfl_flower.trainer.initial import initial_model
from ipfl_flower.trainer.proximal import Sgd
from ipfl_flower.trainer.receipts import Receipts

THETA_0 = initial_model({"name": "digits"}, 0)


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return load_or_make_key(tmp_path_factory.mktemp("operator") / "receipt.key")


@pytest.fixture(scope="module")
def signed(tmp_path_factory, key):
    """Return institution 1's signed receipts of three rounds."""
    notary = Notary(key)
    rounds = [settled(n, four_terms(), four_distances(n), Rules()) for n in range(3)]
    with Ledger.open(tmp_path_factory.mktemp("ledger") / "ledger.db") as ledger:
        play(ledger, rounds, {OPERATOR_KEY: notary.public_key})
        return [notary.signed(Minutes.of(ledger, settlement), 1) for settlement in rounds]


@pytest.fixture
def folder(tmp_path):
    """Return a folder in which the terms of three rounds are noted."""
    folder = ReceiptFolder(tmp_path / "receipts")
    for number in range(3):
        folder.report(number, four_terms()[1])
    return folder


def names(tmp_path, pattern="*"):
    return sorted(path.name for path in (tmp_path / "receipts").glob(pattern))


def take(folder, signed, asked_in=None):
    return folder.take(signed.to_json(), asked_in or signed.receipt.round + 1)


def test_receipts_that_fit_are_kept_as_they_came(tmp_path, folder, signed):
    for item in signed:
        assert take(folder, item) == []
    assert names(tmp_path, "round-*") == [f"round-00000{n}.json" for n in range(3)]
    for n, item in enumerate(signed):
        assert (tmp_path / "receipts" / f"round-00000{n}.json").read_text() == item.to_json()
    assert (tmp_path / "receipts" / "operator.key").read_text().strip() == signed[0].key
    assert not names(tmp_path, ".*")


def test_the_same_receipt_again_changes_nothing(tmp_path, folder, signed):
    take(folder, signed[0])
    take(folder, signed[1])
    before = names(tmp_path)
    assert take(folder, signed[0], 2) == []
    assert take(folder, signed[1]) == []
    assert names(tmp_path) == before


def test_another_receipt_of_the_same_round_is_an_alarm_and_replaces_nothing(
    tmp_path, folder, signed, key
):
    take(folder, signed[0])
    other = sign(dataclasses.replace(signed[0].receipt, head="0" * 64), key)
    assert take(folder, other) == ["another receipt of this round is stored already"]
    assert (tmp_path / "receipts" / "round-000000.json").read_text() == signed[0].to_json()
    assert len(folder.alarms()) == 1
    take(folder, other)
    assert len(folder.alarms()) == 1


def test_a_receipt_of_an_earlier_round_that_never_came_is_an_alarm(folder, signed):
    take(folder, signed[0])
    take(folder, signed[2])
    assert "round 1 comes after the receipt of round 2" in take(folder, signed[1])


def test_a_receipt_of_a_round_that_is_not_over_is_an_alarm(folder, signed):
    assert take(folder, signed[0]) == []
    assert take(folder, signed[1], 1) == ["round 1 was not over when round 1 began"]


def test_a_gap_in_the_chain_is_an_alarm(folder, signed, key):
    take(folder, signed[0])
    other = sign(dataclasses.replace(signed[1].receipt, previous="0" * 64), key)
    assert any("the receipt of round 0 ended at" in finding for finding in take(folder, other))


def test_the_key_of_the_first_receipt_is_pinned(tmp_path, folder, signed):
    take(folder, signed[0])
    other = load_or_make_key(tmp_path / "other.key")
    findings = take(folder, sign(signed[1].receipt, other))
    assert findings[0].startswith("signed with key ")
    assert take(folder, dataclasses.replace(signed[1], signature="0" * 128)) == [
        f"the signature is not one of key {signed[1].key[:16]}: damaged or forged"
    ]


def test_a_key_that_is_given_counts_from_the_first_receipt_on(tmp_path, signed):
    folder = ReceiptFolder(tmp_path / "receipts", "0" * 64)
    assert take(folder, signed[0])[0].endswith("the operator's is 0000000000000000")
    assert names(tmp_path, "operator.key") == []


def test_terms_that_were_not_reported_are_an_alarm(tmp_path, signed):
    folder = ReceiptFolder(tmp_path / "receipts")
    folder.report(0, four_terms()[2])
    findings = take(folder, signed[0])
    assert "own samples was settled as 140, reported was 180" in findings
    assert "this institution reported nothing in that round" in take(folder, signed[1])


def test_either_of_two_reports_of_a_round_may_be_settled(tmp_path, folder, signed):
    folder.report(0, four_terms()[2])
    folder.report(0, four_terms()[1])
    assert names(tmp_path, "terms-000000*") == ["terms-000000.1.json", "terms-000000.json"]
    assert take(folder, signed[0]) == []


def test_who_lost_its_disk_takes_the_receipt_without_its_terms(tmp_path, signed):
    assert take(ReceiptFolder(tmp_path / "receipts"), signed[1]) == []


def test_a_damaged_file_of_its_own_is_an_alarm(tmp_path, folder, signed):
    take(folder, signed[0])
    (tmp_path / "receipts" / "terms-000001.json").write_text("{}")
    assert "can't be checked against what is stored" in take(folder, signed[1])[0]
    (tmp_path / "receipts" / "round-000000.json").write_text("{}")
    assert any("what is stored of this round is damaged" in f for f in take(folder, signed[0]))
    (tmp_path / "receipts" / "operator.key").write_text("{}")
    with pytest.raises(ReceiptError, match="holds no operator's public key"):
        take(folder, signed[2])


def test_a_folder_that_cannot_be_written_is_said(tmp_path, signed):
    (tmp_path / "receipts").write_text("a file")
    with pytest.raises(ReceiptError, match="can't be written"):
        take(ReceiptFolder(tmp_path / "receipts"), signed[0])


def test_what_is_no_receipt_is_an_alarm_with_what_came(tmp_path, caplog):
    receipts = Receipts(tmp_path, None, "continue")
    with caplog.at_level(logging.ERROR):
        assert receipts.take({"round": 2}, 3, centre=False) == 1
    assert "ALARM: the receipt that came with round 3: the signed receipt has no" in caplog.text
    (alarm,) = names(tmp_path)
    assert alarm.startswith("message-000003.")
    assert '{\\"round\\":2}' in (tmp_path / "receipts" / alarm).read_text()
    assert receipts.take({"round": {1, 2}}, 4, centre=False) == 2


def test_a_centre_without_a_receipt_and_a_bill_without_a_centre_are_alarms(tmp_path, signed):
    receipts = Receipts(tmp_path, None, "continue")
    assert receipts.take({}, 0, centre=False) == 0
    assert receipts.take(None, 1, centre=True) == 0
    assert receipts.take({}, 1, centre=True) == 1
    assert receipts.take(signed[1].to_object(), 2, centre=False) == 2


def test_stopping_on_an_alarm_lasts_until_the_file_is_moved_away(tmp_path, signed):
    receipts = Receipts(tmp_path, None, "stop")
    assert receipts.take(signed[0].to_object(), 1, centre=True) == 0
    with pytest.raises(ReceiptError, match=r"stopped on an alarm.*settle it with the operator"):
        receipts.take({}, 2, centre=True)
    with pytest.raises(ReceiptError, match="stopped on an alarm"):
        receipts.take(signed[1].to_object(), 2, centre=True)
    for path in (tmp_path / "receipts").glob("*.alarm.json"):
        path.unlink()
    assert receipts.take(signed[1].to_object(), 2, centre=True) == 0


def institution(folder, **values):
    task = load_task("digits", split="clusters", institution=1, institutions=6, samples=60, seed=1)
    return Institution(
        name="institution 1",
        state_dir=folder,
        device=DEVICE,
        threads=1,
        leaving=False,
        terms=four_terms()[1],
        sgd=Sgd(iterations=2, batch_size=16, learning_rate=0.2),
        task=task,
        **values,
    )


def test_a_trainer_keeps_its_terms_and_receipts_and_counts_alarms(tmp_path, signed):
    trainer = Trainer(institution(tmp_path))
    assert trainer.fit(FitRequest(0, initial=THETA_0, receipt={})).metrics["receipt_alarms"] == 0
    good = FitRequest(1, centre=THETA_0, receipt=signed[0].to_object())
    assert trainer.fit(good).metrics["receipt_alarms"] == 0
    assert names(tmp_path) == [
        *("operator.key", "round-000000.json", "terms-000000.json", "terms-000001.json")
    ]
    reply = trainer.fit(FitRequest(2, centre=THETA_0, receipt=signed[2].to_object()))
    assert reply.metrics["receipt_alarms"] == 1  # of a round that was not over
    last = FitRequest(3, centre=THETA_0, train=False, receipt=signed[2].to_object())
    assert trainer.fit(last).metrics["receipt_alarms"] == 1
    assert "terms-000003.json" not in names(tmp_path)


def test_a_trainer_that_stops_on_an_alarm_trains_no_more(tmp_path, signed):
    trainer = Trainer(institution(tmp_path, on_alarm="stop"))
    trainer.fit(FitRequest(0, initial=THETA_0))
    damaged = dataclasses.replace(signed[0], signature="0" * 128)
    for _ in range(2):
        with pytest.raises(ReceiptError, match="stopped on an alarm about a receipt, see "):
            trainer.fit(FitRequest(1, centre=THETA_0, receipt=damaged.to_object()))
    assert SignedReceipt.from_json(damaged.to_json()) == damaged
