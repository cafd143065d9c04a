"""A model goes out as arrays and comes back exactly; one that doesn't fit is refused by name."""

import numpy as np
import pytest
import torch
from torch import nn

from ipfl_flower.trainer import ArraysError
from ipfl_flower.trainer.arrays import check_arrays, load_arrays, to_arrays, to_tensors


class Mixed(nn.Module):
    """float32, float64, float16 and bfloat16, a float buffer, an integer buffer, a 0-d tensor."""

    def __init__(self):
        super().__init__()
        self.single = nn.Parameter(torch.randn(2, 3))
        self.fine = nn.Parameter(torch.randn(2, dtype=torch.float64))
        self.coarse = nn.Parameter(torch.randn(4).half())
        self.brain = nn.Parameter(torch.randn(5).bfloat16())
        self.scalar = nn.Parameter(torch.tensor(3.0))
        self.register_buffer("mean", torch.randn(3))
        self.register_buffer("count", torch.tensor(7))


def test_every_float_travels_exactly_and_counters_stay():
    model, other = Mixed(), Mixed()
    other.count.fill_(9)
    arrays = to_arrays(model)
    assert list(arrays) == ["single", "fine", "coarse", "brain", "scalar", "mean"]
    kinds = [array.dtype.name for array in arrays.values()]
    assert kinds == ["float32", "float64", "float16", "int16", "float32", "float32"]
    check_arrays(other, arrays)
    load_arrays(other, arrays)
    for name, tensor in model.state_dict().items():
        if name != "count":
            assert torch.equal(other.state_dict()[name], tensor)
    assert int(other.count) == 9
    tensors = to_tensors(other, arrays)
    assert torch.equal(tensors["brain"], model.brain)


def test_arrays_are_copies():
    model = nn.Linear(2, 1)
    arrays = to_arrays(model)
    before = arrays["weight"].copy()
    with torch.no_grad():
        model.weight.add_(1)
    np.testing.assert_array_equal(arrays["weight"], before)


def test_read_only_arrays_as_flower_gives_them_are_taken():
    model = nn.Linear(2, 1)
    arrays = to_arrays(model)
    for array in arrays.values():
        array.flags.writeable = False
    check_arrays(model, arrays)
    load_arrays(model, arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("bias"), "array 'bias' is missing"),
        (lambda a: a.update(extra=np.zeros(1)), "array 'extra' is unknown"),
        (
            lambda a: a.update(bias=np.zeros(2, np.float32)),
            r"array 'bias' must be float32 \(1,\), is float32 \(2,\)",
        ),
        (lambda a: a.update(bias=np.zeros(1)), r"must be float32 \(1,\), is float64 \(1,\)"),
        (lambda a: a.update(bias=np.zeros(1, ">f4")), r"must be float32 \(1,\), is >f4 \(1,\)"),
        (lambda a: a["weight"].fill(np.nan), "array 'weight' holds a NaN or an infinity"),
        (lambda a: a["weight"].fill(-np.inf), "array 'weight' holds a NaN or an infinity"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_by_name(change, message):
    model = nn.Linear(2, 1)
    arrays = to_arrays(model)
    change(arrays)
    with pytest.raises(ArraysError, match=message):
        check_arrays(model, arrays)


def test_a_nan_in_bfloat16_bits_is_seen():
    model = Mixed()
    arrays = to_arrays(model)
    arrays["brain"][0] = 0x7FC0
    with pytest.raises(ArraysError, match="'brain' holds a NaN"):
        check_arrays(model, arrays)
