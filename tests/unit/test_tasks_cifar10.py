"""CIFAR-10 is read from each of its layouts, sliced as the paper does, and damage is named."""

import pickle

import numpy as np
import pytest
import torch
from support.shared_data import shared_file

from ipfl_flower.tasks import TaskDataError, TaskError, load_task

OPTIONS = {"institution": 0, "institutions": 2, "seed": 1}
EVEN = {**OPTIONS, "split": "clusters", "samples": 5, "validation": 3}
RNG = np.random.default_rng(3)
IMAGES = RNG.integers(0, 256, (60, 32, 32, 3), np.uint8)
LABELS = RNG.permutation(np.arange(60) % 10)
_BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def rows(batch):
    return IMAGES[10 * batch : 10 * batch + 10].transpose(0, 3, 1, 2).reshape(10, -1)


def write_npz(folder, **changes):
    arrays = {"x_train": IMAGES[:50], "y_train": LABELS[:50]}
    arrays |= {"x_test": IMAGES[50:], "y_test": LABELS[50:], **changes}
    np.savez(folder / "cifar10.npz", **{n: a for n, a in arrays.items() if a is not None})


def write_binary(folder):
    for number, name in enumerate(_BATCHES):
        labels = LABELS[10 * number : 10 * number + 10, None].astype(np.uint8)
        (folder / f"{name}.bin").write_bytes(np.hstack([labels, rows(number)]).tobytes())


def write_python(folder):
    (folder / "cifar-10-batches-py").mkdir()
    for number, name in enumerate(_BATCHES):
        labels = LABELS[10 * number : 10 * number + 10].tolist()
        batch = {b"data": rows(number), b"labels": labels, b"batch_label": b"x"}
        (folder / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(batch, protocol=4))


@pytest.mark.parametrize("write", [write_npz, write_binary, write_python])
def test_each_layout_gives_the_same_images(tmp_path, write):
    write(tmp_path)
    task = load_task("cifar10", **EVEN, data_dir=str(tmp_path))
    images, labels = task.read()
    assert np.array_equal(images, IMAGES)
    assert np.array_equal(labels, LABELS)
    assert task.source().startswith("CIFAR-10")
    inputs = task.data().train.inputs
    assert inputs.shape == (5, 3, 32, 32)
    assert inputs.is_contiguous()
    assert task.build_model(0)(inputs).shape == (5, 10)


def test_colours_are_standardised(tmp_path):
    write_npz(tmp_path)
    task = load_task("cifar10", **EVEN, data_dir=str(tmp_path))
    whole = task.inputs(IMAGES)
    assert float(whole[7, 1, 2, 3]) == pytest.approx((IMAGES[7, 2, 3, 1] / 255 - 0.4822) / 0.2435)


def test_the_folder_can_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("IPFL_DATA_DIR", raising=False)
    with pytest.raises(TaskDataError, match="neither data_dir nor IPFL_DATA_DIR says"):
        load_task("cifar10", **EVEN).data()
    write_npz(tmp_path)
    monkeypatch.setenv("IPFL_DATA_DIR", str(tmp_path))
    assert len(load_task("cifar10", **EVEN).data().train) == 5


def test_an_empty_folder_says_what_belongs_there(tmp_path):
    with pytest.raises(TaskDataError, match=r"holds none of its files: set data_dir to a folder"):
        load_task("cifar10", **EVEN, data_dir=str(tmp_path)).source()
    with pytest.raises(TaskDataError, match="is not a folder: set data_dir"):
        load_task("cifar10", **EVEN, data_dir=str(tmp_path / "none")).data()


@pytest.mark.parametrize(
    "changes",
    [
        {"y_test": None},
        {"y_test": LABELS[50:58]},
        {"y_test": LABELS[50:] + 10},
        {"y_test": LABELS[50:] / 2},
        {"y_test": LABELS[50:, None]},
        {"x_test": IMAGES[50:, :16]},
        {"x_train": IMAGES[:50].astype(np.float32)},
        {"x_train": np.array([None])},
    ],
)
def test_an_archive_of_something_else_is_named(tmp_path, changes):
    write_npz(tmp_path, **changes)
    with pytest.raises(TaskDataError, match=r"task cifar10: .*cifar10\.npz.*: .*(set|get)"):
        load_task("cifar10", **EVEN, data_dir=str(tmp_path)).data()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04" + bytes(99)])
