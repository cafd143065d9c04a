"""What a task doesn't declare shareable never leaves, and outlives a restart all the same."""

import dataclasses

import numpy as np
import pytest
import torch
from support.device import DEVICE
from support.tasks import Shares
from support.trainers import MEASURED

from ipfl_flower.market import Terms
from ipfl_flower.tasks import TaskError, load_task
from ipfl_flower.trainer import FitRequest, Institution, RequestError, Trainer, TrainingError
from ipfl_flower.trainer import initial as program
from ipfl_flower.trainer.arrays import read_arrays
from ipfl_flower.trainer.initial import initial_model
from ipfl_flower.trainer.parts import Parts
from ipfl_flower.trainer.proximal import Sgd

OPTIONS = {"split": "clusters", "institution": 1, "institutions": 6, "samples": 60, "seed": 1}
SHARED = {
    "PersonalHead": ["0.weight", "0.bias", "1.weight", "1.bias"],
    "LoraDigits": ["0.A", "0.B", "2.A", "2.B"],
}
PRIVATE = {
    "PersonalHead": ["1.running_mean", "1.running_var", "3.weight", "3.bias"],
    "LoraDigits": [],
}


def institution(folder, kind, **sgd):
    return Institution(
        name="clinic",
        state_dir=folder,
        device=DEVICE,
        threads=1,
        leaving=False,
        terms=Terms(samples=60, cost=0.05, eagerness=6000.0),
        sgd=Sgd(**{"iterations": 60, "batch_size": 16, "learning_rate": 0.2, **sgd}),
        task=load_task(f"support.tasks:{kind}", **OPTIONS),
    )


def theta0(kind):
    return initial_model({"name": f"support.tasks:{kind}"}, 0)


def copies(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[n], right[n]) for n in left)


def rounds(trainers, kind, first, last):
    """Play rounds in which the centre is the reply of the round before, a little moved."""
    reply = None
    for number, trainer in zip(range(first, last), trainers, strict=True):
        centre = None
        if number:
            rng = np.random.default_rng(number)
            centre = {
                name: array + np.float32(0.01) * rng.normal(size=array.shape).astype("f4")
                for name, array in theta0(kind).items()
            }
        request = FitRequest(
            round=number, initial=theta0(kind), centre=centre, coefficient=0.01, start="own"
        )
        reply = trainer.fit(request)
    return reply


@pytest.mark.parametrize("kind", SHARED)
def test_what_leaves_is_what_is_declared_and_what_stays_is_stored_apart(tmp_path, kind):
    place = institution(tmp_path, kind)
    assert list(theta0(kind)) == SHARED[kind]
    reply = rounds([Trainer(place)] * 3, kind, 0, 3)
    assert list(reply.arrays) == SHARED[kind]
    state = Trainer(place)._store.state()
    assert list(read_arrays(tmp_path / state.trained.file)) == SHARED[kind]
    if PRIVATE[kind]:
        assert list(read_arrays(tmp_path / state.trained.private)) == PRIVATE[kind]
    else:
        assert state.trained.private is None
    assert reply.metrics["test_accuracy"] > 0.4  # by chance: 0.1
    again = Trainer(place).fit(FitRequest(round=2))
    assert list(again.arrays) == SHARED[kind]
    assert same(again.arrays, reply.arrays)


@pytest.mark.parametrize("kind", SHARED)
def test_a_restart_before_every_round_changes_nothing(tmp_path, kind):
    one = Trainer(institution(tmp_path / "one", kind))
    reply = rounds([one] * 4, kind, 0, 4)
    others = (Trainer(institution(tmp_path / "restarted", kind)) for _ in range(4))
    restarted = rounds(others, kind, 0, 4)
    assert same(reply.arrays, restarted.arrays)
    for name, value in reply.metrics.items():
        assert name in MEASURED or restarted.metrics[name] == value
    left, right = one._store.state(), Trainer(institution(tmp_path / "restarted", kind))
    if left.trained.private:
        kept = right._store.state().trained.private
        assert same(
            read_arrays(tmp_path / "one" / left.trained.private),
            read_arrays(tmp_path / "restarted" / kept),
        )


def test_a_centre_is_judged_with_the_own_private_part(tmp_path):
    place = institution(tmp_path, "PersonalHead")
    trainer = Trainer(place)
    first = rounds([trainer], "PersonalHead", 0, 1)
    # The own shared part sent back must score as it did: with any other head it would not.
    request = FitRequest(round=1, centre=copies(first.arrays), train=False)
    for each in (trainer, Trainer(place)):
        metrics = each.fit(request).metrics
        for name in ("validation_accuracy", "validation_loss", "test_accuracy", "test_loss"):
            assert metrics[f"centre_{name}"] == first.metrics[name]
    stranger = Trainer(dataclasses.replace(place, state_dir=tmp_path / "new"))
    other = stranger.fit(FitRequest(round=1, centre=copies(first.arrays), train=False)).metrics
    assert other["centre_test_loss"] != first.metrics["test_loss"]


