"""The bar that shows how far an experiment is."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ipfl_flower.experiment.cache import Damage
from ipfl_flower.experiment.definition import Setting
from ipfl_flower.experiment.runner import Told


class Watching:
    """A bar, one part of an experiment after another, and what it is told by `told`.

    Parameters
    ----------
    console : Console
        Where damaged files are named, too.
    """

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True)
        self._bar = self._progress.add_task("", total=None, count="")
        self._part, self._of, self._done, self._rounds = "", 0, 0, 1
        self._said: set[str] = set()
        self.told = Told(self._begins, self._on_round, self._damaged, self._says)

    @contextmanager
    def part(self, name: str, of: int = 0) -> Iterator[None]:
        """Show a part, of so many plays; 0: nobody knows."""
        self._part, self._of, self._done = name, of, 0
        self._progress.update(self._bar, description=name)
        self._show(0.0)
        yield

    def advance(self) -> None:
        """Count a play of the part."""
        self._done += 1
        self._show(self._done)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def _begins(self, setting: Setting, method: str, cached: bool) -> None:
        self._rounds = setting.rounds
        what = " (done before)" if cached else ""
        line = f"{setting.name}, seed {setting.seed}: {method}{what}"
        named = f"{self._part}: {line}" if self._part else line
        self._progress.update(self._bar, description=named)

    def _on_round(self, number: int) -> None:
        self._show(self._done + (number + 1) / self._rounds)

    def _damaged(self, damage: Damage) -> None:
        self._progress.console.print(
            f"{damage.path} is damaged ({damage.reason}): it is run again", soft_wrap=True
        )

    def _says(self, line: str) -> None:
        # Every setting says the same of the methods that aren't deployed.
        if line not in self._said:
            self._progress.console.print(line, soft_wrap=True)
        self._said.add(line)

    def _show(self, done: float) -> None:
        count = f"{done:.1f} of {self._of}" if self._of else ""
        self._progress.update(self._bar, completed=done, total=self._of or None, count=count)