def test_a_damaged_archive_is_named(tmp_path, content):
    (tmp_path / "cifar10.npz").write_bytes(content)
    with pytest.raises(TaskDataError, match=r"cifar10\.npz can't be read .*set data_dir"):
        load_task("cifar10", **EVEN, data_dir=str(tmp_path)).data()
    write_npz(tmp_path)
    whole = (tmp_path / "cifar10.npz").read_bytes()
    (tmp_path / "cifar10.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TaskDataError, match=r"cifar10\.npz can't be read"):
        load_task("cifar10", **EVEN, data_dir=str(tmp_path)).data()


def test_a_binary_file_cut_short_or_missing_is_named(tmp_path):
    write_binary(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TaskDataError, match=r"data_batch_3\.bin has 30729 bytes, no multiple"):
        load_task("cifar10", **EVEN, data_dir=str(tmp_path)).data()
    path.unlink()
    with pytest.raises(TaskDataError, match=r"data_batch_3\.bin can't be read .No such file"):
        load_task("cifar10", **EVEN, data_dir=str(tmp_path)).data()


class Hostile:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps(Hostile()),
        pickle.dumps({b"data": Hostile(), b"labels": [0]}),
        pickle.dumps({b"data": np.zeros((1, 3), np.uint8), b"labels": [0]}),
        pickle.dumps({b"data": rows(0), b"labels": [0]}),
        pickle.dumps([1, 2]),
    ],
)
def test_a_pickle_that_is_damaged_or_hostile_is_named_and_not_run(tmp_path, content):
    write_python(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(content)
    with pytest.raises(TaskDataError, match=r"data_batch_2 .*: (set data_dir|get it anew)"):
        load_task("cifar10", **EVEN, data_dir=str(tmp_path)).data()


def test_the_stand_in_is_real_and_its_source_is_told():
    folder = shared_file("cifar10_small.npz")
    task = load_task("cifar10", **{**EVEN, "institutions": 10, "samples": 60}, data_dir=folder)
    images, labels = task.read()
    assert images.shape == (13_000, 32, 32, 3)
    assert np.bincount(labels).tolist() == [1300] * 10
    assert task.source() == "CIFAR-10, of cifar10_small.npz"


@pytest.mark.parametrize(
    "split",
    [
        {"split": "dirichlet", "beta": 0.1, "institutions": 10},
        {"split": "skew", "classes": 5, "institutions": 10},
        {
            "split": "clusters",
            "cluster_by": "dirichlet",
            "groups": 3,
            "beta": 0.1,
            "institutions": 9,
        },
    ],
)
def test_the_paper_s_splits_use_every_sample_once(split):
    folder = shared_file("cifar10_small.npz")
    tasks = [
        load_task("cifar10", **split, institution=i, proportional=True, seed=1, data_dir=folder)
        for i in range(split["institutions"])
    ]
    labels = tasks[0].read()[1]
    shares = tasks[0].shares(labels)
    assert sorted(np.concatenate(shares)) == list(range(13_000))
    data = tasks[3].data()
    sizes = [len(data.train), len(data.validation), len(data.test)]
    assert sum(sizes) == len(shares[3])
    assert sizes[1] == sizes[2] == len(shares[3]) // 5
    assert set(data.test.labels.tolist()) <= set(labels[shares[3]].tolist())
    if split["split"] == "skew":
        assert len(set(data.train.labels.tolist())) == 5


def test_a_part_of_the_set_can_be_shared_out(tmp_path):
    write_npz(tmp_path)
    options = {"split": "dirichlet", "beta": 5.0, "proportional": True, "total": 40}
    tasks = [
        load_task("cifar10", **options, **{**OPTIONS, "institution": i}, data_dir=str(tmp_path))
        for i in range(2)
    ]
    shares = tasks[0].shares(LABELS)
    assert len(set(np.concatenate(shares).tolist())) == 40
    sizes = [sum(len(part) for part in vars(task.data()).values()) for task in tasks]
    assert sizes == [len(share) for share in shares]
    with pytest.raises(TaskError, match="total must be ≤ 60, the samples of its data, is 61"):
        load_task("cifar10", **OPTIONS, **{**options, "total": 61}, data_dir=str(tmp_path)).data()


def test_a_proportional_cut_takes_no_sizes_of_its_own(tmp_path):
    write_npz(tmp_path)
    options = {**OPTIONS, "split": "clusters", "proportional": True, "data_dir": str(tmp_path)}
    with pytest.raises(TaskError, match="test is decided by proportional = true: remove one"):
        load_task("cifar10", **options, test=3)
    assert len(load_task("cifar10", **options, samples=4).data().train) == 4
    assert len(load_task("cifar10", **options, samples=400).data().train) == 18
    with pytest.raises(TaskError, match="too few for a proportional cut"):
        load_task("cifar10", **{**options, "institutions": 30}).data()


def test_beta_is_for_groups_by_dirichlet_too():
    with pytest.raises(TaskError, match='beta is for split = "dirichlet" alone'):
        load_task("cifar10", **EVEN, beta=0.1)
    load_task("cifar10", **EVEN, cluster_by="dirichlet", beta=0.1)


@pytest.mark.parametrize("model", ["lenet", "cnn"])
def test_a_model_learns_a_few_images(model):
    task = load_task("cifar10", **EVEN, model=model)
    network = task.build_model(0)
    assert len(next(network.parameters())) == {"lenet": 6, "cnn": 16}[model]
    inputs, labels = task.inputs(IMAGES[:20]), torch.from_numpy(LABELS[:20])
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(60):
        optimiser.zero_grad()
        task.loss(network(inputs), labels).backward()
        optimiser.step()
    assert task.accuracy(network(inputs), labels) == 1.0
