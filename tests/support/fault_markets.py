"""Small markets whose seed says all that happens to them: faults, outages, bad models, deaths."""

import random
import sqlite3
import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from support.fake_grid import FakeGrid, Faults
from support.institutions import FakeInstitution, theta0

from ipfl_flower.ledger import Event, Ledger, RoundSummary, Settlement, State
from ipfl_flower.market import Terms
from ipfl_flower.protocol import array_record
from ipfl_flower.settings import Settings
from ipfl_flower.strategy import IPFL, MarketError

NAMES = ("alder", "birch", "cedar", "dogwood", "elm", "fir")
DEADLINE_S, ABSENCE_S, JOIN_S = 20.0, 5.0, 10.0

RULES = (
    {"preset": "recommended"},
    {"preset": "paper"},
    {"preset": "recommended", "distance": "l2"},
    {"preset": "paper", "selection": "skip", "payment": "critical"},
)
WRITES = (
    "begin",
    "enrol",
    "open_round",
    "collect",
    "report",
    "refuse",
    "commit",
    "deliver",
    "abandon",
    "acknowledge",
    "log_event",
)


class DiedError(Exception):
    """What the server died of."""


@dataclass(frozen=True)
class Market:
    """What is played, whatever happens: equal markets undisturbed end with equal heads."""

    institutions: int
    rounds: int
    rules: int
    quorum: int
    terms: int

    def make(self) -> dict[str, FakeInstitution]:
        rng = np.random.default_rng(self.terms)
        made = {}
        for i, name in enumerate(NAMES[: self.institutions]):
            eagerness = float(rng.choice([0.0, 1e4, 1e4, 1e6]))
            cost = float(rng.choice([0.0, 0.05, 0.5]))
            made[name] = FakeInstitution(i, Terms(int(rng.integers(50, 400)), cost, eagerness))
        return made


@dataclass(frozen=True)
class Outage:
    """A node goes offline when a round's message reaches it, with or without having answered."""

    round: int
    answers: bool
    back_after_s: float | None


@dataclass(frozen=True)
class Plan:
    """What a seed stands for."""

    seed: int
    market: Market
    faults: Faults = field(default_factory=Faults)
    outages: dict[str, Outage] = field(default_factory=dict)
    leaves: dict[str, int] = field(default_factory=dict)
    spoils: dict[str, str] = field(default_factory=dict)
    deaths: tuple[int, ...] = ()

    @classmethod
    def of(cls, seed: int) -> "Plan":
        """Draw a plan; every fourth is calm: nothing in it may change what the ledger says."""
        rng = random.Random(seed)
        calm = seed % 4 == 0
        m = rng.choice((2, 2, 3, 4) if calm else (2, 2, 2, 2, 3, 3, 4, 5, 6))
        rounds = rng.choice((1, 2) if calm else (1, 1, 2, 2, 2, 3))
        quorum = 1 if calm else rng.randint(1, m)
        market = Market(m, rounds, rng.randrange(len(RULES)), quorum, rng.randrange(2))
        points = (3 + 3 * m) + rounds * (12 + 5 * m)
        deaths = tuple(rng.randint(1, points) for _ in range(rng.choice((0, 0, 0, 1, 1, 2))))
        if calm:
            chances = {kind: rng.random() for kind in ("delay", "duplicate", "stray")}
            faults = Faults(seed, delay_max_s=15.0, **chances)
            return cls(seed, market, faults, deaths=deaths)
        chance = {
            kind: rng.choice((0.0, rng.random() * worst))
            for kind, worst in (
                ("delay", 1.0),
                ("drop", 0.3),
                ("duplicate", 1.0),
                ("corrupt", 0.4),
                ("stray", 1.0),
            )
        }
        names = NAMES[:m]
        return cls(
            seed,
            market,
            Faults(seed, **chance),
            outages={n: _outage(rng, rounds) for n in names if rng.random() < 0.2},
            leaves={n: rng.randrange(rounds) for n in names if rng.random() < 0.1},
            spoils={n: rng.choice(sorted(SPOILS)) for n in names if rng.random() < 0.1},
            deaths=deaths,
        )

    @property
    def calm(self) -> bool:
        """Whether nothing happens but order, delays within the deadline, strays and deaths."""
        faults = self.faults
        harm = faults.drop or faults.corrupt or faults.delay_max_s >= DEADLINE_S
        return not (harm or self.outages or self.leaves or self.spoils)


def _outage(rng: random.Random, rounds: int) -> Outage:
    back = rng.choice((None, rng.uniform(0.5, 2 * ABSENCE_S), rng.uniform(0.5, ABSENCE_S)))
    return Outage(rng.randint(0, rounds), rng.random() < 0.5, back)


def _filled(value: float):
    return lambda arrays: {name: np.full_like(values, value) for name, values in arrays.items()}


SPOILS = {
    "nan": _filled(np.nan),
    "huge": _filled(1e30),
    "unchanged": lambda arrays: {name: value.copy() for name, value in theta0().items()},
}


