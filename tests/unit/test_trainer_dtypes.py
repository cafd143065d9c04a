"""Models train, travel, are averaged and are stored in their own dtype."""

import dataclasses

import numpy as np
import pytest
import torch
from support.device import DEVICE

from ipfl_flower.market import Terms
from ipfl_flower.models import Layout, ModelBank
from ipfl_flower.tasks import load_task
from ipfl_flower.trainer import FitRequest, Institution, Trainer, baselines
from ipfl_flower.trainer.arrays import read_arrays, to_tensors
from ipfl_flower.trainer.initial import initial_model
from ipfl_flower.trainer.proximal import AdamW, Sgd

KINDS = {
    "float32": {"float32"},
    "float16": {"float16"},
    "bfloat16": {"int16"},
    "mixed": {"int16", "float32"},
}
# Half of the distance between neighbours, relative: 2⁻ᵖ with p bits of precision.
ROUNDING = {"float32": 2**-24, "float16": 2**-11, "int16": 2**-8}


def options(number, dtype):
    return {
        "name": "support.tasks:TypedDigits",
        "dtype": dtype,
        "split": "clusters",
        "institution": number,
        "institutions": 4,
        "samples": 100,
    }


def institution(folder, number, dtype):
    return Institution(
        name=f"i{number}",
        state_dir=folder / str(number),
        device=DEVICE,
        threads=1,
        leaving=False,
        terms=Terms(samples=100, cost=0.05, eagerness=6000.0),
        sgd=Sgd(iterations=60, batch_size=16, learning_rate=0.2),
        task=load_task(**options(number, dtype)),
    )


def wide(arrays, trainer):
    """Return arrays in float64, whatever their dtype."""
    tensors = to_tensors(arrays, trainer._learner.shared)
    return {name: tensor.double().cpu().numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize("dtype", KINDS)
def test_from_the_trainer_through_the_bank_and_back(tmp_path, dtype):
    theta0 = initial_model(options(0, dtype), 0)
    assert {array.dtype.name for array in theta0.values()} == KINDS[dtype]
    places = [institution(tmp_path, number, dtype) for number in range(3)]
    trainers = [Trainer(place) for place in places]
    replies = [trainer.fit(FitRequest(round=0, initial=theta0)) for trainer in trainers]
    mixing = np.array([[0, 0.5, 0], [0.25, 0, 0.25], [1, 0, 0]])
    mixing -= np.diag(mixing.sum(1))
    layout = Layout.of(theta0)
    with ModelBank(tmp_path / "bank", layout, 3, theta0, threads=1) as bank:
        for i, reply in enumerate(replies):
            bank.put(i, reply.arrays)
        gram = bank.gram()
        centres = {
            i: {name: array.copy() for name, array in centre.items()}
            for i, centre in bank.centres(mixing)
        }
    models = [wide(reply.arrays, trainers[0]) for reply in replies]
    origin = wide(theta0, trainers[0])
    for i in range(3):
        moved = sum(
            float(((models[i][name] - origin[name]) * (models[0][name] - origin[name])).sum())
            for name in origin
        )
        assert gram[i, 0] == pytest.approx(moved, rel=1e-5)
        mean = {
            name: models[i][name] + sum(mixing[i, j] * models[j][name] for j in range(3))
            for name in origin
        }
        for name, centre in wide(centres[i], trainers[0]).items():
            # One rounding to the dtype, and a float32's worth before it.
            slack = 1.01 * ROUNDING[theta0[name].dtype.name]
            np.testing.assert_allclose(centre, mean[name], rtol=slack, atol=1e-6)
        reply = trainers[i].fit(FitRequest(round=1, centre=centres[i], coefficient=0.025))
        kinds = {name: array.dtype for name, array in reply.arrays.items()}
        assert kinds == {name: array.dtype for name, array in theta0.items()}
        assert reply.metrics["test_accuracy"] > 0.7
        stored = read_arrays(places[i].state_dir / trainers[i]._store.state().trained.file)
        for name, array in Trainer(places[i]).fit(FitRequest(round=1)).arrays.items():
            np.testing.assert_array_equal(array, stored[name])
            np.testing.assert_array_equal(array, reply.arrays[name])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "optimiser",
    [
        Sgd(iterations=60, batch_size=16, learning_rate=0.2),
        AdamW(iterations=60, batch_size=16, learning_rate=0.01),
    ],
)
def test_the_pull_to_the_centre_works_in_half_precision(tmp_path, dtype, optimiser):
    theta0 = initial_model(options(0, dtype), 0)
    place = dataclasses.replace(institution(tmp_path, 0, dtype), sgd=optimiser)
    trainer = Trainer(place)
    free = wide(trainer.fit(FitRequest(round=0, initial=theta0)).arrays, trainer)
    pinned = trainer.fit(FitRequest(round=1, centre=theta0, coefficient=1e4)).arrays
    origin = wide(theta0, trainer)
    for name, held in wide(pinned, trainer).items():
        assert np.abs(held - origin[name]).max() < 0.02
    assert max(np.abs(free[name] - origin[name]).max() for name in origin) > 0.1


def test_fedavg_averages_values_not_bits(tmp_path):
    places = [institution(tmp_path, number, "bfloat16") for number in range(2)]
    (first, second) = baselines.fedavg(places, 4)
    assert min(first, second) > 0.7


def test_models_of_another_dtype_are_not_taken(tmp_path):
    trainer = Trainer(institution(tmp_path, 0, "bfloat16"))
    wrong = initial_model(options(0, "float16"), 0)
    with pytest.raises(ValueError, match=r"array '0\.weight' must be int16 .* is float16"):
        trainer.fit(FitRequest(round=0, initial=wrong))
    assert trainer._learner._model[0].weight.dtype == torch.bfloat16
