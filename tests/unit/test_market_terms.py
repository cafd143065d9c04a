"""Terms and Rules: what they refuse, and how they say so."""

import json
from dataclasses import FrozenInstanceError, asdict
from math import inf, nan

import numpy as np
import pytest

from ipfl_flower.market import Rules, RulesError, Terms, TermsError


def test_terms_keep_plain_python_numbers():
    terms = Terms(np.int64(5), np.float64(1.5), 2, 3)
    assert (type(terms.samples), type(terms.cost), type(terms.eagerness)) == (int, float, float)
    assert terms == Terms(5, 1.5, 2.0, 3.0)
    assert Terms(1, 1.0, 1.0).budget == inf
    assert Terms(0, inf, 0.0, inf).cost == inf
    with pytest.raises(FrozenInstanceError):
        terms.cost = 0.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": True}, "samples must be an integer, is True"),
        ({"samples": 5.0}, "samples must be an integer, is 5.0"),
        ({"samples": "5"}, "samples must be an integer, is '5'"),
        ({"samples": -1}, "samples is -1: report a count from 0"),
        ({"samples": 2**53 + 1}, "samples is 9007199254740993"),
        ({"cost": -0.5}, "cost is -0.5: report 0 or more, or inf"),
        ({"cost": nan}, "cost is nan"),
        ({"cost": True}, "cost must be a number, is True"),
        ({"cost": "1"}, "cost must be a number, is '1'"),
        ({"cost": 10**400}, "cost is 1.*: too large for float64"),
        ({"eagerness": -1.0}, "eagerness is -1.0: report a finite number, 0 or more"),
        ({"eagerness": inf}, "eagerness is inf"),
        ({"eagerness": nan}, "eagerness is nan"),
        ({"budget": -1e-9}, "budget is -1e-09: report 0 or more, or inf"),
        ({"budget": nan}, "budget is nan"),
        ({"budget": None}, "budget must be a number, is None"),
    ],
)
def test_terms_out_of_range_are_refused_by_name(fields, message):
    with pytest.raises(TermsError, match=message):
        Terms(**{"samples": 100, "cost": 1.0, "eagerness": 1e4, **fields})


def test_a_mechanism_names_a_selection_and_a_payment():
    assert (Rules().selection, Rules().payment) == ("exact", "critical")
    paper = Rules("paper")
    assert (paper.selection, paper.payment) == ("greedy", "marginal")
    assert Rules("paper", payment="critical").selection == "greedy"
    assert Rules("truthful", selection="skip").payment == "critical"
    assert Rules("truthful") == Rules("truthful", selection="exact")


@pytest.mark.parametrize("rules", [Rules(), Rules("paper", 2, inf, node_cap=np.int64(7))])
def test_rules_survive_json(rules):
    assert Rules(**json.loads(json.dumps(asdict(rules)))) == rules


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mechanism": "fair"}, "mechanism is 'fair': choose one of truthful, paper"),
        ({"selection": "all"}, "selection is 'all': choose one of greedy, skip, exact"),
        ({"payment": "none"}, "payment is 'none': choose one of marginal, critical"),
        ({"distance_weight": -1}, "distance_weight is -1.0"),
        ({"distance_weight": inf}, "distance_weight is inf"),
        ({"distance_weight": nan}, "distance_weight is nan"),
        ({"distance_weight": None}, "distance_weight must be a number"),
        ({"max_volume_ratio": 0}, "max_volume_ratio is 0.0"),
        ({"max_volume_ratio": nan}, "max_volume_ratio is nan"),
        ({"node_cap": 0}, "node_cap is 0"),
        ({"node_cap": 1.5}, "node_cap is 1.5"),
        ({"node_cap": True}, "node_cap is True"),
    ],
)
def test_rules_out_of_range_are_refused_by_name(fields, message):
    with pytest.raises(RulesError, match=message):
        Rules(**fields)
