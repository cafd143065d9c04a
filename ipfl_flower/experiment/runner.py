"""Runs settings under methods and seeds, and takes from the cache what is there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from ipfl_flower.experiment.cache import Cache, Damage, key_of
from ipfl_flower.experiment.definition import Choice, ExperimentError, Setting
from ipfl_flower.experiment.deployment import play_deployed, require_deployable
from ipfl_flower.experiment.methods import METHODS, Method, MethodError, make
from ipfl_flower.experiment.methods.arithmetic import NonFiniteModelError
from ipfl_flower.experiment.oracle import Oracle
from ipfl_flower.experiment.play import PRESETS, Engine, Play, play_market, play_method
from ipfl_flower.experiment.record import Record, make_record
from ipfl_flower.experiment.settings import build, require_setting
from ipfl_flower.experiment.sites import GridSites
from ipfl_flower.experiment.world import World, run_folder
from ipfl_flower.ledger import LedgerError
from ipfl_flower.settings import SettingsError
from ipfl_flower.tasks import TaskDataError, TaskError

ALL_METHODS: Final = (*PRESETS, *METHODS, Oracle.name)


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes
    ----------
    settings, methods : sequence of str
        By name.
    seeds : sequence of int
    quick : bool
    data_dir : Path or None
    dataset : str or None
        In its place, see `definition.Choice`.
    device : {"cpu", "cuda"}
    engine : {"in-process", "deployment"}
        What the market is played on; other methods are played in this process.
    rounds : int or None
        How many are played; None: as many as each setting says.
    """

    settings: Sequence[str]
    methods: Sequence[str]
    seeds: Sequence[int] = (0, 1, 2)
    quick: bool = False
    data_dir: Path | None = None
    dataset: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    engine: Engine = "in-process"
    rounds: int | None = None

    def __post_init__(self) -> None:
        for setting in self.settings:
            require_setting(setting, self.dataset)
        for method in self.methods:
            require_method(method)

    def choice(self, seed: int) -> Choice:
        """Return what a setting is made from."""
        return Choice(
            seed,
            quick=self.quick,
            data_dir=self.data_dir,
            dataset=self.dataset,
            rounds=self.rounds,
        )

    def engine_of(self, method: str) -> Engine:
        """Return what a method is played on."""
        return self.engine if method in PRESETS else "in-process"

    def __len__(self) -> int:
        return len(self.settings) * len(self.seeds) * len(self.methods)


@dataclass(frozen=True)
class Told:
    """How far a plan is; what is not overridden is not told.

    Attributes
    ----------
    begins : callable
        Of setting and method's name, and whether its record was there already.
    on_round : callable
        Of the number of a round that was played.
    damaged : callable
        Of a cache file that was passed over.
    says : callable
        A line about the processes of a market that is deployed.
    """

    begins: Callable[[Setting, str, bool], None] = lambda *_: None
    on_round: Callable[[int], None] = lambda _: None
    damaged: Callable[[Damage], None] = lambda _: None
    says: Callable[[str], None] = lambda _: None


@dataclass
class _Lazy:
    """A world that is made when the first method needs it."""

    setting: Setting
    device: Literal["cpu", "cuda"]
    _world: World | None = field(default=None)

    def get(self) -> World:
        if self._world is None:
            self._world = World.of(self.setting, self.device)
        return self._world


def run(plan: Plan, cache: Cache, told: Told | None = None) -> Iterator[Record]:
    """Run a plan; yield each record when it is there.

    Raises
    ------
    ExperimentError
        A setting isn't known, or a method failed on it; what came before is in the cache.
    """
    told = told or Told()
    here = [method for method in plan.methods if plan.engine_of(method) != plan.engine]
    if here:
        told.says(f"SuperNodes play the market alone; played in this process: {', '.join(here)}")
    for name in plan.settings:
        for seed in plan.seeds:
            setting = build(name, plan.choice(seed))
            world = _Lazy(setting, plan.device)
            for method in plan.methods:
                engine = plan.engine_of(method)
                key = key_of(setting, method, plan.device, engine)
                found = cache.find(key)
                if isinstance(found, Damage):
                    told.damaged(found)
                    found = None
                told.begins(setting, method, found is not None)
                if found is None:
                    found = run_one(world.get, setting, method, told.on_round, engine, told.says)
                    cache.keep(key, found)
                yield found


def run_one(
    world: Callable[[], World],
    setting: Setting,
    method: str,
    on_round: Callable[[int], None],
    engine: Engine = "in-process",
    says: Callable[[str], None] = lambda _: None,
) -> Record:
    """Play one method on a setting; `world` gives the setting's institutions.

    Raises
    ------
    ExperimentError
        It failed; names setting, seed and method.
    """
    try:
        if engine == "deployment":
            require_deployable(setting)
        # What a SuperLink keeps, and the logs of a fleet, may be large.
        with run_folder(in_memory=engine == "in-process") as folder:
            here = world()
            if engine == "deployment":
                play = play_deployed(here, _preset(method), Path(folder), on_round, says)
            else:
                play = _play(here, method, Path(folder), on_round)
            return make_record(here, method, play, local_trainings=_trainings(method))
    except (
        *(ExperimentError, LedgerError, MethodError, NonFiniteModelError),
        *(SettingsError, TaskError, TaskDataError),
    ) as error:
        raise ExperimentError(f"{setting.name}, seed {setting.seed}, {method}: {error}") from error


def require_method(name: str) -> None:
    """Check that there is a method of that name.

    Raises
    ------
    ExperimentError
        There is none; lists those that there are.
    """
    if name not in ALL_METHODS:
        raise ExperimentError(f"method {name!r} is not known: choose from {', '.join(ALL_METHODS)}")


def _preset(method: str) -> str:
    if method not in PRESETS:
        raise ExperimentError(
            f"only the market ({', '.join(PRESETS)}) is played on SuperNodes: "
            "run other methods without --engine deployment"
        )
    return PRESETS[method]


def _play(world: World, method: str, folder: Path, on_round: Callable[[int], None]) -> Play:
    require_method(method)
    if method in PRESETS:
        return play_market(world, PRESETS[method], folder, on_round)
    _require_one_model(world, method)
    options = world.setting.options.get(method, {})
    return play_method(world, lambda sites: _make(method, sites, options), folder, on_round)


def _require_one_model(world: World, method: str) -> None:
    """Refuse two models a round where a part of them stays at the institution: it is but one."""
    if _trainings(method) > 1 and any(learner.private for learner in world.learners):
        raise ExperimentError(
            "the method trains two models, and the task has a part that is trained and not "
            "shared, of which institutions keep one: leave the method out, or share all of it"
        )


def _make(method: str, sites: GridSites, options: Mapping[str, object]) -> Method:
    if method == Oracle.name:
        return Oracle(sites, sites.groups, sites.truth)
    return make(method, sites, options)


def _trainings(method: str) -> int:
    return METHODS[method].local_trainings if method in METHODS else 1
