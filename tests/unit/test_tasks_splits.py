"""The splits are exact partitions, deterministic, and skewed as they say."""

import numpy as np
import pytest

from ipfl_flower.tasks import TaskError, splits

LABELS = np.random.default_rng(5).integers(0, 10, 1000)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_even_parts_hold_every_sample_once():
    parts = splits.even(1003, 6, rng())
    assert sorted(np.concatenate(parts)) == list(range(1003))
    assert {len(part) for part in parts} == {167, 168}


@pytest.mark.parametrize("beta", [0.1, 1.0, 100.0])
def test_dirichlet_parts_hold_every_sample_once(beta):
    parts = splits.dirichlet(LABELS, 8, beta, rng())
    assert sorted(np.concatenate(parts)) == list(range(1000))
    assert min(map(len, parts)) >= splits.SMALLEST_PART


def test_dirichlet_gets_more_even_with_beta():
    def spread(beta):
        parts = splits.dirichlet(LABELS, 5, beta, rng())
        shares = [np.bincount(LABELS[part], minlength=10) / len(part) for part in parts]
        return float(np.std(shares, axis=0).mean())

    assert spread(0.1) > 3 * spread(10.0) > 3 * spread(1000.0)


def test_dirichlet_follows_the_proportions_it_draws():
    labels = np.zeros(1000, np.int64)
    twin = rng(3)
    twin.permutation(1000)
    proportions = twin.dirichlet(np.full(4, 2.0))
    sizes = [len(part) for part in splits.dirichlet(labels, 4, 2.0, rng(3))]
    np.testing.assert_allclose(sizes, 1000 * proportions, atol=1)


def test_dirichlet_that_cannot_be_drawn_says_what_to_change():
    with pytest.raises(TaskError, match=r"50 samples can't be split over 6 .*: raise beta"):
        splits.dirichlet(LABELS[:50], 6, 1.0, rng())


@pytest.mark.parametrize(("parts", "classes"), [(6, 2), (10, 5), (5, 10), (7, 3)])
def test_skewed_parts_hold_their_classes_and_every_sample_once(parts, classes):
    shares = splits.skew(LABELS, parts, classes, rng())
    assert all(len(np.unique(LABELS[share])) == classes for share in shares)
    assert sorted(np.concatenate(shares)) == list(range(1000))


def test_skew_deals_classes_evenly_and_shares_them_equally():
    shares = splits.skew(LABELS, 10, 3, rng())
    counts = np.stack([np.bincount(LABELS[share], minlength=10) for share in shares])
    assert ((counts > 0).sum(axis=0) == 3).all()
    for column in counts.T:
        held = column[column > 0]
        assert held.max() - held.min() <= 1


def test_skew_with_too_few_parts_leaves_classes_to_nobody():
    shares = splits.skew(LABELS, 2, 2, rng())
    taken = np.concatenate(shares)
    assert len(np.unique(taken)) == len(taken)
    assert len(np.unique(LABELS[taken])) == 4


def test_skew_with_more_classes_than_there_are_is_refused():
    with pytest.raises(TaskError, match=r"classes must be ≤ 10, .* is 11"):
        splits.skew(LABELS, 3, 11, rng())


@pytest.mark.parametrize(
    "split",
    [
        lambda r: splits.even(100, 3, r),
        lambda r: splits.dirichlet(LABELS, 3, 0.5, r),
        lambda r: splits.skew(LABELS, 3, 4, r),
    ],
)
def test_a_seed_decides_everything(split):
    first, again, other = split(rng(1)), split(rng(1)), split(rng(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(first, other, strict=True))


def test_groups_permute_labels_and_group_0_keeps_them():
    rows = splits.label_permutations(3, 10, rng())
    np.testing.assert_array_equal(rows[0], np.arange(10))
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(10), (3, 1)))
    assert len({tuple(row) for row in rows}) == 3


def test_quarter_turns_rotate_each_image():
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    turned = splits.quarter_turns(images, 1)
    np.testing.assert_array_equal(turned, [np.rot90(image) for image in images])
    np.testing.assert_array_equal(splits.quarter_turns(images, 4), images)


def test_groups_by_dirichlet_hold_every_sample_once_and_are_alike_inside():
    parts = splits.dirichlet_groups(LABELS, 9, 3, 0.1, rng(1))
    assert sorted(np.concatenate(parts)) == list(range(1000))
    shares = np.stack([np.bincount(LABELS[part], minlength=10) / len(part) for part in parts])
    within = max(np.abs(shares[i] - shares[i + 3]).max() for i in range(6))
    across = min(np.abs(shares[i] - shares[(i + 1) % 3]).max() for i in range(3))
    assert within < 0.15 < across


def test_groups_by_dirichlet_need_an_institution_each():
    with pytest.raises(TaskError, match="groups must be ≤ 2, the institutions, is 3"):
        splits.dirichlet_groups(LABELS, 2, 3, 0.1, rng())
    with pytest.raises(TaskError, match="can't be split over 150 institutions in 3 groups"):
        splits.dirichlet_groups(LABELS, 150, 3, 0.1, rng())
