"""Plays one method on a world, round by round: the market through its strategy and ledger."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.experiment.definition import ExperimentError
from ipfl_flower.experiment.economics import Books, books, distances_of
from ipfl_flower.experiment.grid import LocalGrid
from ipfl_flower.experiment.methods.base import Judgement, Method, Played
from ipfl_flower.experiment.sites import GridSites, alteration, market_handler
from ipfl_flower.experiment.world import World
from ipfl_flower.ledger import Ledger, Report, State
from ipfl_flower.market import MICRO
from ipfl_flower.market.gain import Bools, Floats
from ipfl_flower.models import ModelBank, Reference
from ipfl_flower.protocol import array_record
from ipfl_flower.settings import Settings
from ipfl_flower.settlement import Delivery
from ipfl_flower.strategy import IPFL, MarketError
from ipfl_flower.trainer import Trainer

OnRound: TypeAlias = Callable[[int], None]
Engine: TypeAlias = Literal["in-process", "deployment"]

PRESETS: Final[Mapping[str, str]] = {"ipfl": "recommended", "ipfl-paper": "paper"}
"""The market's own methods: name to preset of `Settings`."""


@dataclass(frozen=True)
class Round:
    """One round of a method.

    Attributes
    ----------
    judged : list of Judgement
        Of what each institution is left with, as the method defines it.
    trained : list of Judgement
        Of the model that it trained.
    better : list of Judgement
        Of the better of the two by its own validation data: the same choice for every method. What
        the market leaves is that already.
    centre : list of Judgement or None
        Of the prox-centre that the market sent it for this round; None where none came, and of
        methods that have none.
    imports : bool (m, m)
        a_ij.
    distances : float64 (m, m)
        d_ij of what was trained, as the market measures it; NaN: not tradable.
    books : Books
    """

    judged: list[Judgement]
    trained: list[Judgement]
    better: list[Judgement]
    centre: list[Judgement | None]
    imports: Bools
    distances: Floats
    books: Books


@dataclass(frozen=True)
class Play:
    """All rounds of a method on a world.

    Attributes
    ----------
    rounds : list of Round
    net : float64 (m,)
        What each institution paid, less what it was paid, over all rounds; credits.
    seconds, cpu_seconds : float
    ledger : mapping
        Head and number of rounds of the ledger, which verified; {} of a method without one.
    engine : {"in-process", "deployment"}
        What it was played on.
    looks : int
        How many models the institution that judged most judged by its validation data.
    """

    rounds: list[Round]
    net: NDArray[np.float64]
    seconds: float
    cpu_seconds: float
    ledger: Mapping[str, Any] = field(default_factory=dict)
    engine: Engine = "in-process"
    looks: int = 0


def market_table(world: World, preset: str, folder: Path) -> dict[str, Any]:
    """Return the ``market.toml`` of the market on a world."""
    setting = world.setting
    m = len(setting.seats)
    return {
        "preset": preset,
        "rounds": setting.rounds,
        "institutions-min": m,
        # An experiment in which an institution fails is none.
        "quorum": m,
        "ledger": str(folder / "ledger.db"),
        "models-dir": str(folder / "models"),
        "initial-model": str(folder / "theta0.npz"),
        **setting.market.get(preset, {}),
    }


def market_settings(world: World, preset: str, folder: Path) -> Settings:
    """Return the settings of the market on a world."""
    return Settings.read(market_table(world, preset, folder))


def play_market(world: World, preset: str, folder: Path, on_round: OnRound) -> Play:
    """Play the market: the strategy, the ledger and the trainers of a deployment.

    Raises
    ------
    ExperimentError
        An institution failed, or the ledger doesn't verify.
    """
    settings = market_settings(world, preset, folder)
    trainers = {
        seat.name: Trainer(world.at(i, folder), world.learners[i])
        for i, seat in enumerate(world.setting.seats)
    }
    handlers = {
        name: market_handler(trainer, alteration(world, i))
        for i, (name, trainer) in enumerate(trainers.items())
    }
    clock = _Clock()
    with Ledger.open(settings.ledger, serve=True) as ledger:
        strategy = _Watched(settings, ledger, on_round)
        try:
            strategy.start(LocalGrid(handlers), array_record(world.initial))
        except MarketError as error:
            raise ExperimentError(f"{error}{failures(ledger)}") from error
        seconds, cpu_seconds = clock.read()
        rounds, net, kept = read_market(ledger, world, settings)
    return Play(rounds, net, seconds, cpu_seconds, kept, looks=looks_of(rounds))


def looks_of(rounds: Sequence[Round]) -> int:
    """Return how many models of a market the institution that judged most judged."""
    each = [[1 + (centre is not None) for centre in r.centre] for r in rounds]
    return int(np.sum(each, axis=0).max())


def play_method(
    world: World, make: Callable[[GridSites], Method], folder: Path, on_round: OnRound
) -> Play:
    """Play a method that the market is compared with, over the same Grid and protocol.

    Its books are done by the market's recommended rules: what its graph costs and brings.

    Raises
    ------
    ExperimentError
        An institution failed.
    """
    settings = market_settings(world, "recommended", folder)
    clock = _Clock()
    sites = GridSites(world)
    method = make(sites)
    rounds = []
    reference = Reference(world.layout, world.initial, folder)
    try:
        for number in range(world.setting.rounds):
            played = method.play(number)
            judged, trained = _judge(sites, played)
            apart = distances_of(
                played.trained, reference, folder, settings.distance, settings.reference
            )
            account = books(world.truth, apart, played.imports, settings.rules())
            better = [_better(*pair) for pair in zip(judged, trained, strict=True)]
            nothing: list[Judgement | None] = [None] * len(judged)
            rounds.append(Round(judged, trained, better, nothing, played.imports, apart, account))
            on_round(number)
    finally:
        reference.close()
    return Play(rounds, np.zeros(len(world.terms)), *clock.read(), looks=sites.looks)


