"""What is left after the last delivery, and baselines that a report compares with."""

import json

import numpy as np
import pytest
from support import console_market as cm
from support import reports
from support.reports import NOW, Read

from ipfl_flower.ledger import Ledger
from ipfl_flower.report import (
    ReportError,
    compared,
    compared_with_file,
    market_page,
    read_baselines,
    read_market,
)

path, market = reports.path, reports.market


def finished(ledger):
    """Play a market to its end; everybody but birch says in the end how it did."""
    cm.begin(ledger)
    for number in range(2):
        ledger.open_round(number, range(len(cm.NAMES)), cm.DEADLINE_S, 2)
        ledger.collect(number)
        cm.settle(ledger, cm.settlement(number))
        ledger.deliver(number)
    ledger.acknowledge(1, cm.BIRCH, {"best_test_accuracy": 0.123})  # of an earlier end
    for i in (cm.ALDER, cm.CEDAR):
        ledger.acknowledge(2, i, {"best_test_accuracy": 0.99})
    ledger.acknowledge(2, cm.ELM, {"best_test_accuracy": 7.0})


def test_the_last_word_counts_and_an_earlier_end_does_not(tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        finished(ledger)
        market = read_market(ledger, now=NOW)
    assert np.flatnonzero(~np.isnan(market.final)).tolist() == [cm.ALDER, cm.CEDAR]
    page = market_page(market)
    rows = {row[0]: row[1] for row in Read(page).table("Test accuracy in percent")[1:]}
    assert rows["alder"] == "99.0"
    assert rows["birch"] == f"{100 * cm.metrics(1, cm.BIRCH)['best_test_accuracy']:.1f}"
    assert "alder, the end: 99.0" in page


def demo_result(market, head):
    rows = [
        {"name": name, "local_accuracy": 0.5 + i / 100, "fedavg_accuracy": 0.25}
        for i, name in enumerate(market.book.names)
    ]
    return {"institutions": rows, "ledger": {"head": head}}


def test_a_demos_result_beside_the_ledger_is_used_where_it_is_of_this_market(market, tmp_path):
    file = tmp_path / "result.json"
    assert "No baselines are known" in compared_with_file(market, file).baselines_note
    file.write_text(json.dumps(demo_result(market, market.book.head)))
    found = compared_with_file(market, file)
    page = Read(market_page(found))
    rows = {row[0]: row[2:4] for row in page.table("Test accuracy in percent")}
    assert rows["Institution"] == ["alone", "FedAvg"]
    assert rows["birch"] == ["51.0", "25.0"]
    assert rows["Mean"] == ["54.0", "25.0"]
    assert "alone: 54.0 %, FedAvg: 25.0 %" in page.text
    assert market_page(found).count('class="level"') == 2
    file.write_text(json.dumps(demo_result(market, "0" * 64)))
    other = compared_with_file(market, file)
    assert other.baselines is None
    assert "of another market" in market_page(other)
    file.write_text("{")
    assert "is no JSON" in compared_with_file(market, file).baselines_note


def test_baselines_that_are_named_must_be_of_these_institutions(market, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"local": {"birch": 0.5, "stranger": 0.1}, "Ditto": {"elm": 0.75}}))
    found = compared(market, read_baselines(file))
    rows = {row[0]: row[2:4] for row in Read(market_page(found)).table("Test accuracy in percent")}
    assert rows["Institution"] == ["alone", "Ditto"]
    assert rows["elm"] == ["–", "75.0"]
    assert rows["Mean"] == ["50.0", "75.0"]  # the stranger doesn't count
    file.write_text(json.dumps({"local": {"stranger": 0.5}}))
    with pytest.raises(ReportError, match="none of this market's institutions: alder, birch"):
        compared(market, read_baselines(file))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "no object"),
        ("{}", "no object"),
        ('{"a": 1}', "'a' in it is no object"),
        ('{"a": {"b": 2}}', "no accuracy from 0 to 1"),
        ('{"a": {"b": NaN}}', "no accuracy from 0 to 1"),
        ('{"a": {"b": true}}', "no accuracy from 0 to 1"),
        ('{"institutions": [1]}', "has no name"),
        ('{"institutions": [{"name": "a"}]}', "neither local_accuracy nor fedavg_accuracy"),
        (json.dumps({str(k): {"a": 0.5} for k in range(5)}), "more than 4 baselines"),
    ],
)
def test_what_holds_no_baselines_is_refused(tmp_path, content, said):
    file = tmp_path / "file.json"
    file.write_text(content)
    with pytest.raises(ReportError, match=r"file\.json") as caught:
        read_baselines(file)
    assert said in str(caught.value)
    with pytest.raises(ReportError, match="can't be read"):
        read_baselines(tmp_path / "missing.json")
