import tomllib
from pathlib import Path

import pytest

from ipfl_flower.settings import PRESETS, Settings, SettingsError

PATHS = {"ledger": "/m/ledger.db", "models-dir": "/m/models", "initial-model": "/m/theta0.npz"}


def test_the_default_preset_is_truthful_with_a_weighted_mean_as_centre():
    settings = Settings.read(PATHS)
    assert settings.preset == "recommended"
    rules = settings.rules()
    assert (rules.selection, rules.payment) == ("exact", "critical")
    assert (settings.centre, settings.eta, settings.start) == ("l2", "auto", "centre")


def test_the_paper_preset_is_the_papers():
    settings = Settings.read({**PATHS, "preset": "paper"})
    rules = settings.rules()
    assert (rules.selection, rules.payment) == ("greedy", "marginal")
    assert (settings.centre, settings.start, settings.prox_weight) == ("cosine", "own", "auto")


def test_a_given_value_wins_over_the_preset_and_an_empty_one_does_not():
    settings = Settings.read({**PATHS, "preset": "paper", "eta": 2.0, "start": "", "rounds": 3})
    assert (settings.eta, settings.start, settings.rounds) == (2.0, "own", 3)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"preset": "best"}, "setting preset is 'best': choose one of paper, recommended"),
        ({"rounds": 0}, "setting rounds: .*greater than or equal to 1, is 0"),
        ({"quorum": "many"}, "setting quorum: .*is 'many'"),
        ({"lambda": 1.0}, "setting lambda is unknown"),
        ({"distance_weight": 1.0}, "setting distance_weight is unknown"),
        ({"distance-weight": -1.0}, "setting distance-weight: .*is -1.0"),
        ({"distance-weight": float("nan")}, "setting distance-weight"),
        ({"eta": 0.0}, "eta must be positive, is 0"),
        ({"eta": float("inf")}, "eta must be positive, is inf"),
        ({"centre": "cosine"}, 'eta = "auto" needs centre = "l2"'),
        ({"reference": "median"}, "setting reference: .*is 'median'"),
        (
            {"reference": "mean", "distance": "l2"},
            'reference = "mean" needs distance = "cosine": l2 does not depend on the reference',
        ),
        ({"prox-weight": -0.1}, "prox-weight must not be negative, is -0.1"),
        ({"models-dir": "models"}, "models-dir must be an absolute path, is models"),
        ({"receipt-key": "key"}, "receipt-key must be an absolute path, is key"),
        ({"ledger": ""}, "setting ledger is missing: give it a value"),
    ],
)
def test_a_wrong_setting_is_named(values, said):
    with pytest.raises(SettingsError, match=said):
        Settings.read({**PATHS, **values})


def test_the_signing_key_lies_beside_the_models_unless_it_is_named():
    assert Settings.read(PATHS).receipt_key_file == Path("/m/receipt.key")
    named = Settings.read({**PATHS, "receipt-key": "/k/operator.pem"})
    assert named.receipt_key_file == Path("/k/operator.pem")


def test_several_wrong_settings_are_all_named():
    with pytest.raises(SettingsError, match=r"rounds.*; .*deadline-s"):
        Settings.read({**PATHS, "rounds": 0, "deadline-s": -1.0})


def test_what_the_app_declares_is_exactly_what_settings_know():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    declared = project["tool"]["flwr"]["app"]["config"]
    known = {field.alias for field in Settings.model_fields.values()}
    assert set(declared) == known
    assert set(declared.values()) == {""}
    assert all(set(preset) <= known for preset in PRESETS.values())


def test_the_contract_leaves_out_where_things_lie_and_how_long_they_may_take():
    here = Settings.read(PATHS)
    there = Settings.read({**PATHS, "ledger": "/n/ledger.db", "deadline-s": 5.0})
    assert here.contract() == there.contract()
    assert here.contract() != Settings.read({**PATHS, "distance-weight": 2.0}).contract()


def test_the_contract_names_the_reference_only_where_it_is_not_what_older_ledgers_mean():
    assert "reference" not in Settings.read(PATHS).contract()
    assert Settings.read({**PATHS, "reference": "mean"}).contract()["reference"] == "mean"
