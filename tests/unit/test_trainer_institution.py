"""institution.toml: what is read, and the one line that each mistake gets."""

import math

import pytest
import torch

from ipfl_flower.market import Terms
from ipfl_flower.tasks import TASKS
from ipfl_flower.trainer import Institution, InstitutionError
from ipfl_flower.trainer.proximal import AdamW, Sgd

GOOD = """\
name = "clinic"
state_dir = "state/clinic"
device = "cpu"

[terms]
cost = 0.05
eagerness = 4800
budget = 100.5

[training]
iterations = 40
batch_size = 16
learning_rate = 0.1
momentum = 0.9
weight_decay = 1e-5
threads = 2

[task]
name = "digits"
split = "clusters"
groups = 2
institution = 1
institutions = 6
samples = 60
seed = 1
"""


ADAMW = '[training]\noptimizer = "adamw"'


def load(folder, text):
    path = folder / "institution.toml"
    path.write_text(text, encoding="utf-8")
    return Institution.load(path)


def test_a_good_file(tmp_path):
    institution = load(tmp_path, GOOD)
    assert institution.name == "clinic"
    assert institution.state_dir == tmp_path / "state" / "clinic"
    assert institution.device == "cpu"
    assert institution.threads == 2
    assert not institution.leaving
    assert institution.terms == Terms(samples=60, cost=0.05, eagerness=4800.0, budget=100.5)
    assert institution.sgd == Sgd(
        iterations=40, batch_size=16, learning_rate=0.1, momentum=0.9, weight_decay=1e-5
    )
    assert institution.task.name == "digits"
    assert (institution.task.seed, institution.task.institution) == (1, 1)


def test_defaults(tmp_path):
    text = GOOD.replace("budget = 100.5\n", "").replace("samples = 60", "test = 100")
    text = text.replace("iterations = 40", "epochs = 3").replace('device = "cpu"\n', "")
    institution = load(tmp_path, text)
    assert institution.terms.budget == math.inf
    assert institution.terms.samples == len(institution.task.data().train)
    assert institution.sgd.epochs == 3
    assert institution.device == ("cuda" if torch.cuda.is_available() else "cpu")


def test_adamw_and_its_settings(tmp_path):
    text = GOOD.replace("momentum = 0.9\n", "").replace("[training]", ADAMW)
    read = load(tmp_path, text.replace("[task]", "betas = [0.8, 0]\nepsilon = 1e-6\n[task]")).sgd
    assert read == AdamW(
        iterations=40,
        batch_size=16,
        learning_rate=0.1,
        betas=(0.8, 0.0),
        epsilon=1e-6,
        weight_decay=1e-5,
    )


@pytest.mark.parametrize(("name", "rate"), [("sgd", 0.05), ("adamw", 0.001)])
def test_each_optimizer_has_its_defaults(tmp_path, name, rate):
    start, end = GOOD.index("[training]"), GOOD.index("[task]")
    table = f'[training]\noptimizer = "{name}"\nepochs = 2\n'
    read = load(tmp_path, GOOD[:start] + table + GOOD[end:]).sgd
    assert read == {"sgd": Sgd, "adamw": AdamW}[name](epochs=2)
    assert (read.batch_size, read.learning_rate, read.weight_decay) == (32, rate, 0.0)


def test_reported_samples_and_an_infinite_cost_are_taken(tmp_path):
    text = GOOD.replace("cost = 0.05", "cost = inf\nsamples = 120")
    assert load(tmp_path, text).terms == Terms(120, math.inf, 4800.0, 100.5)


def test_leaving_is_said_in_the_file(tmp_path):
    assert load(tmp_path, GOOD.replace('device = "cpu"', "leaving = true")).leaving


def test_who_signs_receipts_and_what_an_alarm_does_are_said_in_the_file(tmp_path):
    assert load(tmp_path, GOOD).on_alarm == "continue"
    said = f'on_alarm = "stop"\noperator_key = "{"0f" * 32}"'
    institution = load(tmp_path, GOOD.replace('device = "cpu"', said))
    assert (institution.on_alarm, institution.operator_key) == ("stop", "0f" * 32)


