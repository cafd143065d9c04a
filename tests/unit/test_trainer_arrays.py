"""A model goes out as arrays and comes back exactly; one that doesn't fit is refused by name."""

import numpy as np
import pytest
import torch
from torch import nn

from ipfl_flower.trainer.arrays import (
    check_arrays,
    load_arrays,
    read_arrays,
    read_into,
    to_arrays,
    to_tensors,
    write_arrays,
)
from ipfl_flower.trainer.errors import ArraysError, ArraysFileError


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


def floating(model):
    return {name: t for name, t in model.state_dict().items() if t.is_floating_point()}


def copies(model):
    return {name: array.copy() for name, array in to_arrays(floating(model)).items()}


def test_every_float_travels_exactly_and_counters_stay():
    model, other = Mixed(), Mixed()
    other.count.fill_(9)
    arrays = to_arrays(floating(model))
    assert list(arrays) == ["single", "fine", "coarse", "brain", "scalar", "mean"]
    kinds = [array.dtype.name for array in arrays.values()]
    assert kinds == ["float32", "float64", "float16", "int16", "float32", "float32"]
    check_arrays(floating(other), arrays)
    load_arrays(floating(other), arrays)
    for name, tensor in model.state_dict().items():
        if name != "count":
            assert torch.equal(other.state_dict()[name], tensor)
    assert int(other.count) == 9
    tensors = to_tensors(arrays, floating(other))
    assert torch.equal(tensors["brain"], model.brain)


def test_nothing_is_copied_either_way_and_the_arrays_are_read_only():
    model = Mixed()
    arrays = to_arrays(floating(model))
    with torch.no_grad():
        model.single.add_(1)
    assert arrays["single"].tolist() == model.single.tolist()
    with pytest.raises(ValueError, match="read-only"):
        arrays["single"][0, 0] = 1
    for name, tensor in to_tensors(arrays, floating(model)).items():
        assert tensor.data_ptr() == model.state_dict()[name].data_ptr()


def test_read_only_arrays_as_flower_gives_them_are_taken_and_kept_alive():
    model = nn.Linear(2, 1)
    content = np.full(2, 3.0, np.float32).tobytes()
    arrays = {
        "weight": np.frombuffer(content, np.float32).reshape(1, 2),
        "bias": np.frombuffer(content, np.float32, 1),
    }
    check_arrays(floating(model), arrays)
    tensors = to_tensors(arrays, floating(model))
    del arrays
    load_arrays(floating(model), to_arrays(tensors))
    assert model.weight.tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.arange(6, dtype=np.float32).reshape(2, 3)[::-1, ::-1],
        np.frombuffer(b"." + np.arange(6, dtype="f4").tobytes(), np.uint8)[1:]
        .view("f4")
        .reshape(2, 3),
    ],
    ids=["fortran", "backwards", "unaligned"],
)
def test_arrays_may_lie_in_memory_as_they_like(array, tmp_path):
    array.flags.writeable = False
    tensors = {"w": torch.zeros(2, 3)}
    check_arrays(tensors, {"w": array})
    load_arrays(tensors, {"w": array})
    assert tensors["w"].tolist() == array.tolist()
    write_arrays(tmp_path / "m.npz", {"w": array})
    for out in (torch.zeros(2, 3), torch.zeros(3, 2).T):
        read_into(tmp_path / "m.npz", {"w": out})
        assert out.tolist() == array.tolist()


def test_a_file_is_read_into_a_model_bit_for_bit(tmp_path):
    model, other = Mixed(), Mixed()
    write_arrays(tmp_path / "m.npz", to_arrays(floating(model)))
    read_into(tmp_path / "m.npz", floating(other))
    for name, tensor in floating(model).items():
        assert torch.equal(tensor, floating(other)[name])
    stored = read_arrays(tmp_path / "m.npz")
    assert all(np.array_equal(stored[name], array) for name, array in copies(model).items())


def test_a_file_of_another_model_is_told_from_a_damaged_one(tmp_path):
    path = tmp_path / "m.npz"
    write_arrays(path, {"weight": np.ones((1, 2), np.float32), "bias": np.ones(1, np.float16)})
    model = nn.Linear(2, 1)
    with pytest.raises(ArraysError, match="'bias' must be float32") as caught:
        read_into(path, floating(model))
    assert not isinstance(caught.value, ArraysFileError)


def test_a_flipped_bit_anywhere_is_damage_or_does_no_harm(tmp_path):
    path = tmp_path / "m.npz"
    write_arrays(path, {"w": np.arange(5, dtype=np.float32)})
    content = path.read_bytes()
    damaged = 0
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        out = torch.zeros(5)
        try:
            read_into(path, {"w": out})
        except ArraysFileError:
            damaged += 1
        except ArraysError:
            # The directory at the end has no CRC: another name is all that can be seen there.
            assert position > content.index(b"PK\x01\x02")
        else:
            assert out.tolist() == [0, 1, 2, 3, 4]
    assert damaged > len(content) / 2


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
    arrays = copies(model)
    change(arrays)
    with pytest.raises(ArraysError, match=message):
        check_arrays(floating(model), arrays)


def test_a_nan_in_bfloat16_bits_is_seen():
    model = Mixed()
    arrays = copies(model)
    arrays["brain"][0] = 0x7FC0
    with pytest.raises(ArraysError, match="'brain' holds a NaN"):
        check_arrays(floating(model), arrays)
