"""Hidden groups of language models: BBC's topics, which two groups name by different letters.

Two models with LoRA: an encoder, small enough for every test run, and a causal language model.
What one group's adapters know is wrong for the other, so a good market is as good as knowing the
groups. Adapters of one pretrained model start alike and learn much alike: updates of both groups
are near each other, most of all the language model's. So the market measures them from their mean,
with the largest λ at which anything is bought: from whoever is nearer than strangers are.
"""

from math import sqrt
from typing import Any, Final

from ipfl_flower.experiment.definition import COST, VALUE, Choice, Economics, Seat, Setting
from ipfl_flower.tasks import load_task
from ipfl_flower.trainer.proximal import AdamW, Optimiser, Sgd

GROUPS: Final = 2
ATTENTION: Final = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEAR: Final = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
"""All linear maps of a layer of SmolLM2: with queries and values alone it learns half as fast."""


def adapters(economics: Economics, sgd: Optimiser) -> dict[str, Any]:
    """Return the market's settings for adapters.

    Of strangers, who are at d = 1 from the mean, a first model of one's own size brings just its
    price: V (1 − 1/√2) = λ + c. With AdamW μ is smaller: it moves an element by the learning rate
    however small its gradient g is, and the usual μ would hold it within g/μ of the centre.
    """
    weight = VALUE * (1 - sqrt(0.5)) - COST[economics]
    pull = {"prox-weight": 0.001} if isinstance(sgd, AdamW) else {}
    return {"reference": "mean", "distance-weight": weight, **pull}


def news_encoder(choice: Choice) -> Setting:
    """Three and three institutions of 24 articles, with MiniLM."""
    return _setting(
        choice,
        "news_encoder",
        "BBC news, 2 groups by answer letters, MiniLM with LoRA, 6 × 24 articles",
        institutions=6,
        rounds=2 if choice.quick else 8,
        sgd=Sgd(iterations=4, batch_size=8, learning_rate=0.05, momentum=0.9),
        model="minilm",
        layers=2,
        rank=8,
        alpha=16.0,
        length=32,
        samples=24,
        validation=12 if choice.quick else 24,
        test=30 if choice.quick else 100,
    )


def news_language_model(choice: Choice) -> Setting:
    """Two and two institutions of 24 articles, with SmolLM2-135M; when quick, with MiniLM."""
    return _setting(
        choice,
        "news_language_model",
        f"BBC news, 2 groups by answer letters, {'MiniLM' if choice.quick else 'SmolLM2-135M'} "
        "with LoRA, 4 × 24 articles",
        institutions=4,
        rounds=2 if choice.quick else 5,
        sgd=AdamW(iterations=4 if choice.quick else 8, batch_size=8, learning_rate=5e-3),
        **(
            {"model": "minilm", "layers": 2}
            if choice.quick
            else {"model": "smollm2", "layers": 8, "targets": LINEAR}
        ),
        rank=8,
        alpha=16.0,
        length=32 if choice.quick else 40,
        samples=24,
        validation=12 if choice.quick else 16,
        test=20 if choice.quick else 40,
    )


def _setting(
    choice: Choice,
    name: str,
    title: str,
    *,
    institutions: int,
    rounds: int,
    sgd: Optimiser,
    **options: Any,
) -> Setting:
    tasks = [
        {
            "name": "instructions",
            "corpus": "bbc",
            "groups": GROUPS,
            "institution": i,
            "institutions": institutions,
            "answer_length": 2,
            "seed": choice.seed,
            **options,
        }
        for i in range(institutions)
    ]
    first = load_task(**tasks[0])
    return Setting(
        name=name,
        title=title,
        seats=tuple(
            Seat(name=f"group{i % GROUPS}-{i // GROUPS}", task=task, group=i % GROUPS)
            for i, task in enumerate(tasks)
        ),
        sgd=sgd,
        rounds=rounds,
        seed=choice.seed,
        economics="cheap",
        data=first.source(),
        market={"recommended": adapters("cheap", sgd)},
    )
