"""Data sets of the hub's kind are read to the pixel and the word, and what is wrong is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.hub_data import real_digits, write
from support.hub_server import COMMIT, serving

from ipfl_flower.experiment.record import digest_of
from ipfl_flower.tasks import TaskDataError, TaskError, load_task

datasets = pytest.importorskip("datasets", reason="pip install 'ipfl-flower[hub]'")
pictures = pytest.importorskip("PIL.Image", reason="pip install 'ipfl-flower[hub]'")

EVEN = {"institution": 0, "institutions": 2, "seed": 1, "split": "clusters"}
SMALL = {**EVEN, "samples": 5, "validation": 3}
PARTS = {"institution": 0, "institutions": 2, "samples": 12, "validation": 4, "seed": 1}
WORDS = [
    {"instruction": f"Is {number} even?", "input": "" if number % 3 else "Yes or no.", "output": a}
    for number, a in enumerate(["yes", "no"] * 30)
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("IPFL_DATA_DIR", raising=False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def cifar(tmp_path):
    return write(tmp_path / "cifar", "img", *real_digits(32, colours=True))


def test_cifar10_has_the_pixels_that_were_written(cifar):
    images, labels = real_digits(32, colours=True)
    task = load_task("cifar10", **SMALL, dataset=cifar)
    read, classes = task.read()
    assert np.array_equal(read, images)
    assert np.array_equal(classes, labels)
    assert task.source() == cifar
    assert task.stand_in()
    inputs = task.data().train.inputs
    assert inputs.shape == (5, 3, 32, 32)
    assert task.build_model(0)(inputs).shape == (5, 10)


def test_fashion_mnist_has_the_pixels_that_were_written(tmp_path):
    images, labels = real_digits(28, colours=False)
    task = load_task("fashion_mnist", **SMALL, dataset=write(tmp_path, "image", images, labels))
    read, classes = task.read()
    assert np.array_equal(read, images)
    assert np.array_equal(classes, labels)
    assert task.build_model(0)(task.data().train.inputs).shape == (5, 10)


def test_pacs_has_its_domains_and_scales_pictures(tmp_path):
    images, _ = real_digits(48, colours=True)
    domains = np.array(["photo", "art_painting", "cartoon", "sketch"])[np.arange(60) % 4]
    folder = write(tmp_path, "image", images, np.arange(60) % 7, domain=domains.tolist())
    options = {**SMALL, "institutions": 4, "split": "domains", "side": 16, "dataset": folder}
    task = load_task("pacs", **options)
    read, classes = task.read()
    wanted = pictures.fromarray(images[7]).resize((16, 16))
    assert np.array_equal(read[7], np.asarray(wanted))
    shares = task.shares(classes)
    assert [set(domains[share]) for share in shares] == [{domain} for domain in domains[:4]]
    assert not load_task("pacs", **{**options, "dataset": "flwrlabs/pacs"}).stand_in()


def test_a_domain_that_pacs_does_not_have_is_named(tmp_path):
    images, _ = real_digits(16, colours=True)
    domains = ["photo"] * 59 + ["quickdraw"]
    folder = write(tmp_path, "image", images, np.arange(60) % 7, domain=domains)
    with pytest.raises(TaskDataError, match=r"has a domain 'quickdraw', not photo, art_painting"):
        load_task("pacs", **{**SMALL, "side": 16, "dataset": folder}).data()


def test_the_digest_is_that_of_the_same_data_in_other_files_and_sees_a_pixel(tmp_path, cifar):
    images, labels = real_digits(32, colours=True)
    whole = {"x_train": images[:50], "y_train": labels[:50]}
    np.savez(tmp_path / "cifar10.npz", **whole, x_test=images[50:], y_test=labels[50:])
    by_files = load_task("cifar10", **SMALL, data_dir=str(tmp_path))
    by_name = load_task("cifar10", **SMALL, dataset=cifar)
    assert digest_of([by_name]) == digest_of([by_files])
    images[:, 3, 3, 0] ^= 1
    other = load_task("cifar10", **SMALL, dataset=write(tmp_path / "other", "img", images, labels))
    assert digest_of([other]) != digest_of([by_name])


@pytest.mark.parametrize(
    ("task", "name"),
    [("cifar10", "uoft-cs/cifar10"), ("fashion_mnist", "zalando-datasets/fashion_mnist")],
)
def test_reports_say_which_data_set_of_the_hub_it_is(task, name):
    named = load_task(task, **SMALL, dataset=name)
    assert named.source() == f"{name} (Hugging Face)"
    assert not named.stand_in()
    assert not load_task(task, **SMALL, dataset=f"{name}@main").stand_in()
    assert load_task(task, **SMALL, dataset="owner/other").stand_in()


def test_a_column_of_another_name_can_be_named(cifar):
    with pytest.raises(
        TaskDataError,
        match=r"task fashion_mnist: \S+ has no column 'image', but has img, label: correct ",
    ):
        load_task("fashion_mnist", **SMALL, dataset=cifar).data()
    with pytest.raises(TaskDataError, match=r"column 'label' .* no pictures: correct image_column"):
        load_task("cifar10", **SMALL, dataset=cifar, image_column="label").data()


def test_pictures_of_another_size_or_kind_are_named(tmp_path, cifar):
    with pytest.raises(TaskDataError, match=r"picture 0 of \S+ is RGB of 32×32, not L of 28×28"):
        load_task("fashion_mnist", **SMALL, dataset=cifar, image_column="img").data()
    grey, labels = real_digits(32, colours=False)
    folder = write(tmp_path / "grey", "img", grey, labels)
    with pytest.raises(TaskDataError, match=r"is L of 32×32, not RGB of 32×32: set dataset to"):
        load_task("cifar10", **SMALL, dataset=folder).data()


def test_a_class_that_the_task_has_not_and_a_damaged_picture_are_named(tmp_path):
    images, labels = real_digits(28, colours=False)
    folder = write(tmp_path / "unlabelled", "image", images, [-1, *labels[1:]])
    with pytest.raises(TaskDataError, match=r"unlabelled doesn't hold .* a label in 0 … 9 each"):
        load_task("fashion_mnist", **SMALL, dataset=folder).data()
    table = {"image": [{"bytes": b"\x89PNG\r\n", "path": None}], "label": [0]}
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    (tmp_path / "damaged").mkdir()
    datasets.Dataset.from_dict(table, kinds).to_parquet(tmp_path / "damaged" / "train.parquet")
    with pytest.raises(TaskDataError, match=r"damaged can't be read \(UnidentifiedImageError: .*"):
        load_task("fashion_mnist", **SMALL, dataset=str(tmp_path / "damaged")).data()


def test_files_that_are_not_there_or_no_data_are_named(tmp_path):
    with pytest.raises(
        TaskDataError, match=r"none is not a folder: set dataset to a folder of par"
    ):
        load_task("cifar10", **SMALL, dataset=str(tmp_path / "none")).data()
    (tmp_path / "set").mkdir()
    damaged = load_task("cifar10", **SMALL, dataset=str(tmp_path / "set"))
    with pytest.raises(TaskDataError, match=r"set can't be read \(\w+: .*\): get the files anew"):
        damaged.data()
    (tmp_path / "set" / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(TaskDataError, match=r"set can't be read \(\w+: .*\): get the files anew"):
        damaged.data()


def read_by_name(dataset, home, **variables):
    """Read CIFAR-10 in a process of its own, for the library reads variables when imported."""
    code = (
        "from ipfl_flower.experiment.record import digest_of\n"
        "from ipfl_flower.tasks import TaskDataError, load_task\n"
        f"task = load_task('cifar10', **{SMALL}, dataset='{dataset}')\n"
        "try: print(digest_of([task]))\n"
        "except TaskDataError as error: print(error)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HOME": str(home), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout


def test_a_name_is_downloaded_once_and_read_without_the_hub_from_then_on(tmp_path, cifar):
    digest = digest_of([load_task("cifar10", **SMALL, dataset=cifar)])
    files = {path.name: path.read_bytes() for path in Path(cifar).iterdir()}
    with serving("owner/cifar10", files) as address:
        online = {"HF_ENDPOINT": address}
        name = f"owner/cifar10@{COMMIT}"
        assert read_by_name(name, tmp_path / "home", **online) == f"{digest}\n"
    offline = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "1"}
    assert read_by_name(name, tmp_path / "home", **offline) == f"{digest}\n"
    refusal = read_by_name("owner/cifar10", tmp_path / "empty", **offline)
    assert refusal.startswith("task cifar10: owner/cifar10 can't be read (ConnectionError: ")
    assert "check the name and that this machine reaches huggingface.co" in refusal


def test_without_the_library_it_says_how_to_install_it(cifar, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TaskDataError, match=r"ModuleNotFoundError.*'ipfl-flower\[hub\]'"):
        load_task("cifar10", **SMALL, dataset=cifar).data()


def test_a_folder_is_never_taken_for_a_name(tmp_path, monkeypatch):
    (tmp_path / "uoft-cs" / "cifar10").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskDataError, match=r"is also in the working directory.*set dataset to '/"):
        load_task("cifar10", **SMALL, dataset="uoft-cs/cifar10").data()
    for name in ("parquet", "data/of/mine", "../mine", "./mine", "owner/", "owner/name@", ""):
        with pytest.raises(TaskError, match=r"task.dataset: must be a name on Hugging Face's hub"):
            load_task("cifar10", **SMALL, dataset=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "a/b", "data_dir": "/data"}, "data_dir and dataset both say"),
        ({"image_column": "img"}, "image_column is for dataset alone"),
        ({"label_column": "fine"}, "label_column is for dataset alone"),
    ],
)
def test_options_that_contradict_each_other_are_named(options, message):
    for task in ("cifar10", "fashion_mnist", "pacs"):
        with pytest.raises(TaskError, match=message):
            load_task(task, **SMALL, **options)


def words(folder, rows, **options):
    folder.mkdir(exist_ok=True)
    datasets.Dataset.from_list(rows).to_parquet(folder / "train.parquet")
    return load_task("instructions", **{**PARTS, **options}, corpus="hub", dataset=str(folder))


def test_instructions_are_those_that_jsonl_files_would_give(tmp_path):
    task = words(tmp_path / "words", WORDS)
    lines = "\n".join(json.dumps(row) for row in WORDS)
    (tmp_path / "mine.jsonl").write_text(lines, encoding="utf-8")
    same = load_task("instructions", **PARTS, data_dir=str(tmp_path), categories=["mine"])
    assert task.records() == same.records()
    assert len(task.records()) == 30
    assert task.source() == str(tmp_path / "words")
    assert not task.stand_in()


def test_instructions_of_other_columns_leave_out_what_is_empty(tmp_path):
    rows = [
        {"question": row["instruction"], "hint": None, "answer": row["output"]} for row in WORDS
    ]
    rows[0]["hint"] = " a hint "
    columns = ["question", "hint", "answer"]
    task = words(tmp_path / "words", rows, columns=columns)
    records = set(task.records()) | set(
        words(tmp_path / "words", rows, institution=1, columns=columns).records()
    )
    assert records == {("Is 0 even?\na hint", "yes")} | {
        (row["question"], row["answer"]) for row in rows[1:]
    }
    with pytest.raises(TaskDataError, match=r"no column 'input', but has \S.*: correct columns"):
        words(tmp_path / "words", rows, columns=["question", "input", "answer"]).records()


def test_instructions_that_are_no_text_are_named(tmp_path):
    rows = [{"question": "Is 3 even?", "answer": "no"}, {"question": "Is 4 even?", "answer": None}]
    with pytest.raises(TaskDataError, match=r"row 1 of \S+ is not a sample \(None is no text\)"):
        words(tmp_path / "words", rows, columns=["question", "answer"]).records()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corpus": "hub"}, "reads dataset, not data_dir"),
        ({"corpus": "hub", "dataset": "a/b", "data_dir": "/data"}, "reads dataset, not data_dir"),
        ({"corpus": "hub", "dataset": "a/b", "categories": ["c"]}, "categories is not for corpus"),
        ({"dataset": "a/b"}, 'dataset is for corpus = "hub" alone'),
        ({"corpus": "bbc", "columns": ["a", "b"]}, 'columns is for corpus = "hub" alone'),
    ],
)
def test_options_of_another_corpus_are_named(options, message):
    with pytest.raises(TaskError, match=message):
        load_task("instructions", institution=0, institutions=2, samples=2, **options)