def test_an_absolute_state_dir_stays(tmp_path):
    folder = tmp_path / "elsewhere"
    assert load(tmp_path, GOOD.replace("state/clinic", str(folder))).state_dir == folder


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cost = 0.05", "cost = -1", "terms.cost must be ≥ 0, is -1"),
        (
            "cost = 0.05",
            f"cost = 0\nsamples = {2**60}",
            f"terms.samples is {2**60}: report a count from 0 to {2**53}",
        ),
        ("cost = 0.05", "cost = nan", "terms.cost must be ≥ 0, is nan"),
        ("cost = 0.05\n", "", "terms.cost is missing: add it"),
        ("cost = 0.05", 'cost = "low"', "terms.cost must be a number, is 'low'"),
        ("eagerness = 4800", "eagerness = inf", "terms.eagerness must be a finite number, is inf"),
        ("budget = 100.5", "budget = -0.5", "terms.budget must be ≥ 0, is -0.5"),
        ("budget", "bugdet", "terms.bugdet is not a setting: remove it or correct its spelling"),
        ("iterations = 40", "iterations = 0", "training.iterations must be ≥ 1, is 0"),
        ("momentum = 0.9", "momentum = 1", "training.momentum must be < 1, is 1"),
        ("learning_rate = 0.1", "learning_rate = 0", "training.learning_rate must be > 0, is 0"),
        (
            "[training]",
            '[training]\noptimizer = "adam"',
            "training.optimizer must be 'sgd' or 'adamw', is 'adam'",
        ),
        (
            "[training]",
            ADAMW,
            (
                'training.momentum: optimizer "adamw" has no such setting: remove it, or set '
                'optimizer = "sgd"'
            ),
        ),
        (
            "threads = 2",
            "betas = [0.9, 0.999]\nepsilon = 1e-8",
            (
                'training.betas: optimizer "sgd" has no such setting: remove it, or set '
                'optimizer = "adamw"; training.epsilon: optimizer "sgd" has no such setting: '
                'remove it, or set optimizer = "adamw"'
            ),
        ),
        (
            "momentum = 0.9",
            'optimizer = "adamw"\nbetas = [0.9, 1]\nepsilon = 0',
            "training.betas.1 must be < 1, is 1; training.epsilon must be ≥ 1e-30, is 0",
        ),
        (
            "momentum = 0.9",
            'optimizer = "adamw"\nbetas = [0.9]',
            "training.betas.1 is missing: add it",
        ),
        (
            "iterations = 40\n",
            "",
            "training: give either iterations (steps a round) or epochs",
        ),
        (
            "iterations = 40\n",
            "iterations = 40\nepochs = 1\n",
            "training: give either iterations (steps a round) or epochs",
        ),
        (
            'device = "cpu"',
            'on_alarm = "panic"',
            "on_alarm must be 'continue' or 'stop', is 'panic'",
        ),
        (
            'device = "cpu"',
            'operator_key = "0F"',
            "operator_key: give the operator's public key, 64 hexadecimal digits, not '0F'",
        ),
        ('"cpu"', '"gpu"', "device must be 'auto', 'cpu' or 'cuda', is 'gpu'"),
        ('name = "digits"\n', "", "task.name is missing: add it"),
        (
            '"digits"',
            '"digit"',
            f"task.name 'digit' is not known: choose from {', '.join(sorted(TASKS))}",
        ),
        ('"digits"', "3", "task.name must be a string, is 3"),
        ("samples = 60", "samples = 0", "task.samples must be ≥ 1, is 0"),
        (
            "cost = 0.05\neagerness = 4800",
            "cost = -1\neagerness = -2",
            "terms.cost must be ≥ 0, is -1; terms.eagerness must be ≥ 0, is -2",
        ),
    ],
)
def test_a_mistake_is_one_line_with_the_file_and_the_setting(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(InstitutionError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert str(caught.value) == f"{tmp_path / 'institution.toml'}: {message}"


def test_a_missing_file_and_one_that_is_no_toml_are_named(tmp_path):
    with pytest.raises(InstitutionError, match=r"absent\.toml can't be read: No such file"):
        Institution.load(tmp_path / "absent.toml")
    with pytest.raises(
        InstitutionError, match=r"institution\.toml is not a TOML file: Invalid value"
    ):
        load(tmp_path, "name = ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_cuda_without_a_gpu_says_what_to_set(tmp_path):
    with pytest.raises(InstitutionError, match='torch finds no GPU: set "cpu" or "auto"'):
        load(tmp_path, GOOD.replace('"cpu"', '"cuda"'))
