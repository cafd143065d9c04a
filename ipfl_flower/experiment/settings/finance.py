"""Instruction tuning with LoRA: mixed-Finance and CoFinance.

The model is SmolLM2-135M, or any of Hugging Face that the environment's IPFL_LANGUAGE_MODEL names
(the paper's is Llama-2-7B); in quick runs an encoder. The paper's data is read from JSONL files of
its names where they are; else BBC's topics take its place, which groups name by different letters:
what one group's model knows is wrong for the others, as it is where tasks differ.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ipfl_flower.experiment.definition import Choice, Setting
from ipfl_flower.experiment.settings.news import adapters
from ipfl_flower.experiment.settings.paper import paper_setting, slices
from ipfl_flower.tasks.files import DATA_DIR_VARIABLE
from ipfl_flower.trainer.proximal import AdamW, Optimiser, Sgd

MODEL_VARIABLE: Final = "IPFL_LANGUAGE_MODEL"
ARTICLES: Final = 2225


def mixed_finance(choice: Choice) -> Setting:
    """Six institutions of 200 samples, two on each of three sets of financial sentiment."""
    sets = ["fiqa", "tfns", "nwgi"]
    held = [sets[i % 3] for i in range(6)]
    return _setting(choice, "mixed_finance", held, [200] * 6)


def cofinance(choice: Choice) -> Setting:
    """Five institutions of 500 samples of code, and three of 200 of financial sentiment."""
    held = ["code_alpaca"] * 5 + ["nwgi"] * 3
    return _setting(choice, "cofinance", held, [500] * 5 + [200] * 3)


def _setting(choice: Choice, name: str, held: Sequence[str], sizes: Sequence[int]) -> Setting:
    where = _folder(choice, held)
    kinds = list(dict.fromkeys(held))
    groups = [kinds.index(kind) for kind in held]
    if where is not None and not choice.quick:
        tables = slices(
            len(held),
            corpus="jsonl",
            categories=list(held),
            data_dir=where,
            validation=40,
            test=100,
            length=512,
            answer_length=32,
        )
        tables = [{**t, "samples": size} for t, size in zip(tables, sizes, strict=True)]
    else:
        tables = _of_news(groups, sizes, quick=choice.quick)
    model: dict[str, Any] = {"model": os.environ.get(MODEL_VARIABLE, "smollm2"), "layers": 8}
    if MODEL_VARIABLE in os.environ:
        del model["layers"]  # all of them, as in the paper
    tuned = {"model": "minilm", "rank": 8, "alpha": 16.0, "layers": 2} if choice.quick else model
    made = paper_setting(
        choice,
        name,
        f"{'Mixed-Finance' if name == 'mixed_finance' else 'CoFinance'}, LoRA, {len(held)} "
        "institutions",
        [{"name": "instructions", **tuned, **table} for table in tables],
        sgd=_sgd(choice),
        distance_weight=5.0,
        eta=1.0,
        groups=groups,
    )
    return dataclasses.replace(
        made, market={**made.market, "recommended": adapters("paper", made.sgd)}
    )


def _of_news(groups: Sequence[int], sizes: Sequence[int], *, quick: bool) -> list[dict[str, Any]]:
    """Return tables on BBC's topics: institutions of a group have numbers that it is found by."""
    kinds = max(groups) + 1
    # Number k of group g is slice g + k · kinds: as many slices as the largest group needs.
    numbers = [g + kinds * list(groups[:i]).count(g) for i, g in enumerate(groups)]
    common: Mapping[str, Any] = {
        "corpus": "bbc",
        "groups": kinds,
        "institutions": kinds * max(groups.count(g) for g in groups),
        "length": 24 if quick else 64,
        "answer_length": 2,
    }
    held = {"validation": 12, "test": 20} if quick else {"validation": 30, "test": 60}
    # Where the articles are fewer than the paper's samples, everyone has the same share of them.
    room = ARTICLES // common["institutions"] - sum(held.values())
    scale = min(1.0, room / max(sizes))
    return [
        {**common, **held, "institution": n, "samples": 24 if quick else round(scale * size)}
        for n, size in zip(numbers, sizes, strict=True)
    ]


def _folder(choice: Choice, held: Sequence[str]) -> str | None:
    """Return the folder that holds the paper's data, if one does."""
    named = choice.data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if not named or not all((Path(named) / f"{kind}.jsonl").exists() for kind in held):
        return None
    return str(named)


def _sgd(choice: Choice) -> Optimiser:
    """Return ten steps of eight samples a round, with AdamW.

    The paper's rate, 5e-5 falling as a cosine, is that of a model 50 times as large.
    """
    if choice.quick:
        return Sgd(iterations=4, batch_size=6, learning_rate=0.05, momentum=0.9)
    return AdamW(iterations=10, batch_size=8, learning_rate=1e-3)
