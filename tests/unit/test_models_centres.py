"""Prox-centres: Θ + M V, in the layout's dtypes, one at a time and again."""

import errno
import os

import numpy as np
import pytest

from ipfl_flower.models import BankError, Layout, ModelBank

M = 5


def model(seed, spread=0.1):
    rng = np.random.default_rng(seed)
    return {
        "w": (np.linspace(-2, 2, 9000) + spread * rng.standard_normal(9000)).astype(np.float32),
        "d": 1.0 + spread * rng.standard_normal((3, 2)),
        "h": (1 + spread * rng.standard_normal(5)).astype(np.float16),
    }


REFERENCE = model(99, 0.0)


@pytest.fixture
def bank(tmp_path):
    with ModelBank(tmp_path / "bank", Layout.of(REFERENCE), M, REFERENCE, threads=2) as bank:
        for i in range(M - 1):
            bank.put(i, model(i))
        yield bank


@pytest.fixture
def mixing():
    weights = np.random.default_rng(0).standard_normal((M, M))
    weights[:, M - 1] = 0  # absent
    weights[[1, M - 1]] = 0
    return weights


def expected(weights, i, name):
    updates = [
        model(j)[name].astype(np.float64) - REFERENCE[name].astype(np.float64) for j in range(M - 1)
    ]
    return model(i)[name] + np.tensordot(weights[i, : M - 1], updates, 1)


def test_they_are_float64s_rounded_to_the_layouts_dtypes(bank, mixing):
    centres = dict(bank.centres(mixing))
    assert list(centres) == [0, 2, 3]
    for i, arrays in centres.items():
        assert Layout.of(arrays) == bank.layout
        for name, rtol in (("w", 3e-7), ("d", 1e-7), ("h", 2.0**-10)):
            np.testing.assert_allclose(
                arrays[name], expected(mixing, i, name), rtol=rtol, atol=1e-7
            )


def test_float64_is_added_in_float64(bank):
    weights = np.zeros((M, M))
    weights[0, 0] = 1e-12
    _, centre = next(bank.centres(weights))
    moved = centre["d"] - model(0)["d"]
    np.testing.assert_allclose(moved, 1e-12 * (model(0)["d"] - 1.0), atol=3e-16)
    assert (moved != 0).any()
    assert (centre["w"] == model(0)["w"]).all()


def test_one_can_be_read_again_and_the_last_mixing_counts(bank, mixing):
    centres = dict(bank.centres(mixing))
    for _ in range(2):
        for name, array in bank.centre(2).items():
            assert array.tobytes() == centres[2][name].tobytes()
    only = np.zeros((M, M))
    only[1, 0] = 0.5
    assert bank.write_centres(only) == [1]
    np.testing.assert_allclose(bank.centre(1)["d"], expected(only, 1, "d"), rtol=1e-7)
    with pytest.raises(BankError, match="holds no centre of row 2"):
        bank.centre(2)
    assert bank.write_centres(np.zeros((M, M))) == []
    with pytest.raises(BankError, match="holds no centre of row 1"):
        bank.centre(1)


def test_the_same_round_gives_the_same_bytes_on_any_number_of_threads(bank, mixing, tmp_path):
    first = {i: {k: a.tobytes() for k, a in c.items()} for i, c in bank.centres(mixing)}
    bank.close()
    with ModelBank(tmp_path / "bank", bank.layout, M, REFERENCE, threads=1) as again:
        assert {
            i: {k: a.tobytes() for k, a in c.items()} for i, c in again.centres(mixing)
        } == first


def test_half_precision_takes_the_nearest_finite_value(tmp_path):
    reference = {"h": np.zeros(2, np.float16), "b": np.zeros(2, np.int16)}
    top = {
        "h": np.array([6e4, -6e4], np.float16),
        "b": np.array([0x7F7F, 0xFF7F - 2**16], np.int16),
    }
    with ModelBank(tmp_path / "half", Layout.of(reference), 1, reference) as bank:
        bank.put(0, top)
        _, centre = next(bank.centres(np.array([[0.5]])))
        assert centre["h"].tolist() == [65504, -65504]
        assert centre["b"].view(np.uint16).tolist() == [0x7F7F, 0xFF7F]


def test_a_model_that_nobody_mixes_spoils_nothing(bank, mixing):
    huge = model(1) | {"d": np.full((3, 2), 1e300)}
    mixing[:, 1] = 0
    before = dict(bank.centres(mixing))
    bank.put(1, huge)
    for i, centre in bank.centres(mixing):
        assert all((centre[name] == before[i][name]).all() for name in centre)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros((M, M + 1)), "has shape (5, 6), the bank 5 rows"),
        (np.full((M, M), np.nan), "holds a NaN or an infinity"),
        (np.eye(M)[::-1], "gives row 4 a weight, which holds no model"),
        (np.eye(M), "gives row 4 a weight, which holds no model"),
    ],
)
def test_a_wrong_mixing_is_refused_before_the_last_centres_are_lost(bank, mixing, weights, message):
    bank.write_centres(mixing)
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        bank.centres(weights)
    bank.centre(0)


def test_a_full_disk_is_named_and_leaves_no_centre(bank, mixing, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(BankError, match=r"bank\.centres can't be written \(No space left"):
            bank.write_centres(mixing)
    with pytest.raises(BankError, match="holds no centre of row 0"):
        bank.centre(0)
    assert bank.write_centres(mixing) == [0, 2, 3]


def test_a_centre_that_is_there_no_more_is_not_mistaken_for_another(bank, mixing):
    bank.write_centres(mixing)
    old = bank.centre(0)
    kept = old["w"].tobytes()
    bank.write_centres(2 * mixing)
    with pytest.raises(BankError, match="holds other centres by now: ask for the centre again"):
        old["w"]
    assert bank.centre(0)["w"].tobytes() != kept
    assert list(old) == list(REFERENCE)
