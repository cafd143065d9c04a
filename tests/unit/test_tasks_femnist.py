"""FEMNIST is read by writer from LEAF's files, or drawn from typefaces, and damage is named."""

import json

import numpy as np
import pytest
import torch

from ipfl_flower.tasks import TaskDataError, TaskError, femnist, load_task, typefaces

OPTIONS = {"institution": 0, "institutions": 2, "samples": 6, "validation": 2, "seed": 1}
RNG = np.random.default_rng(4)
INK = RNG.integers(0, 256, (12, 784))
LABELS = RNG.integers(0, 62, 12)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("IPFL_DATA_DIR", raising=False)


@pytest.fixture
def typeface():
    """Give a typeface that is installed."""
    pytest.importorskip("PIL", reason="no Pillow: pip install 'ipfl-flower[experiments]'")
    for number, face in enumerate(typefaces.TYPEFACES):
        if not (typefaces.FOLDER / face.path).exists():
            pytest.skip(f"typeface {number} isn't installed: apt-get install {face.package}")
    return typefaces.TYPEFACES[0]


def user(rows, **changes):
    return {"x": (INK[rows] / 255).tolist(), "y": LABELS[rows].tolist()} | changes


def leaf(folder, kind="train", **users):
    (folder / kind).mkdir(parents=True, exist_ok=True)
    text = json.dumps({"users": list(users), "user_data": users})
    (folder / kind / "all_data_0.json").write_text(text)


def task(folder=None, **options):
    where = {} if folder is None else {"data_dir": str(folder)}
    return load_task("femnist", **{**OPTIONS, **options}, **where)


def test_leaf_s_writers_come_by_how_much_they_wrote(tmp_path):
    leaf(tmp_path, few=user(slice(9, 12)), many=user(slice(0, 7)), none={"x": [], "y": []})
    leaf(tmp_path, "test", many=user(slice(7, 9)))
    first, second = task(tmp_path), task(tmp_path, institution=1)
    assert np.array_equal(first.writer().images.reshape(9, 784), INK[:9])
    assert first.writer().labels.tolist() == LABELS[:9].tolist()
    assert second.writer().labels.tolist() == LABELS[9:].tolist()
    assert first.source() == "LEAF's FEMNIST"
    data = first.data()
    assert [len(data.train), len(data.validation), len(data.test)] == [6, 2, 1]
    ink = 1 - INK[:9] / 255
    assert data.train.inputs.shape == (6, 1, 28, 28)
    assert any(np.allclose(row, data.test.inputs[0].flatten().numpy(), atol=1e-6) for row in ink)


def test_more_institutions_than_writers_are_refused(tmp_path):
    leaf(tmp_path, one=user(slice(0, 9)))
    with pytest.raises(TaskError, match="institutions must be ≤ 1, the writers there are, is 2"):
        task(tmp_path).data()
    with pytest.raises(TaskError, match="institutions must be ≤ 20, the writers there are, is 21"):
        task(institutions=21).data()


@pytest.mark.parametrize(
    "changes",
    [
        {"y": [62] * 12},
        {"y": [-1] * 12},
        {"y": [0.5] * 12},
        {"y": [[1]] * 12},
        {"x": [[0.5] * 783] * 12},
        {"x": [[0.5] * 784, [0.5]] * 6},
        {"x": [["ink"] * 784] * 12},
        {"x": [[1.5] * 784] * 12},
        {"x": [[float("nan")] * 784] * 12},
        {"x": [[0.5] * 784]},
    ],
)
def test_other_than_images_and_classes_is_named(tmp_path, changes):
    leaf(tmp_path, one=user(slice(0, 12), **changes))
    with pytest.raises(TaskDataError, match=r"/train.* is not a file of LEAF's .*'one'.*preproc"):
        task(tmp_path, institutions=1).data()


def test_a_typeface_draws_each_character_differently_each_time(typeface):
    images, labels = typefaces.draw(typeface, 1)
    assert images.shape == (496, 28, 28)
    assert np.bincount(labels).tolist() == [8] * 62
    assert len(np.unique(images, axis=0)) == 496
    assert np.array_equal(typefaces.draw(typeface, 1)[0], images)
    assert not np.array_equal(typefaces.draw(typeface, 2)[0], images)
    # White paper, and ink in the middle: not an empty box for a character that it hasn't.
    assert images[:, 0, 0].min() == 255
    assert images.reshape(496, -1).min(axis=1).max() < 160


def test_typefaces_differ_and_their_characters_can_be_recognised(typeface):
    data = [task(institution=i, institutions=20, samples=250).data().train for i in (0, 19)]
    means = [part.inputs.mean(dim=0) for part in data]
    assert float((means[0] - means[1]).abs().mean()) > 0.01
    # The nearest mean of the training data recognises held-out characters, of 62.
    made = task(institutions=20, samples=250)
    train, held_out = made.data().train, made.data().test
    classes = torch.arange(62)
    means = torch.stack([train.inputs[train.labels == c].mean(dim=0).flatten() for c in classes])
    distances = torch.cdist(held_out.inputs.flatten(1), means)
    assert made.accuracy(-distances, held_out.labels) > 0.15
    assert made.source() == "characters of typefaces, for FEMNIST"


def test_a_typeface_that_is_not_installed_names_its_package(tmp_path, typeface):
    with pytest.raises(TaskDataError, match=r"Breip\.ttf can't .*Debian's package fonts-breip"):
        typefaces.draw(typeface, 1, tmp_path)
    path = tmp_path / typeface.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no typeface")
    with pytest.raises(TaskDataError, match=r"Breip\.ttf can't .*Debian's package fonts-breip"):
        typefaces.draw(typeface, 1, tmp_path)


@pytest.mark.parametrize("model", ["lenet", "cnn"])
def test_models_have_a_logit_for_each_character(model):
    network = task(model=model).build_model(0)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 62)
    assert len(set(femnist.CHARACTERS)) == 62
