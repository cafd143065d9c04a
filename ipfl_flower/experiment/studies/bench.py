"""What a study plays on: settings and methods, from the cache where they were played before."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ipfl_flower.experiment.cache import Cache, Damage, code_digest, key_of
from ipfl_flower.experiment.definition import Choice, ExperimentError, Setting
from ipfl_flower.experiment.record import Record, versions
from ipfl_flower.experiment.runner import Plan, Told, run, run_one
from ipfl_flower.experiment.world import World
from ipfl_flower.tasks import TaskDataError


@dataclass
class Bench:
    """Plays what studies ask for; everything is kept, so that one cut off goes on.

    Attributes
    ----------
    cache : Cache
    seeds : tuple of int
    quick : bool
    data_dir : Path or None
    dataset : str or None
        In its place, see `definition.Choice`.
    device : {"cpu", "cuda"}
    told : Told
    rounds : int or None
        How many are played; None: as many as each setting says.
    named : tuple of str
        The settings that were asked for beside the studies, by name.
    """

    cache: Cache
    seeds: tuple[int, ...] = (0, 1, 2)
    quick: bool = False
    data_dir: Path | None = None
    dataset: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    told: Told = field(default_factory=Told)
    rounds: int | None = None
    named: tuple[str, ...] = ()
    _world: World | None = None

    def choices(self) -> Iterator[Choice]:
        """Yield what settings are made from, a seed each."""
        for seed in self.seeds:
            yield Choice(
                seed,
                quick=self.quick,
                data_dir=self.data_dir,
                dataset=self.dataset,
                rounds=self.rounds,
            )

    def play(self, setting: Setting, method: str) -> Record:
        """Play a method on a setting, or take its record from the cache.

        Raises
        ------
        ExperimentError
            It failed; names setting, seed and method.
        """
        return self._kept(
            key_of(setting, method, self.device),
            lambda: run_one(lambda: self.world(setting), setting, method, self.told.on_round),
            lambda there: self.told.begins(setting, method, there),
        )

    def run(self, plan: Plan, missing: dict[str, str] | None = None) -> Iterator[Record]:
        """Run a plan; see `runner.run`.

        Parameters
        ----------
        plan : Plan
        missing : dict of str to str, optional
            Takes the settings whose data can't be had, and why; without it, that is an error.
        """
        for name in plan.settings:
            try:
                yield from run(dataclasses.replace(plan, settings=[name]), self.cache, self.told)
            except ExperimentError as error:
                if missing is None or not isinstance(error.__cause__, TaskDataError):
                    raise
                missing[name] = str(error)

    def figures(self, name: str, inputs: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """Return figures that are made without training, or take them from the cache.

        Parameters
        ----------
        name : str
            Of the file.
        inputs : mapping
            All that decides them beside the code, as JSON values.
        make : callable
            Returns them, as JSON values.
        """
        key = {
            "setting": {"name": name, "seed": "all", "inputs": dict(inputs)},
            "method": "figures",
            "code": [code_digest(), studies_digest()],
            "versions": versions(),
        }

        def made() -> Record:
            began = _cpu_seconds()
            figures = make()
            return {"figures": figures, "cpu_seconds": round(_cpu_seconds() - began, 3)}

        return self._kept(key, made, lambda _: None)["figures"]

    def world(self, setting: Setting) -> World:
        """Return a setting's institutions; the last ones are kept."""
        if self._world is None or self._world.setting != setting:
            self._world = World.of(setting, self.device)
        return self._world

    def _kept(
        self,
        key: Mapping[str, Any],
        make: Callable[[], Record],
        begins: Callable[[bool], None],
    ) -> Record:
        found = self.cache.find(key)
        if isinstance(found, Damage):
            self.told.damaged(found)
            found = None
        begins(found is not None)
        if found is None:
            found = make()
            self.cache.keep(key, found)
        return found


def _cpu_seconds() -> float:
    """Return what this process and those that it started and that ended have taken."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@cache
def studies_digest() -> str:
    """Return a SHA-256 over the sources of the studies, in hex."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
