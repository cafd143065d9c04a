"""PACS is read from both layouts, split by domain, and what is damaged is named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.shared_data import shared_file

from ipfl_flower.tasks import TaskDataError, load_task
from ipfl_flower.tasks.pacs import CLASSES, DOMAINS, read_pacs

OPTIONS = {"institution": 0, "institutions": 8, "seed": 1, "split": "domains", "samples": 3}
SMALL = {**OPTIONS, "validation": 2, "side": 16}
RNG = np.random.default_rng(2)
DOMAIN = np.repeat(np.arange(4), 28).astype(np.uint8)
LABEL = np.tile(np.arange(7), 16).astype(np.uint8)
# A picture says its domain and class by its colours, which survive scaling and compression.
PIXELS = np.zeros((112, 16, 16, 3), np.uint8)
PIXELS[..., 0], PIXELS[..., 1] = DOMAIN[:, None, None] * 60, LABEL[:, None, None] * 30


def task(folder, **options):
    return load_task("pacs", **{**SMALL, **options}, data_dir=str(folder))


@pytest.fixture
def archive(tmp_path):
    np.savez(tmp_path / "pacs32.npz", x=PIXELS, y=LABEL, d=DOMAIN)
    return tmp_path


@pytest.fixture
def folders(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="no Pillow: pip install '.[experiments]'")
    for number in range(112):
        folder = tmp_path / DOMAINS[DOMAIN[number]] / CLASSES[LABEL[number]]
        folder.mkdir(parents=True, exist_ok=True)
        image.fromarray(PIXELS[number]).resize((30, 20)).save(folder / f"pic_{number:03}.jpg")
    return tmp_path


def test_an_institution_holds_one_domain_and_shares_it(archive):
    domains = read_pacs(archive, 16).domains
    assert np.array_equal(domains, DOMAIN)
    shares = task(archive).shares(LABEL.astype(np.int64))
    assert sorted(np.concatenate(shares)) == list(range(112))
    for institution, share in enumerate(shares):
        assert set(domains[share].tolist()) == {institution % 4}
        assert len(share) == 14


def test_a_part_of_the_images_is_split_by_domain_too(archive):
    shares = task(archive, total=60).shares(LABEL.astype(np.int64))
    assert len(set(np.concatenate(shares).tolist())) == 60
    for institution, share in enumerate(shares):
        assert set(DOMAIN[share].tolist()) == {institution % 4}


def test_fewer_institutions_than_domains_leave_domains_out(archive):
    shares = task(archive, institutions=3).shares(LABEL.astype(np.int64))
    assert [set(DOMAIN[share].tolist()) for share in shares] == [{0}, {1}, {2}]


def test_the_official_folders_give_the_same_images(folders):
    images = read_pacs(folders, 16)
    order = np.lexsort((LABEL, DOMAIN))
    assert np.array_equal(images.labels, LABEL[order])
    assert np.array_equal(images.domains, DOMAIN[order])
    assert np.abs(images.pixels.astype(int) - PIXELS[order]).max() < 12
    assert task(folders).source() == "PACS"


def test_a_picture_that_is_none_is_named(folders):
    path = folders / "cartoon" / "dog" / "a.png"
    path.write_bytes(b"no picture")
    with pytest.raises(TaskDataError, match=r"cartoon/dog/a\.png can't be read .*: get it anew"):
        task(folders).data()


def test_a_missing_or_empty_folder_of_a_class_is_named(folders):
    for path in (folders / "sketch" / "person").iterdir():
        path.unlink()
    with pytest.raises(TaskDataError, match="sketch/person holds no pictures: set data_dir"):
        task(folders).data()
    (folders / "sketch" / "person").rmdir()
    with pytest.raises(TaskDataError, match=r"sketch/person can't be read .No such file"):
        task(folders, side=20).data()


def test_a_folder_without_pacs_says_what_belongs_there(tmp_path):
    with pytest.raises(TaskDataError, match=r"holds none of its files: .*pacs32\.npz"):
        task(tmp_path).data()


@pytest.mark.parametrize(
    "changes",
    [{"y": LABEL + 5}, {"d": DOMAIN + 3}, {"d": DOMAIN[:9]}, {"x": PIXELS[..., :2]}],
)
def test_an_archive_of_something_else_is_named(tmp_path, changes):
    np.savez(tmp_path / "pacs32.npz", **({"x": PIXELS, "y": LABEL, "d": DOMAIN} | changes))
    with pytest.raises(TaskDataError, match=r"task pacs: .*pacs32\.npz"):
        task(tmp_path).data()


@pytest.mark.parametrize(("model", "parameters"), [("resnet20", 275_000), ("cnn", 20_199)])
def test_images_are_scaled_to_what_the_model_takes(archive, model, parameters):
    made = task(archive, model=model, side=32)
    inputs = made.data().train.inputs
    assert inputs.shape == (3, 3, 32, 32)
    network = made.build_model(0)
    assert network(inputs).shape == (3, 7)
    count = sum(p.numel() for p in network.parameters())
    assert count == pytest.approx(parameters, rel=0.02)
    entries = network.state_dict()
    assert sum(entry.numel() for entry in entries.values()) == count  # no running statistics


def test_resnet20_gives_a_gradient_to_every_parameter():
    network = load_task("pacs", **SMALL).build_model(3)
    network(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in network.parameters())


def test_the_stand_in_holds_all_of_pacs():
    folder = shared_file("pacs32.npz")
    images = read_pacs(Path(folder), 32)
    assert images.pixels.shape == (9991, 32, 32, 3)
    assert np.bincount(images.domains).tolist() == [1670, 2048, 2344, 3929]
    assert set(np.unique(images.labels)) == set(range(7))
    assert task(folder, side=32, samples=100).source() == "PACS at 32 pixels (pacs32.npz)"
