"""Any mixture of tensors goes into the bank and comes out, and its arithmetic is float64's."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ipfl_flower.models import Layout, ModelBank, ModelError, blocks, load_model, save_model

DTYPES = st.sampled_from(["float16", "float32", "float64", "int16"])
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
NAMES = st.text(min_size=1, max_size=8)


def finite_bits(dtype, bits):
    """Turn any bits into a finite number of `dtype`: -0.0, subnormals and the extremes included."""
    exponent = {"float16": 0x7C00, "float32": 0x7F800000, "float64": 0x7FF << 52, "int16": 0x7F80}
    mask = np.array(exponent[dtype], bits.dtype)
    return np.where((bits & mask) == mask, bits & ~mask, bits).view(dtype)


@st.composite
def models(draw):
    arrays = {}
    for name in draw(st.lists(NAMES, min_size=1, max_size=6, unique=True)):
        dtype, shape = draw(DTYPES), draw(SHAPES)
        bits = draw(hnp.arrays(f"u{np.dtype(dtype).itemsize}", shape))
        arrays[name] = finite_bits(dtype, bits).reshape(shape)
    return arrays


def same_bits(left, right):
    return list(left) == list(right) and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


@given(models())
def test_a_row_restores_bit_for_bit(arrays):
    layout = Layout.of(arrays)
    layout.check(arrays)
    row = layout.flatten(arrays)
    assert row.shape == (layout.bytes,)
    assert same_bits(layout.restore(row), arrays)


@settings(max_examples=30, deadline=None)
@given(models())
def test_a_model_file_restores_bit_for_bit(arrays):
    names_of_a_zip = {name: array for name, array in arrays.items() if "\0" not in name}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.npz"
        if names_of_a_zip:
            try:
                save_model(path, names_of_a_zip)
            except ModelError:
                assert not path.exists()
            else:
                assert same_bits(load_model(path), names_of_a_zip)


@given(models(), st.integers(1, 7))
def test_blocks_cover_every_parameter_once_in_order(arrays, columns):
    layout = Layout.of(arrays)
    seen = []
    cut = blocks.cut(layout, columns)
    for block in cut:
        column = 0
        for piece in block.pieces:
            assert (piece.column, piece.bytes) == (
                column,
                piece.columns * np.dtype(piece.dtype).itemsize,
            )
            column += piece.columns
            item = np.dtype(piece.dtype).itemsize
            seen += [(piece.dtype, piece.first + k * item) for k in range(piece.columns)]
        assert block.columns == column <= columns
    assert all(block.columns == columns for block in cut[:-1])
    assert seen == [
        (dtype, offset + k * np.dtype(dtype).itemsize)
        for dtype, offset, count in zip(layout.dtypes, layout.offsets, layout.counts, strict=True)
        for k in range(count)
    ]


def numbers(array):
    if array.dtype == np.int16:
        array = (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64).ravel()


def flat(arrays):
    return np.concatenate([numbers(array) for array in arrays.values()])


@st.composite
def families(draw):
    """Some models of one layout, of moderate numbers."""
    kinds = draw(st.lists(st.tuples(DTYPES, SHAPES), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def tensor(dtype, shape):
        values = np.asarray(rng.standard_normal(shape), np.float32)
        if dtype == "int16":
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.int16)
        return values.astype(dtype)

    return [
        {str(k): tensor(dtype, shape) for k, (dtype, shape) in enumerate(kinds)}
        for _ in range(draw(st.integers(2, 6)))
    ]


@pytest.mark.filterwarnings("error")
@settings(max_examples=60, deadline=None)
@given(families(), st.data())
def test_gram_and_centres_are_those_of_float64(family, data):
    reference, *given_models = family
    m = len(given_models)
    with (
        tempfile.TemporaryDirectory() as folder,
        ModelBank(Path(folder) / "bank", Layout.of(reference), m, reference, threads=1) as bank,
    ):
        for i in data.draw(st.permutations(range(m))):
            bank.put(i, given_models[i])
            assert same_bits(bank.model(i), given_models[i])
        updates = np.stack([flat(arrays) - flat(reference) for arrays in given_models])
        np.testing.assert_allclose(bank.gram(), updates @ updates.T, rtol=1e-6, atol=1e-6)
        mixing = np.array(data.draw(st.lists(st.floats(-1, 1, width=16), min_size=m, max_size=m)))
        mixing = np.outer(np.arange(m) % 2, mixing)
        centres = dict(bank.centres(mixing))
        assert sorted(centres) == [i for i in range(m) if mixing[i].any()]
        for i, centre in centres.items():
            assert Layout.of(centre) == bank.layout
            wanted = flat(given_models[i]) + mixing[i] @ updates
            rounding = {"float16": 2.0**-10, "float32": 1e-6, "float64": 1e-6, "int16": 2.0**-7}
            for name, dtype, got, value in zip(
                bank.layout.names,
                bank.layout.dtypes,
                centre.values(),
                np.split(wanted, np.cumsum(bank.layout.counts)[:-1]),
                strict=True,
            ):
                close = rounding[dtype]
                np.testing.assert_allclose(numbers(got), value, rtol=close, atol=1e-5, err_msg=name)


THETA = {"w": np.arange(40, dtype=np.float32).reshape(8, 5), "b": np.ones(3, np.float64)}


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_model_file_is_refused_by_its_name_or_holds_what_was_written(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.npz"
        save_model(path, THETA)
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        else:
            for _ in range(data.draw(st.integers(1, 3))):
                content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(
                    st.integers(1, 255)
                )
        path.write_bytes(content)
        try:
            arrays = load_model(path)
        except ModelError as error:
            assert str(path) in str(error)  # noqa: PT017 - either outcome is right
        else:
            # A zip's directory has no checksum: a tensor may be gone, but none is another.
            whole = {array.tobytes() for array in THETA.values()}
            assert {array.tobytes() for array in arrays.values()} <= whole
