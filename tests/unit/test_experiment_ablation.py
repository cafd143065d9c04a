"""The market's own parameters, one by one: where it degrades and what validation would choose."""

import pytest
from support import studies

from ipfl_flower.experiment.studies.ablation import ablation, boundary

bench, digits = studies.bench, studies.digits


def sweep(*accuracies):
    points = [{"value": float(k), "accuracy": [a]} for k, a in enumerate(accuracies)]
    return {"points": points}


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ((0.5, 0.7, 0.6, 0.5), (1.0, 0.7, 2.0)),
        ((0.5, 0.7, 0.6, 0.695), (1.0, 0.7, None)),
        ((0.5, 0.7, 0.695, 0.68), (1.0, 0.7, 3.0)),
        ((0.5, 0.6, 0.7), (2.0, 0.7, None)),
    ],
)
def test_the_boundary_is_where_it_degrades_for_good(accuracies, expected):
    assert boundary(sweep(*accuracies)) == expected


@pytest.mark.usefixtures("digits")
def test_ablation_says_what_validation_would_choose(bench, monkeypatch):
    monkeypatch.setattr("ipfl_flower.experiment.studies.ablation.WEIGHTS_QUICK", (0.5, 5.0))
    etas = {"paper": (0.5,), "recommended": (0.1,)}
    monkeypatch.setattr("ipfl_flower.experiment.studies.ablation.ETAS_QUICK", etas)
    finding = ablation(bench, rounds=1)
    assert [len(one["points"]) for one in finding.data["sweeps"]] == [2, 2, 1, 2, 2, 1]
    assert all("validation data would choose" in line for line in finding.said)
    assert "5 (preset)" in {row[0] for row in finding.tables[0].rows}