@dataclass
class Outcome:
    """What came of a plan; its ledger is open until the next one is played."""

    plan: Plan
    grid: FakeGrid
    ledger: Ledger
    institutions: dict[str, FakeInstitution]
    models_left: list[str]
    said: str | None
    lives: int
    heads: dict[int, set[str]]

    @cached_property
    def rounds(self) -> list[RoundSummary]:
        return self.ledger.rounds()

    @cached_property
    def settlements(self) -> dict[int, Settlement]:
        settled = (State.SETTLED, State.DELIVERED)
        numbers = [item.number for item in self.rounds if item.state in settled]
        return {number: self.ledger.settlement(number) for number in numbers}

    @cached_property
    def events(self) -> list[Event]:
        return self.ledger.events()

    @cached_property
    def happened(self) -> Counter[str]:
        """Count what really happened, by kind."""
        events = Counter(event.kind for event in self.events)
        states = Counter(str(item.state) for item in self.rounds)
        made = Counter(self.grid.made)
        made["death"] = self.lives - 1
        made["calm"] = int(self.plan.calm)
        made["market error"] = int(self.said is not None)
        for name, kind in self.plan.spoils.items():
            made[kind] += len(self.institutions[name].sent)
        return made + events + states


class Fuse:
    """Lets the server die at one of the points that it passes: never, if that is None."""

    def __init__(self, at: int | None) -> None:
        self.left = at

    def burn(self) -> float:
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                raise DiedError
        return 0.0

    def around(self, owner: object, name: str, *, after: bool) -> None:
        real = getattr(owner, name)

        def call(*arguments, **named):
            self.burn()
            result = real(*arguments, **named)
            if after:
                self.burn()
            return result

        setattr(owner, name, call)


class Arena:
    """One ledger file, emptied for each market: opening a new one costs as much as a round."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "ledger.db"
        self._ledger = Ledger.open(self._path)
        self._template = folder / "empty.db"
        self._ledger.backup(self._template)

    def close(self) -> None:
        self._ledger.close()

    def play(self, plan: Plan) -> Outcome:
        """Play a plan to its end, over all the server's lives."""
        self._empty()
        institutions = plan.market.make()
        grid = FakeGrid(institutions, plan.faults)
        for name, institution in institutions.items():
            institution.leaves_in_round = plan.leaves.get(name)
            institution.spoil = SPOILS.get(plan.spoils.get(name, ""))
            if name in plan.outages:
                handler = _with_outage(grid, name, institution, plan.outages[name])
                grid.handlers[grid.node(name).node_id] = handler
        heads: dict[int, set[str]] = {}
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            for lives, at in enumerate((*plan.deaths, None), 1):
                settings = self._settings(plan.market, Path(folder), resume=lives > 1)
                try:
                    said = self._live(settings, grid, Fuse(at), heads)
                except DiedError:
                    continue
                left = sorted(file.name for file in settings.models_dir.iterdir())
                break
        return Outcome(plan, grid, self._ledger, institutions, left, said, lives, heads)

    def _live(
        self, settings: Settings, grid: FakeGrid, fuse: Fuse, heads: dict[int, set[str]]
    ) -> str | None:
        """Run a server until it ends or dies; return why it stopped early."""
        ledger = Ledger(self._ledger._database, fuse.burn)
        push, commit = grid.push_messages, ledger.commit

        def commit_and_tell(settlement):
            head = commit(settlement)
            heads.setdefault(settlement.round, set()).add(head)
            return head

        ledger.commit = commit_and_tell
        for name in WRITES:
            fuse.around(ledger, name, after=True)
        fuse.around(grid, "push_messages", after=False)
        try:
            IPFL(settings, ledger, grid.clock).start(grid, array_record(theta0()))
        except MarketError as error:
            return str(error)
        finally:
            grid.push_messages = push
        return None

    def _settings(self, market: Market, folder: Path, *, resume: bool) -> Settings:
        return Settings.read(
            {
                **RULES[market.rules],
                "rounds": market.rounds,
                "quorum": market.quorum,
                "institutions-min": market.institutions,
                "deadline-s": DEADLINE_S,
                "absence-s": ABSENCE_S,
                "join-deadline-s": JOIN_S,
                "poll-s": 1.0,
                "ledger": str(self._path),
                "models-dir": str(folder / "models"),
                "initial-model": str(folder / "theta0.npz"),
                "receipt-key": str(self._folder / "receipt.key"),
                "resume": resume,
            }
        )

    def _empty(self) -> None:
        with (
            self._ledger._database.engine.connect() as connection,
            closing(sqlite3.connect(self._template)) as empty,
        ):
            empty.backup(connection.connection.driver_connection)


def _with_outage(grid: FakeGrid, name: str, institution: FakeInstitution, outage: Outage):
    gone = []

    def handler(message):
        due = not gone and int(message.metadata.group_id) == outage.round
        if due:
            gone.append(message)
            grid.made["offline"] += 1
            grid.go_offline(name)
            if outage.back_after_s is not None:
                grid.at(grid.now + outage.back_after_s, back)
        return None if due and not outage.answers else institution(message)

    def back():
        grid.made["back"] += 1
        grid.come_back(name)

    return handler
