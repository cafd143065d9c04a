"""What the paper's eleven tasks have in common, and how each is made small for a quick run.

They are the paper's in clients, models, steps, λ and η (mechanism.md, section 9); what it leaves
open is said where it is chosen. Data that can't be had is replaced by what a task has in its place,
and results say so.

η has the paper's numbers, not its meaning. The paper's is absolute: θ̄ = θ − η Σ_j w_j ∇d. Here,
with cosine, the step is the shorter of η ‖v‖² and ‖v‖ / ‖Σ_j w_j ∇d‖ (mechanism.md, section 6):
relative to the update v, and never moving a model further than v is long, so that one η fits every
model. With the paper's numbers the cap decides wherever ‖v‖ ‖Σ_j w_j ∇d‖ ≥ 1/η, which leaves little
but sellers whose updates point the buyer's way: 5 and 5000 are nearly the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ipfl_flower.experiment.definition import Choice, Seat, Setting
from ipfl_flower.tasks import load_task
from ipfl_flower.trainer.proximal import Optimiser, Sgd

ROUNDS: Final = 50
QUICK_ROUNDS: Final = 3


def paper_setting(  # one argument for each column of the paper's table
    choice: Choice,
    name: str,
    title: str,
    tasks: Sequence[Mapping[str, Any]],
    *,
    sgd: Optimiser,
    distance_weight: float,
    eta: float,
    groups: Sequence[int] | None = None,
) -> Setting:
    """Make a setting with the paper's economics: c = 1 credit, and V ≈ 10.

    Parameters
    ----------
    choice : Choice
    name, title : str
    tasks : sequence of mapping
        ``[task]`` tables of the institutions, without seeds.
    sgd : Sgd or AdamW
    distance_weight, eta : float
        λ and η of the preset "paper"; "recommended" keeps its own. η is relative, see above.
    groups : sequence of int, optional
        Of each institution.

    Raises
    ------
    TaskError, TaskDataError
        A task's options are wrong, or its data can't be had.
    """
    first = load_task(**tasks[0])
    seats = tuple(
        Seat(
            name=f"institution-{number:02d}",
            task={**task, "seed": choice.seed},
            group=None if groups is None else groups[number],
        )
        for number, task in enumerate(tasks)
    )
    return Setting(
        name=name,
        title=title,
        seats=seats,
        sgd=sgd,
        rounds=QUICK_ROUNDS if choice.quick else ROUNDS,
        seed=choice.seed,
        economics="paper",
        data=first.source(),
        stand_in=first.stand_in(),
        market={"paper": {"distance-weight": distance_weight, "eta": eta}},
    )


def sgd_of(choice: Choice, iterations: int, *, quick: tuple[int, float] = (20, 0.02)) -> Sgd:
    """Return the paper's SGD with so many steps a round; when quick, so many and so large ones."""
    if choice.quick:
        steps, rate = quick
        return Sgd(iterations=steps, batch_size=32, learning_rate=rate, momentum=0.9)
    return Sgd(
        iterations=iterations,
        batch_size=64,
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=1e-5,
    )


def slices(count: int, **options: Any) -> list[dict[str, Any]]:
    """Return a ``[task]`` table for each of ``count`` institutions."""
    return [{**options, "institution": i, "institutions": count} for i in range(count)]


def folder(choice: Choice, name: str | None = None) -> dict[str, str]:
    """Return the option that names the data's folder or data set, if the command line does.

    Parameters
    ----------
    choice : Choice
    name : str, optional
        Of the file or folder in it that must be there: without it, the task looks by itself.
    """
    if choice.dataset is not None:
        return {"dataset": choice.dataset}
    if choice.data_dir is None or (name and not (choice.data_dir / name).exists()):
        return {}
    return {"data_dir": str(choice.data_dir)}
