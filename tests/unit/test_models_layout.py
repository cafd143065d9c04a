"""Layout: what a model of the market is, what is refused and by which words, and a row's bytes."""

import hashlib
import re

import numpy as np
import pytest

from ipfl_flower.models import Layout, ModelError
from ipfl_flower.models import layout as layout_module


def model():
    return {
        "conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "scale": np.array(2.5, dtype=np.float64),
        "half": np.array([1.0, -0.0, 0.5], dtype=np.float16),
        "brain": np.array([0x3F80, -1 & 0x7F7F], dtype=np.int16),
        "empty": np.zeros((0, 4), dtype=np.float32),
    }


def refused(message):
    return pytest.raises(ModelError, match=re.escape(message))


def test_a_layout_knows_sizes_and_where_tensors_lie():
    layout = Layout.of(model())
    assert layout.names == tuple(model())
    assert layout.size == 6 + 1 + 3 + 2 + 0
    assert layout.offsets == (0, 24, 32, 38, 44)  # each at a multiple of its item size
    assert layout.bytes == 44


def test_the_digest_tells_names_shapes_dtypes_and_order_apart():
    base = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(6, np.float32)}
    others = [
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"].reshape(3, 2), "b": base["b"]},
        {"a": base["a"].astype(np.float64), "b": base["b"]},
        {"b": base["b"], "a": base["a"]},
    ]
    digests = {Layout.of(arrays).digest for arrays in [base, *others]}
    assert len(digests) == 5
    description = b'[["a","float32",[2,3]],["b","float32",[6]]]'
    assert Layout.of(base).digest == hashlib.sha256(description).hexdigest()
    assert Layout.of({k: v + 1 for k, v in base.items()}) == Layout.of(base)


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint16", "bool", "complex64", "object"])
def test_what_cannot_be_averaged_is_refused_with_the_fix(dtype):
    arrays = model() | {"bn.num_batches_tracked": np.zeros(1, dtype)}
    with refused(f"tensor 'bn.num_batches_tracked' is {dtype}") as error:
        Layout.of(arrays)
    assert "keep counters and buffers" in str(error.value)
    assert "local to the institution" in str(error.value)


def test_a_model_without_tensors_is_refused():
    with refused("holds no tensor"):
        Layout.of({})


def without(name):
    arrays = model()
    del arrays[name]
    return arrays


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (without("scale"), "tensor 'scale' is missing"),
        (model() | {"more": np.zeros(1, np.float32)}, "tensor 'more' is unknown"),
        (
            without("half") | {"halve": model()["half"]},
            "tensor 'half' is missing and 'halve' is unknown",
        ),
        (
            model() | {"conv.weight": np.zeros((3, 2), np.float32)},
            "tensor 'conv.weight' has shape (3, 2), must have (2, 3)",
        ),
        (
            model() | {"scale": np.zeros(1, np.float64)},
            "tensor 'scale' has shape (1,), must have ()",
        ),
        (
            model() | {"half": np.zeros(3, np.float32)},
            "tensor 'half' is float32, must be float16",
        ),
        (
            model() | {"brain": np.zeros(2, np.uint16)},
            "tensor 'brain' is uint16, must be int16",
        ),
        (
            model() | {"conv.weight": np.array([[1, 2, np.nan], [np.inf, 0, -np.inf]], "f4")},
            "tensor 'conv.weight' is not finite in 3 of 6 values, first at (0, 2)",
        ),
        (
            model() | {"scale": np.array(np.nan)},
            "tensor 'scale' is not finite in 1 of 1 values, first at ()",
        ),
        (
            model() | {"half": np.array([0, 0, np.inf], np.float16)},
            "tensor 'half' is not finite in 1 of 3 values, first at (2,)",
        ),
        (  # bfloat16 +inf, and a NaN with its sign set
            model() | {"brain": np.array([0x7F80, 0xFFC1 - 2**16], np.int16)},
            "tensor 'brain' is not finite in 2 of 2 values, first at (0,)",
        ),
    ],
)
def test_a_model_of_another_kind_is_refused_by_name(arrays, message):
    with refused(message):
        Layout.of(model()).check(arrays)


def test_the_order_of_tensors_is_free():
    layout = Layout.of(model())
    turned = dict(reversed(model().items()))
    layout.check(turned)
    assert (layout.flatten(turned) == layout.flatten(model())).all()


def test_a_row_is_little_endian_bytes_with_zeros_between():
    arrays = {"h": np.array([1.0], np.float16), "d": np.array([1.0], np.float64)}
    row = Layout.of(arrays).flatten(arrays)
    assert row.tobytes() == bytes.fromhex("003c 0000 0000 0000 0000 0000 0000 f03f")


@pytest.mark.parametrize(
    "turn",
    [
        lambda a: np.asfortranarray(a) if a.ndim else a,
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        lambda a: np.repeat(a, 2, axis=0)[::2] if a.ndim else a,
        lambda a: np.ascontiguousarray(a[::-1])[::-1] if a.ndim else a,
    ],
    ids=["fortran", "big-endian", "strided", "reversed"],
)
def test_how_an_array_lies_in_memory_does_not_matter(turn):
    layout = Layout.of(model())
    turned = {name: turn(array) for name, array in model().items()}
    assert Layout.of(turned) == layout
    layout.check(turned)
    assert (layout.flatten(turned) == layout.flatten(model())).all()


def test_what_is_not_finite_is_counted_over_all_stretches_of_a_tensor(monkeypatch):
    monkeypatch.setattr(layout_module, "_STRETCH", 4)
    bad = np.zeros((5, 3), np.float32)
    bad[2, 1] = bad[2, 2] = bad[4, 2] = np.nan
    with refused("tensor 'w' is not finite in 3 of 15 values, first at (2, 1)"):
        Layout.of({"w": bad}).check({"w": bad})


def test_a_row_is_the_memory_of_the_tensors_not_a_copy():
    arrays = model()
    row = list(Layout.of(arrays).row(arrays))
    for tensor in arrays.values():
        if tensor.size:
            assert any(np.shares_memory(piece, tensor) for piece in row)
    assert b"".join(piece.tobytes() for piece in row) == Layout.of(arrays).flatten(arrays).tobytes()
