"""The Gram matrix: close to float64, and the same bits whatever the order and the threads."""

import os

import numpy as np
import pytest

from ipfl_flower.models import Layout, ModelBank, gram
from ipfl_flower.models.rows import RowFile


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    """Durability is tested elsewhere; here many models are put."""
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


@pytest.fixture
def small_steps(monkeypatch):
    """Treat small models as large ones: float32 products, several chunks."""
    monkeypatch.setattr(gram, "_EXACT_SIZE", 0)
    monkeypatch.setattr(gram, "_CHUNK_PARAMETERS", 1)


def family(m, size, spread=0.1, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal(size).astype(dtype)
    models = [
        {"w": (reference + spread * rng.standard_normal(size)).astype(dtype)} for _ in range(m)
    ]
    return {"w": reference}, models


def bank_of(path, reference, rows, **how):
    return ModelBank(path, Layout.of(reference), rows, reference, **how)


def in_float64(reference, models):
    updates = np.stack([a["w"] for a in models]).astype(np.float64)
    updates -= reference["w"].astype(np.float64)
    return updates @ updates.T


def off(computed, exact):
    norms = np.sqrt(np.diagonal(exact))
    return (np.abs(computed - exact) / np.outer(norms, norms)).max()


def squared_distances(matrix):
    squares = np.diagonal(matrix)
    return squares[:, None] + squares - 2 * matrix


@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("size", [700, 2**17 + 33])
def test_it_is_float64s_where_the_textbook_formula_fails(tmp_path, spread, size):
    reference, models = family(6, size, spread)
    with bank_of(tmp_path / "bank", reference, 6) as bank:
        for i, arrays in enumerate(models):
            bank.put(i, arrays)
        computed = bank.gram()
    exact = in_float64(reference, models)
    assert off(computed, exact) < 1e-7
    others = ~np.eye(6, dtype=bool)
    distances = squared_distances(exact)[others]
    np.testing.assert_allclose(squared_distances(computed)[others], distances, rtol=1e-6)
    matrix = np.stack([a["w"] for a in models])
    textbook = squared_distances(matrix @ matrix.T)[others]
    # The same models without the reference subtracted: what is left is rounding.
    error = np.abs(textbook / distances - 1).max()
    assert error > {1e-1: 1e-6, 1e-2: 1e-4, 1e-3: 1e-2, 1e-4: 0.5}[spread]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_dtypes_are_subtracted_without_loss(tmp_path, dtype):
    reference, models = family(3, 2**17, 1e-2 if dtype == np.float16 else 1e-9, dtype=dtype)
    with bank_of(tmp_path / "bank", reference, 3) as bank:
        for i, arrays in enumerate(models):
            bank.put(i, arrays)
        assert off(bank.gram(), in_float64(reference, models)) < 1e-7


@pytest.mark.parametrize("steps", [None, "small_steps"])
def test_its_bits_depend_neither_on_the_order_nor_on_the_threads(tmp_path, request, steps):
    if steps:
        request.getfixturevalue(steps)
    m, size = 150, 21000  # three groups; six blocks, the last not full
    reference, models = family(m, size)
    rng = np.random.default_rng(1)
    orders = [range(m), reversed(range(m)), rng.permutation(m), rng.permutation(m)]
    matrices = []
    for number, order in enumerate(orders):
        with bank_of(tmp_path / str(number), reference, m, threads=1 + number % 3) as bank:
            for i in order:
                bank.put(int(i), models[i])
                if i == 77:
                    bank.gram()  # asking early does not change what comes later
            matrices.append(bank.gram())
    for matrix in matrices[1:]:
        assert matrix.tobytes() == matrices[0].tobytes()
    assert (matrices[0] == matrices[0].T).all()
    assert off(matrices[0], in_float64(reference, models)) < 1e-7


@pytest.mark.usefixtures("small_steps")
def test_an_entry_depends_on_its_two_rows_alone(tmp_path):
    m = 70
    reference, models = family(m, 600)
    there = [0, 3, 34, 36, 69]
    with bank_of(tmp_path / "some", reference, m) as some:
        for i in there:
            some.put(i, models[i])
        partial = some.gram()
    with bank_of(tmp_path / "all", reference, m) as full:
        for i, arrays in enumerate(models):
            full.put(i, arrays)
        whole = full.gram()
    index = np.ix_(there, there)
    assert partial[index].tobytes() == whole[index].tobytes()
    absent = np.delete(np.arange(m), there)
    assert np.isnan(partial[absent]).all()
    assert np.isnan(partial[:, absent]).all()
    assert not np.isnan(whole).any()


@pytest.mark.usefixtures("small_steps")
def test_replaced_rows_leave_no_trace(tmp_path):
    m = 130
    reference, models = family(m, 600)
    _, others = family(m, 600, seed=5)
    with bank_of(tmp_path / "replaced", reference, m) as bank:
        for i in range(m):
            bank.put(i, others[i] if i % 40 == 0 else models[i])
        bank.gram()
        for i in range(0, m, 40):
            bank.put(i, models[i])
        replaced = bank.gram()
    with bank_of(tmp_path / "fresh", reference, m) as bank:
        for i in range(m):
            bank.put(i, models[i])
        assert bank.gram().tobytes() == replaced.tobytes()


def test_what_a_crash_left_in_an_absent_row_does_not_count(tmp_path):
    reference, models = family(3, 100)
    with bank_of(tmp_path / "bank", reference, 3) as bank:
        for i in (0, 1):
            bank.put(i, models[i])
        matrix = bank.gram()
    with (tmp_path / "bank").open("r+b") as file:
        file.seek(-4096, 2)
        file.write(b"\xff" * 400)  # NaN
    with bank_of(tmp_path / "bank", reference, 3) as bank:
        np.testing.assert_array_equal(bank.gram(), matrix)


def test_it_is_folded_as_models_arrive_in_few_passes(tmp_path, monkeypatch):
    m = 640
    reference, models = family(m, 8)
    reads = []
    read_into = RowFile.read_into

    def counted(self, buffer, i, first):
        reads.append(i)
        read_into(self, buffer, i, first)

    monkeypatch.setattr(RowFile, "read_into", counted)
    with bank_of(tmp_path / "bank", reference, m) as bank:
        for i, arrays in enumerate(models):
            bank.put(i, arrays)
            if i == 64:
                assert reads == list(range(64))
        assert len(reads) <= 4 * m
        matrix = bank.gram()
        assert len(reads) <= 5 * m
        bank.gram()
        assert len(reads) <= 5 * m  # nothing is computed twice
    np.testing.assert_allclose(matrix, in_float64(reference, models), rtol=1e-9, atol=1e-12)


def test_an_update_too_large_for_its_square_spoils_its_own_entries_alone(tmp_path, small_steps):
    reference, models = family(4, 600)
    models[2]["w"][5] = 3e38
    with bank_of(tmp_path / "bank", reference, 4) as bank:
        for i, arrays in enumerate(models):
            bank.put(i, arrays)
        matrix = bank.gram()
    assert matrix[2, 2] == np.inf
    keep = np.ix_([0, 1, 3], [0, 1, 3])
    assert off(matrix[keep], in_float64(reference, [models[i] for i in (0, 1, 3)])) < 1e-6


def test_edge_cases(tmp_path):
    empty = {"w": np.zeros((0, 3), np.float32)}
    with bank_of(tmp_path / "empty", empty, 2) as bank:
        for i in range(2):
            bank.put(i, empty)
        assert (bank.gram() == np.zeros((2, 2))).all()
        assert [i for i, _ in bank.centres(np.eye(2))] == [0, 1]
    reference, models = family(1, 3)
    with bank_of(tmp_path / "one", reference, 1) as bank:
        assert np.isnan(bank.gram()).all()
        bank.put(0, reference)
        assert bank.gram() == 0
        bank.put(0, models[0])
        np.testing.assert_allclose(bank.gram(), in_float64(reference, models))