def test_a_better_centre_is_kept_with_the_private_part_of_its_time(tmp_path):
    place = institution(tmp_path, "PersonalHead")
    trainer = Trainer(place)
    first = rounds([trainer], "PersonalHead", 0, 1)
    own = copies(first.arrays)
    private = trainer._store.state().trained.private
    learner = trainer._learner
    best = learner.scores()
    # A step in some direction is better: half of them are.
    for seed in range(50):
        rng = np.random.default_rng(seed)
        centre = {n: a + 0.03 * rng.normal(size=a.shape).astype("f4") for n, a in own.items()}
        learner.put(centre)
        if learner.scores().beats(best):
            break
    metrics = trainer.fit(FitRequest(round=1, centre=centre, train=False)).metrics
    assert metrics["best_centre"] == 1
    kept = Trainer(place)._store.state().best
    learner.renew()
    trainer._store.read(kept.file, learner.shared)
    trainer._store.read(kept.private, learner.private)
    assert kept.private == private
    assert learner.scores() == kept.scores


def test_a_failed_round_leaves_no_trace_in_the_private_part(tmp_path):
    def outcome(folder, *, fail):
        place = institution(folder, "PersonalHead")
        trainer = Trainer(place)
        for number in (0, 1):
            if fail:
                trainer._learner._sgd = Sgd(iterations=30, learning_rate=1e20)
                with pytest.raises(TrainingError):
                    rounds([trainer], "PersonalHead", number, number + 1)
                trainer._learner._sgd = place.sgd
            reply = rounds([trainer], "PersonalHead", number, number + 1)
        return reply.arrays, read_arrays(folder / trainer._store.state().trained.private)

    plain, failed = outcome(tmp_path / "a", fail=False), outcome(tmp_path / "b", fail=True)
    assert same(plain[0], failed[0])
    assert same(plain[1], failed[1])


def test_private_parameters_feel_no_pull_and_shared_ones_do(tmp_path):
    place = institution(tmp_path, "PersonalHead")
    trainer = Trainer(place)
    rounds([trainer], "PersonalHead", 0, 1)
    before = read_arrays(tmp_path / trainer._store.state().trained.private)
    reply = trainer.fit(FitRequest(round=1, centre=theta0("PersonalHead"), coefficient=1e9))
    after = read_arrays(tmp_path / trainer._store.state().trained.private)
    for name, array in theta0("PersonalHead").items():
        np.testing.assert_allclose(reply.arrays[name], array, atol=1e-5)
    assert np.abs(after["3.weight"] - before["3.weight"]).max() > 0.01


def test_the_frozen_base_of_an_adapter_never_moves(tmp_path):
    trainer = Trainer(institution(tmp_path, "LoraDigits", weight_decay=0.1, momentum=0.5))
    base = trainer._learner._model[0].base.weight.clone()
    rounds([trainer] * 2, "LoraDigits", 0, 2)
    assert torch.equal(trainer._learner._model[0].base.weight, base)


def test_a_request_that_holds_a_private_part_is_refused(tmp_path):
    centre = theta0("PersonalHead") | {"3.bias": np.zeros(10, np.float32)}
    with pytest.raises(RequestError, match=r"array '3\.bias' is unknown"):
        Trainer(institution(tmp_path, "PersonalHead")).fit(FitRequest(round=0, centre=centre))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("0.weight", "9.weight"), r"shares '9\.weight', which its model has not: return names of"),
        ((), "task digits shares nothing: name entries in shareable"),
        (("count",), r"'count' is torch\.int64, which can't be traded or stored: make it float16"),
        (("2.weight",), r"shares '2\.weight', but not 'tied\.weight', which is the same memory"),
    ],
)
def test_what_cannot_be_shared_is_named(names, message):
    task = Shares.from_options(**OPTIONS)
    task.names = names
    with pytest.raises(TaskError, match=message):
        Parts(task, task.build_model(0))


def test_initial_takes_a_users_task_by_name_or_from_a_file(tmp_path, capsys):
    file, out = tmp_path / "institution.toml", tmp_path / "model.npz"
    file.write_text('[task]\nname = "support.tasks:LoraDigits"\nsplit = "skew"\ninstitution = 0\n')
    assert program.main(["--task-of", str(file), "--out", str(out)]) == 0
    assert same(read_arrays(out), theta0("LoraDigits"))
    assert program.main(["--task", "support.tasks:LoraDigits", "--out", str(out)]) == 0
    assert same(read_arrays(out), theta0("LoraDigits"))
    file.write_text("[terms]\n")
    assert program.main(["--task-of", str(file), "--out", str(out)]) == 1
    assert "institution.toml has no [task] with a name: add it" in capsys.readouterr().err
    file.write_text("[task")
    assert program.main(["--task-of", str(file), "--out", str(out)]) == 1
    assert "institution.toml is not a TOML file" in capsys.readouterr().err
