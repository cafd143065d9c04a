"""Synthetic markets, and how a market's server scales with institutions and parameters."""

import dataclasses
import itertools

import numpy as np
import pytest
from support import studies

from ipfl_flower.experiment.definition import ExperimentError
from ipfl_flower.experiment.studies import scale as scale_module
from ipfl_flower.experiment.studies import server
from ipfl_flower.experiment.studies.scale import message_bytes, scale
from ipfl_flower.experiment.studies.synthetic import ACROSS, WITHIN, Synthetic
from ipfl_flower.market import distances

bench = studies.bench


def test_synthetic_updates_are_as_alike_as_they_are_said_to_be():
    scene = Synthetic(institutions=9, groups=3, parameters=20_000, seed=1)
    apart = distances(scene.gram(), "cosine")
    groups = np.arange(9) % 3
    same = groups[:, None] == groups
    off = ~np.eye(9, dtype=bool)
    np.testing.assert_allclose(1 - apart[same & off], WITHIN, atol=0.03)
    np.testing.assert_allclose(1 - apart[~same], ACROSS, atol=0.03)
    again = np.stack(list(scene.updates()))
    np.testing.assert_array_equal(again, np.stack(list(scene.updates())))
    other = np.stack(list(dataclasses.replace(scene, seed=2).updates()))
    assert not np.array_equal(again, other)


def test_synthetic_terms_have_the_papers_value_at_the_mean_size():
    terms = Synthetic(30, 3, 10, seed=0).terms(10.0, 1.0)
    mean = np.mean([one.samples for one in terms])
    assert {one.eagerness for one in terms} == {100 * mean}
    assert {one.cost for one in terms} == {1.0}


def test_a_servers_round_at_scale(tmp_path):
    took = server.play(Synthetic(12, 3, 2_000, seed=0), tmp_path)
    assert [(one["economics"], one["preset"]) for one in took["clearings"]] == list(
        itertools.product(("paper", "cheap"), ("paper", "recommended"))
    )
    for one in took["clearings"]:
        assert one["density"] == pytest.approx(one["edges"] / (12 * 11))
        assert 0 < one["buyers"] <= 12
        assert one["utility"] > 0
    cheap = {one["preset"]: one for one in took["clearings"] if one["economics"] == "cheap"}
    assert cheap["recommended"]["own_group"] == 1.0
    assert took["memory_peak"] >= took["memory_start"] > 0


def test_what_travels_is_a_model_and_little_else():
    small, large = message_bytes(1_000), message_bytes(3_000)
    for kind in ("reply", "centre"):
        assert 8_000 <= large[kind] - small[kind] <= 8_020
        assert 4_000 < small[kind] < 4_000 + 2_000
    assert large["empty"] == small["empty"] < 1_000


def test_scale_is_played_in_processes_of_its_own_and_kept(bench, monkeypatch):
    finding = scale(bench, institutions=(4, 8), parameters=500)
    assert [row[0] for row in finding.tables[0].rows] == ["4", "8"]
    assert bench.cache.cpu_seconds > 0
    monkeypatch.setattr(scale_module.subprocess, "run", None)
    assert scale(bench, institutions=(4, 8), parameters=500).data == finding.data


def test_a_scale_that_fails_says_which(bench):
    with pytest.raises(ExperimentError, match="study scale, 0 institutions: ValueError"):
        scale(bench, institutions=(0,), parameters=500)
