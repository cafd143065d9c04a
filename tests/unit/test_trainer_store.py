"""The institution's state on disk: whole after any crash, and damage is named."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ipfl_flower.trainer import StoreError
from ipfl_flower.trainer.learner import Scores
from ipfl_flower.trainer.store import Kept, Store

SCORES = Scores(0.5, 1.0, 0.25, 2.0)


def model(value):
    return {"w": np.full(3, value, np.float32), "b": np.full((), value, np.float64)}


def read(store, name):
    tensors = {"w": torch.zeros(3), "b": torch.zeros((), dtype=torch.float64)}
    store.read(name, tensors)
    return tensors


def after(state, round_number):
    """Return the state of one more round, in which all three parts are new, and those parts."""
    trained = Kept(
        file=state.new_file("trained"),
        private=state.new_file("private"),
        round=round_number,
        source="trained",
        scores=SCORES,
    )
    best = Kept(file=state.new_file("centre"), round=round_number, source="centre", scores=SCORES)
    metrics = {"round": float(round_number)}
    new = state.model_copy(update={"trained": trained, "best": best, "metrics": metrics})
    return new, {
        trained.file: model(round_number),
        trained.private: model(round_number + 0.5),
        best.file: model(-round_number),
    }


def filled(folder, rounds=1):
    store = Store(folder, "a")
    for number in range(rounds):
        store.commit(*after(store.state(), number))
    return store


def assert_holds(store, round_number):
    state = store.state()
    assert state.metrics == {"round": float(round_number)}
    assert state.trained.round == state.best.round == round_number
    names = {
        state.trained.file: round_number,
        state.trained.private: round_number + 0.5,
        state.best.file: -round_number,
    }
    for name, value in names.items():
        stored = read(store, name)
        assert stored["w"].tolist() == [value] * 3
        assert stored["b"].item() == value


def test_a_newcomer_has_an_empty_state_and_no_folder(tmp_path):
    state = Store(tmp_path / "new", "a").state()
    assert (state.trained, state.best, state.commits) == (None, None, 0)
    assert not (tmp_path / "new").exists()


def test_a_commit_is_read_back_and_old_files_go(tmp_path):
    filled(tmp_path, rounds=3)
    assert_holds(Store(tmp_path, "a"), 2)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("state.json", "trained-000003.npz", "private-000003.npz", "centre-000003.npz")
    }


def test_a_file_named_again_is_kept_and_a_model_not_named_is_not_written(tmp_path):
    store = filled(tmp_path)
    state = store.state()
    new, models = after(state, 1)
    store.commit(new.model_copy(update={"best": state.best}), models)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("state.json", "trained-000002.npz", "private-000002.npz", "centre-000001.npz")
    }


def test_the_private_part_of_the_best_model_outlives_that_of_the_one_trained_last(tmp_path):
    store = filled(tmp_path)
    state = store.state()
    store.commit(state.model_copy(update={"best": state.trained}), {})
    new, models = after(store.state(), 1)
    store.commit(new.model_copy(update={"best": state.trained}), models)
    assert read(store, "private-000001.npz")["w"].tolist() == [0.5] * 3
    assert read(store, "private-000003.npz")["w"].tolist() == [1.5] * 3
    assert len(list(tmp_path.glob("*.npz"))) == 4


class CrashError(Exception):
    pass


def crash_at(monkeypatch, step):
    """Let the step-th call that makes something durable, or removes something, fail."""
    calls = iter(range(1000))

    def failing(real):
        def call(*arguments):
            if next(calls) == step:
                raise CrashError
            return real(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(Path, "replace", failing(Path.replace))
    monkeypatch.setattr(Path, "unlink", failing(Path.unlink))


# Three parts, state.json, the folder | the rename | the folder, three old parts.
@pytest.mark.parametrize(
    ("step", "outcome"), [*((s, 0) for s in range(6)), *((s, 1) for s in range(6, 10))]
)
def test_a_crash_at_any_step_leaves_one_round_or_the_other(tmp_path, monkeypatch, step, outcome):
    store = filled(tmp_path)
    new, models = after(store.state(), 1)
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(CrashError):
            store.commit(new, models)
    again = Store(tmp_path, "a")
    assert_holds(again, outcome)
    again.commit(*after(again.state(), 2))
    assert_holds(again, 2)
    assert len(list(tmp_path.glob("*.npz"))) == 3


def test_nothing_counts_before_the_rename_is_reached_and_no_crash_step_is_left_out(
    tmp_path, monkeypatch
):
    store = filled(tmp_path)
    with monkeypatch.context() as patch:
        crash_at(patch, 10)
        store.commit(*after(store.state(), 1))
    assert_holds(store, 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"institution": "a", "commits": -1}',
        b'{"institution": "a", "colour": 1}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_state_is_named_with_the_way_out(tmp_path, content):
    store = filled(tmp_path)
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"state\.json is damaged .*restore it from a backup, or"):
        store.state()


def test_a_state_may_not_name_a_file_elsewhere(tmp_path):
    store = filled(tmp_path)
    path = tmp_path / "state.json"
    path.write_text(path.read_text().replace("trained-000001.npz", "../trained-1.npz"))
    with pytest.raises(StoreError, match="is damaged"):
        store.state()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing"])
def test_a_damaged_model_is_named(tmp_path, damage):
    store = filled(tmp_path)
    kept = store.state().trained
    path = tmp_path / kept.file
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    if damage == "flip":
        path.write_bytes(content)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:50] if damage == "cut" else b"")
    with pytest.raises(StoreError, match=r"trained-000001\.npz is missing or damaged"):
        read(store, kept.file)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "state", "a")
    new, models = after(Store(tmp_path / "new", "a").state(), 0)
    with pytest.raises(StoreError, match=r"file/state can't be written \(Not a directory\): free"):
        store.commit(new, models)


def test_the_folder_is_private(tmp_path):
    filled(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_another_institutions_state_is_refused(tmp_path):
    filled(tmp_path)
    with pytest.raises(
        StoreError, match="institution 'a', not of 'b': give each its own state_dir"
    ):
        Store(tmp_path, "b").state()
