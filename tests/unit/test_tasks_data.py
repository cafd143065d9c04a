"""Tasks read real data, slice it by their options, and refuse wrong options and damaged files."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ipfl_flower.tasks import TaskDataError, TaskError, digits, fashion_mnist, load_task

OPTIONS = {"split": "clusters", "institution": 0, "institutions": 6, "samples": 60, "seed": 1}
FASHION = {**OPTIONS, "institutions": 100}
needs_fashion = pytest.mark.skipif(
    not Path(fashion_mnist.DEBIAN_FOLDER).is_dir(),
    reason="Debian's package dataset-fashion-mnist isn't installed",
)


def digits_task(**options):
    return load_task("digits", **{**OPTIONS, **options})


def rows(split):
    return {tuple(row) for row in split.inputs.flatten(1).tolist()}


def test_digits_are_the_real_ones():
    images, labels = digits.read_digits(digits.digits_file())
    assert images.shape == (1797, 8, 8)
    assert images.max() == 16
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_reading_digits_imports_nothing_of_scikit_learn():
    code = (
        "import sys; from ipfl_flower.tasks import digits; "
        "digits.read_digits(digits.digits_file()); assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_slice_has_the_sizes_asked_for_and_the_rest_is_test():
    data = digits_task().data()
    assert (len(data.train), len(data.validation)) == (60, 40)
    assert len(data.test) in {199, 200}
    assert data.train.inputs.shape == (60, 64)
    assert data.train.inputs.dtype == torch.float32
    assert float(data.train.inputs.max()) == 1.0
    assert len(digits_task(test=50).data().test) == 50


def test_samples_left_out_take_the_rest_of_the_slice():
    options = {key: value for key, value in OPTIONS.items() if key != "samples"}
    data = load_task("digits", **options, test=50).data()
    assert len(data.train) + 40 + 50 in {299, 300}


@pytest.mark.parametrize(
    "split",
    [{"split": "clusters", "groups": 2}, {"split": "dirichlet"}, {"split": "skew", "classes": 5}],
)
def test_no_image_is_in_two_parts_or_two_institutions(split):
    # The few images that occur twice in the data itself would be seen twice.
    images, _ = digits.read_digits(digits.digits_file())
    assert len(np.unique(images, axis=0)) == 1797
    small = {**split, "institutions": 4, "samples": 10, "validation": 5}
    seen: list[tuple[float, ...]] = []
    for institution in range(4):
        data = digits_task(**small, institution=institution).data()
        for part in (data.train, data.validation, data.test):
            assert len(rows(part)) == len(part)
            seen += rows(part)
    assert len(seen) == len(set(seen)) == 1797


def test_the_same_options_give_the_same_samples_and_another_seed_others():
    first, again, other = (digits_task(seed=seed).data().train for seed in (1, 1, 2))
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.inputs, other.inputs)


def test_sizes_of_others_do_not_move_a_slice():
    small, large = digits_task(samples=20).data(), digits_task(samples=80).data()
    assert torch.equal(small.train.inputs, large.train.inputs[:20])


def test_test_data_follows_the_training_data():
    data = load_task(
        "digits", split="skew", classes=3, institution=1, institutions=6, samples=60
    ).data()
    assert set(data.train.labels.tolist()) == set(data.test.labels.tolist())
    assert len(set(data.train.labels.tolist())) == 3


def test_groups_name_the_same_images_differently():
    plain = digits_task(institution=1).data().train
    hidden = digits_task(institution=1, groups=2).data().train
    assert torch.equal(plain.inputs, hidden.inputs)
    names = set(zip(plain.labels.tolist(), hidden.labels.tolist(), strict=True))
    assert len(names) == 10
    assert len({new for _, new in names}) == 10
    assert sum(old != new for old, new in names) >= 5
    same_group = digits_task(institution=2, groups=2).data().train
    assert torch.equal(same_group.labels, digits_task(institution=2).data().train.labels)


def test_groups_by_rotation_turn_the_images():
    turned = {"groups": 4, "cluster_by": "rotation", "institution": 3}
    plain, hidden = digits_task(institution=3).data().test, digits_task(**turned).data().test
    assert torch.equal(plain.labels, hidden.labels)
    images = plain.inputs.reshape(-1, 8, 8)
    assert torch.equal(hidden.inputs.reshape(-1, 8, 8), torch.rot90(images, 3, (1, 2)))


def test_the_seed_builds_the_same_model_and_leaves_torch_alone():
    task = digits_task()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = (task.build_model(seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert [p.shape for p in first.parameters()] == [(64, 64), (64,), (10, 64), (10,)]
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_loss_and_accuracy_of_known_outputs():
    task = digits_task()
    outputs, labels = torch.zeros(4, 10), torch.tensor([0, 1, 2, 3])
    outputs[0, 0] = outputs[1, 1] = outputs[2, 2] = outputs[3, 4] = 9.0
    assert task.accuracy(outputs, labels) == 0.75
    assert float(task.loss(torch.zeros(4, 10), labels)) == pytest.approx(np.log(10))


def test_an_unknown_task_is_answered_with_those_there_are():
    with pytest.raises(
        TaskError, match="'digit' is not known: choose from cifar10, digits, fashion_mnist"
    ):
        load_task("digit", **OPTIONS)


def test_a_task_of_ones_own_is_found_by_its_path():
    task = load_task("support.tasks:PersonalHead", **OPTIONS)
    assert task.name == "personal"
    assert len(task.data().train) == 60
    with pytest.raises(TaskError, match=r"^task.samples must be ≥ 1, is 0$"):
        load_task("support.tasks:PersonalHead", **{**OPTIONS, "samples": 0})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.tasks:Mine", r"can't be imported \(ModuleNotFoundError: .*PYTHONPATH"),
        ("support.tasks:Mine", r"can't be imported \(AttributeError: .* 'Mine'"),
        (":Mine", r"can't be imported \(ValueError"),
        ("support.tasks:", r"can't be imported \(AttributeError"),
        ("support.tasks:not_a_class", "is not a class derived from ipfl_flower.tasks.Task"),
        ("pathlib:Path", "is not a class derived from ipfl_flower.tasks.Task"),
        ("support.tasks:Unfinished", "lacks accuracy, build_model, loss: define what Task asks"),
    ],
)
def test_a_task_that_cannot_be_used_says_why(name, message):
    with pytest.raises(TaskError, match=f"task.name {name!r} {message}"):
        load_task(name)


def test_options_that_a_task_does_not_know_are_named():
    with pytest.raises(TaskError, match=r"task support\.tasks:Plain can't be .* 'colour'"):
        load_task("support.tasks:Plain", colour=1)
    assert load_task("support.tasks:Plain", seed=3).seed == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "task.samples must be ≥ 1, is 0"),
        ({"colour": 1}, "task.colour is not a setting: remove it or correct its spelling"),
        ({"institution": 6}, "task: institution must be < institutions = 6, is 6"),
        ({"samples": None}, "task: give samples or test: only one of them can take the rest"),
        ({"split": "iid"}, "task.split must be 'clusters', 'dirichlet' or 'skew', is 'iid'"),
        ({"beta": 0.1}, 'task: beta is for split = "dirichlet" alone: remove it'),
        ({"groups": 5, "cluster_by": "rotation"}, "task: groups must be ≤ 4 by rotation, is 5"),
        ({"samples": "60"}, "task.samples must be an integer, is '60'"),
    ],
)
def test_a_wrong_option_gives_one_line(options, message):
    with pytest.raises(TaskError) as caught:
        digits_task(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "sizes",
    [
        {"samples": 400},
        {"samples": 250, "test": 20},
        {"samples": 260},
        {"samples": None, "test": 290},
    ],
)
def test_a_slice_too_small_says_how_many_it_holds(sizes):
    with pytest.raises(TaskError, match=r"slice holds (299|300) samples, too few for"):
        digits_task(**sizes).data()


def test_missing_scikit_learn_names_what_to_install(monkeypatch):
    monkeypatch.setattr(digits, "find_spec", lambda _: None)
    with pytest.raises(TaskDataError, match=r"pip install 'ipfl-flower\[demo\]'"):
        digits_task().data()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not gzip",
        gzip.compress(b"1,2\n"),
        gzip.compress(b"x,y\n"),
        gzip.compress(b"99," * 64 + b"1\n"),
        gzip.compress(b"1,2\n" * 99)[:-9],
    ],
)
def test_damaged_digits_are_named(tmp_path, content):
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(content)
    with pytest.raises(TaskDataError, match=r"digits\.csv\.gz .*: reinstall scikit-learn"):
        digits.read_digits(path)


def test_missing_digits_file_is_named(tmp_path):
    with pytest.raises(TaskDataError, match="reinstall scikit-learn"):
        digits.read_digits(tmp_path / "digits.csv.gz")


@needs_fashion
def test_fashion_mnist_in_both_sizes():
    small = load_task("fashion_mnist", **FASHION)
    images, labels = small.read()
    assert images.shape == (70_000, 28, 28)
    assert np.bincount(labels).tolist() == [7000] * 10
    large = load_task("fashion_mnist", **FASHION, model="cnn")
    data = large.data()
    assert data.train.inputs.shape == (60, 1, 28, 28)
    assert len(data.test) == 600
    pooled = small.data().train.inputs
    assert pooled.shape == (60, 196)
    first = data.train.inputs[0, 0]
    assert float(pooled[0, 15]) == pytest.approx(float(first[2:4, 2:4].mean()))
    assert small.build_model(0)(pooled).shape == (60, 10)
    assert large.build_model(0)(data.train.inputs).shape == (60, 10)


def idx(path, dimensions, shape, content):
    header = bytes([0, 0, 8, dimensions]) + np.array(shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + content))


def test_missing_fashion_mnist_names_the_debian_package(tmp_path):
    with pytest.raises(
        TaskDataError,
        match=r"train-images.*is missing: install Debian's package "
        "dataset-fashion-mnist, or set data_dir",
    ):
        load_task("fashion_mnist", **FASHION, data_dir=str(tmp_path)).data()


def test_a_relative_data_dir_is_refused():
    with pytest.raises(TaskError, match=r"^task.data_dir: must be an absolute path, is 'data'$"):
        load_task("fashion_mnist", **FASHION, data_dir="data")


def test_an_idx_file_is_read_and_a_damaged_one_named(tmp_path):
    path = tmp_path / "f.gz"
    idx(path, 1, [3], b"\x01\x02\x03")
    assert fashion_mnist.read_idx(path, dimensions=1).tolist() == [1, 2, 3]
    with pytest.raises(TaskDataError, match=r"f\.gz is not an IDX file"):
        fashion_mnist.read_idx(path, dimensions=3)
    idx(path, 1, [4], b"\x01\x02\x03")
    with pytest.raises(TaskDataError, match="cut short"):
        fashion_mnist.read_idx(path, dimensions=1)
    for damaged in (b"", b"no gzip", gzip.compress(bytes(9))[:-4], gzip.compress(b"\x00\x00")):
        path.write_bytes(damaged)
        with pytest.raises(TaskDataError, match=r"f\.gz .*dataset-fashion-mnist"):
            fashion_mnist.read_idx(path, dimensions=1)


def test_images_and_labels_that_do_not_belong_together_are_refused(tmp_path):
    for part in ("train", "t10k"):
        idx(tmp_path / f"{part}-images-idx3-ubyte.gz", 3, [2, 28, 28], bytes(2 * 784))
        idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", 1, [3], bytes(3))
    with pytest.raises(
        TaskDataError, match=r"the train images and labels .* don't belong together"
    ):
        load_task("fashion_mnist", **FASHION, data_dir=str(tmp_path)).data()
