"""Attackers in a market, and the inclusive market of every role."""

import pytest
from support import studies

from ipfl_flower.experiment.attacks import ATTACKS
from ipfl_flower.experiment.definition import Choice
from ipfl_flower.experiment.studies import attacks as attacks_module
from ipfl_flower.experiment.studies import inclusive as inclusive_module
from ipfl_flower.experiment.studies.attacks import attacked, attacks
from ipfl_flower.experiment.studies.inclusive import inclusive

bench, digits = studies.bench, studies.digits


def test_an_attackers_seat_is_the_one_that_is_empty_without_it():
    choice = Choice(4, quick=True)
    with_, without = attacked(choice, "ones", "cheap"), attacked(choice, None, "cheap")
    (villain,) = [seat for seat in with_.seats if seat.attack]
    assert villain.role == "attacker"
    assert tuple(seat for seat in with_.seats if not seat.attack) == without.seats
    assert len(without.seats) == 8
    assert villain.task["institution"] == 4


@pytest.mark.usefixtures("digits")
def test_attackers_earn_nothing_and_cost_nobody_accuracy(bench, monkeypatch):
    monkeypatch.setattr(attacks_module, "MARKETS", ("ipfl",))
    monkeypatch.setattr(attacks_module, "OTHERS", ("fedavg",))
    finding = attacks(bench, rounds=3, economies=("cheap",))
    plays = {(one["method"], one["attack"]): one for one in finding.data["plays"]}
    for attack in ATTACKS:
        assert plays["ipfl", attack]["earned"] == [0.0]
        assert plays["ipfl", attack]["share"] == [0.0]
        assert plays["ipfl", attack]["lost"][0] <= attacks_module.TOLERANCE
        # FedAvg takes what it gets: the comparison is one.
        assert plays["fedavg", attack]["share"][0] > 0.1
    assert plays["fedavg", "ones"]["lost"][0] > attacks_module.TOLERANCE
    assert "`ipfl`: the attacker never earns anything." in finding.said


@pytest.mark.usefixtures("digits")
def test_in_an_inclusive_market_everybody_plays_its_role(bench, monkeypatch):
    records = []
    play = bench.play
    monkeypatch.setattr(bench, "play", lambda *given: records.append(play(*given)) or records[-1])
    finding = inclusive(bench, rounds=2, economies=("cheap",))
    roles = {(one["market"], one["role"]): one for one in finding.data["roles"]}
    assert len(roles) == 8
    (record,) = [one for one in records if one["method"] == "ipfl"]
    names = [item["role"] for item in record["institutions"]]
    assert names == ["trader"] * 3 + ["buyer"] * 4 + ["seller"] * 4 + ["attacker"]
    for played in record["rounds"]:
        sold = {j for row in played["imports"] for j in row}
        assert sold
        assert not {names[j] for j in sold} & {"buyer", "attacker"}
        assert all(not row for i, row in enumerate(played["imports"]) if names[i] == "seller")
    # Sellers earn what buyers pay.
    assert roles["ipfl", "seller"]["net"][0] < 0 < roles["ipfl", "buyer"]["net"][0]
    assert len(finding.said) == 4
    assert "the attacker earns more than it pays in 0 of 1 cases." in finding.said[1]
    assert [chart.name for chart in finding.charts] == ["inclusive-cheap"]
    assert tuple(line.name for line in finding.charts[0].lines) == inclusive_module.ROLES