class _Clock:
    """Wall and CPU time from here on."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        wall, cpu = self._began
        return time.perf_counter() - wall, time.process_time() - cpu


class _Watched(IPFL):
    """The market, which says when a round is settled."""

    def __init__(self, settings: Settings, ledger: Ledger, on_round: OnRound) -> None:
        super().__init__(settings, ledger)
        self._on_round = on_round

    def settle(self, number: int, reports: Mapping[int, Report], bank: ModelBank) -> Delivery:
        delivery = super().settle(number, reports, bank)
        self._on_round(number)
        return delivery


def read_market(
    ledger: Ledger, world: World, settings: Settings
) -> tuple[list[Round], NDArray[np.float64], dict[str, Any]]:
    """Read a market that has ended from its ledger alone.

    Returns
    -------
    rounds : list of Round
        What came of each.
    net : float64 (m,)
        Net payments, credits.
    kept : dict
        `Play.ledger`.

    Raises
    ------
    ExperimentError
        The ledger doesn't verify, or isn't that of these institutions and rounds.
    """
    problems = ledger.verify()
    if problems:
        raise ExperimentError(f"the ledger doesn't verify: {'; '.join(map(str, problems))}")
    _require_whole(ledger, world)
    settlements = [ledger.settlement(number) for number in range(world.setting.rounds)]
    # What a round brought is judged when it is delivered: with the next round's message.
    acknowledged = ledger.acknowledgements()
    last = [acknowledged[i] for i in range(len(world.terms))]
    told = [*(settlement.metrics for settlement in settlements), last]
    rounds = []
    for settlement, before, after in zip(settlements, told, told[1:], strict=False):
        clearing = settlement.clearing
        left = [_left_with(mine, then) for mine, then in zip(before, after, strict=True)]
        rounds.append(
            Round(
                judged=left,
                trained=[_judgement(mine, "") for mine in before],
                better=left,
                centre=[
                    _judgement(then, "centre_") if "centre_test_accuracy" in then else None
                    for then in after
                ],
                imports=clearing.imports,
                distances=settlement.distances,
                books=books(
                    world.truth,
                    settlement.distances,
                    clearing.imports,
                    settings.rules(),
                    clearing.net,
                ),
            )
        )
    net = sum((s.clearing.net for s in settlements), np.zeros(len(world.terms), np.int64))
    return rounds, net / MICRO, {"head": ledger.head(), "rounds": len(settlements)}


def _require_whole(ledger: Ledger, world: World) -> None:
    """Check that every institution, in the order of the seats, took part in every round."""
    seats = [seat.name for seat in world.setting.seats]
    names = [institution.name for institution in ledger.institutions()]
    if names != seats:
        raise ExperimentError(f"the ledger's institutions are {names}, the setting's {seats}")
    for summary in ledger.rounds():
        if summary.participants != len(seats) or summary.state not in (
            State.SETTLED,
            State.DELIVERED,
        ):
            raise ExperimentError(
                f"round {summary.number} is {summary.state} with {summary.participants} of "
                f"{len(seats)} institutions: run it again"
            )
    if len(ledger.rounds()) != world.setting.rounds:
        raise ExperimentError(
            f"the market ended after {len(ledger.rounds())} of {world.setting.rounds} rounds"
        )
    silent = set(range(len(seats))) - set(ledger.acknowledgements())
    if silent:
        raise ExperimentError(
            f"{', '.join(seats[i] for i in sorted(silent))} did not judge the last delivery: run "
            "it again"
        )


def _left_with(trained: Mapping[str, float], delivered: Mapping[str, float]) -> Judgement:
    """Judge what a round left: the better of model and centre, or the model where none came."""
    prefix = "kept_" if "kept_test_accuracy" in delivered else ""
    return _judgement(delivered if prefix else trained, prefix)


def _judgement(metrics: Mapping[str, float], prefix: str) -> Judgement:
    return Judgement(**{n: metrics[prefix + n] for n in Judgement.__dataclass_fields__})


def _judge(sites: GridSites, played: Played) -> tuple[list[Judgement], list[Judgement]]:
    """Judge what a method leaves each institution with, and what it trained if that is another."""
    pairs = list(zip(played.models, played.trained, strict=True))
    judged = sites.judge(
        [
            [model] if np.array_equal(model, trained) else [model, trained]
            for model, trained in pairs
        ]
    )
    return [mine[0] for mine in judged], [mine[-1] for mine in judged]


def _better(first: Judgement, second: Judgement) -> Judgement:
    """Return the better by the validation data alone, as a trainer chooses; of equals the first."""
    return max(first, second, key=lambda it: (it.validation_accuracy, -it.validation_loss))


def failures(ledger: Ledger) -> str:
    """Say in parentheses which institutions failed in the last round and why; "" if none did."""
    state = ledger.state()
    failed: Sequence[str] = [] if state is None else list(state.failed.values())
    return f" ({'; '.join(failed)})" if failed else ""
