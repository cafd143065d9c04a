"""Markets at both economics."""

from support import studies
from support.experiments import tiny

from ipfl_flower.experiment.settings import SETTINGS
from ipfl_flower.experiment.studies.economies import bought, economies, elsewhere
from ipfl_flower.tasks import TaskDataError

bench = studies.bench


def test_both_economics_are_played_and_missing_data_is_said(bench, monkeypatch):
    def unfound(choice):
        raise TaskDataError("no moon in sight: fly there")

    monkeypatch.setitem(SETTINGS, "tiny", lambda choice: tiny(choice.seed, rounds=2))
    monkeypatch.setitem(SETTINGS, "moon", unfound)
    finding = economies(bench, ["tiny", "moon"])
    plays = {(one["market"], one["economics"]): one for one in finding.data["plays"]}
    assert len(plays) == len(finding.tables[0].rows) == 4
    assert plays["ipfl", "cheap"]["utility"][0] > plays["ipfl", "paper"]["utility"][0]
    assert finding.said[-1] == "**Not played**: `moon`."
    why = "**Not played**: setting moon: no moon in sight: fly there"
    assert finding.details == {"`moon`": [why]}


def test_models_bought_are_counted_by_institution_and_round():
    assert bought({"rounds": [{"imports": [[1], [0, 2], []]}, {"imports": [[], [], []]}]}) == 0.5


def test_markets_are_played_at_the_economics_that_is_not_their_settings_own(bench, monkeypatch):
    monkeypatch.setitem(SETTINGS, "tiny", lambda choice: tiny(choice.seed, rounds=1))
    monkeypatch.setattr(bench, "play", lambda setting, method: (setting.economics, method))
    assert list(elsewhere(bench, ["tiny"], ["ipfl", "ipfl-paper"])) == [
        ("paper", "ipfl"),
        ("paper", "ipfl-paper"),
    ]
