"""What a study plays on: settings and methods, taken from the cache where they were played before."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ipfl_flower.experiment.cache import Cache, Damage, code_digest, key_of
from ipfl_flower.experiment.definition import Choice, Setting
from ipfl_flower.experiment.play import PRESETS, market_settings, play_market
from ipfl_flower.experiment.record import Record, versions
from ipfl_flower.experiment.runner import Told, run_one
from ipfl_flower.experiment.world import World, run_folder
from ipfl_flower.ledger import Ledger


@dataclass
class Bench:
    """Plays what studies ask for; everything is kept, so that one cut off goes on.

    Attributes
    ----------
    cache : Cache
    seeds : tuple of int
    quick : bool
    data_dir : Path or None
    device : {"cpu", "cuda"}
    told : Told
    """

    cache: Cache
    seeds: tuple[int, ...] = (0, 1, 2)
    quick: bool = False
    data_dir: Path | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    told: Told = field(default_factory=Told)
    _world: World | None = None

    def choices(self) -> Iterator[Choice]:
        """Yield what settings are made from, a seed each."""
        for seed in self.seeds:
            yield Choice(seed, quick=self.quick, data_dir=self.data_dir)

    def play(self, setting: Setting, method: str) -> Record:
        """Play a method on a setting, or take its record from the cache.

        Raises
        ------
        ExperimentError
            It failed; names setting, seed and method.
        """
        return self._kept(
            key_of(setting, method, self.device),
            lambda: run_one(
                lambda: self.world(setting), setting, method, self.told.on_round
            ),
            lambda there: self.told.begins(setting, method, there),
        )

    def distances(self, setting: Setting, method: str = "ipfl") -> list[list[list[float | None]]]:
        """Return d_ij as the ledger of a market on a setting has them, by round.

        Raises
        ------
        ExperimentError
            The market failed.
        """
        key = key_of(setting, f"{method}-distances", self.device)
        found: list[list[list[float | None]]] = self._kept(
            key,
            lambda: {"distances": self._read_distances(setting, method)},
            lambda there: self.told.begins(setting, method, there),
        )["distances"]
        return found

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
        return self._kept(key, lambda: {"figures": make()}, lambda _: None)["figures"]

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

    def _read_distances(self, setting: Setting, method: str) -> list[list[list[float | None]]]:
        world, preset = self.world(setting), PRESETS[method]
        with run_folder() as name:
            folder = Path(name)
            play_market(world, preset, folder, self.told.on_round)
            with Ledger.open(market_settings(world, preset, folder).ledger) as ledger:
                settled = [ledger.settlement(number).distances for number in range(setting.rounds)]
        return [
            [[float(d) if d == d else None for d in row] for row in apart]  # noqa: PLR0124 - NaN
            for apart in settled
        ]


@cache
def studies_digest() -> str:
    """Return a SHA-256 over the sources of the studies, in hex."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
