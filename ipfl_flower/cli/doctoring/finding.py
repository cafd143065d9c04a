"""A check, what came of it, and one line that says so."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from ipfl_flower.cli.documents import KitError
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.door.allowed import AllowedError
from ipfl_flower.ledger import LedgerError
from ipfl_flower.models import ModelError
from ipfl_flower.receipts import ReceiptError
from ipfl_flower.settings import SettingsError
from ipfl_flower.trainer_api import TrainerApiError

T = TypeVar("T")

# What the parts raise for what is wrong with their input; each message is one line.
EXPECTED = (
    AllowedError,
    KitError,
    LaunchError,
    LedgerError,
    ModelError,
    ReceiptError,
    SettingsError,
    TrainerApiError,
    OSError,
)


class State(StrEnum):
    """What came of a check; `WARN` is for what works, or what nobody can tell."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class NotKnownError(Exception):
    """A check can't be made; the message says for want of what."""


@dataclass(frozen=True)
class Verdict:
    """What a check found, and what to do if that is not as it should be."""

    state: State
    line: str


def ok(line: str) -> Verdict:
    """Say that all is well."""
    return Verdict(State.OK, line)


def warn(line: str) -> Verdict:
    """Say what works and should be seen to."""
    return Verdict(State.WARN, line)


def fail(line: str) -> Verdict:
    """Say what doesn't work, or is not safe."""
    return Verdict(State.FAIL, line)


def worst(*verdicts: Verdict) -> Verdict:
    """Return the first of the worst."""
    return max(verdicts, key=lambda verdict: list(State).index(verdict.state))


@dataclass(frozen=True)
class Finding:
    """The verdict of a check.

    Attributes
    ----------
    check : str
        Its name; stays the same from version to version.
    state : State
    line : str
        One printable line, whatever a stranger's text in it was.
    """

    check: str
    state: State
    line: str

    def __str__(self) -> str:
        return f"{self.state:<4}  {self.check}: {self.line}"

    def record(self) -> dict[str, str]:
        """Return it for JSON."""
        return {"check": self.check, "state": self.state, "line": self.line}


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """Something that later checks need, if it could be had.

    Attributes
    ----------
    value : object or None
        None: the finding says why there is none.
    finding : Finding
    """

    value: T | None
    finding: Finding

    def needed(self) -> T:
        """Return the value.

        Raises
        ------
        NotKnownError
            There is none.
        """
        if self.value is None:
            raise NotKnownError(f"see {self.finding.check}")
        return self.value


def look(check: str, examine: Callable[[], Verdict]) -> Finding:
    """Make a check; an expected error is its finding."""
    return attempt(check, examine, lambda verdict: verdict).finding


def attempt(check: str, get: Callable[[], T], judge: Callable[[T], Verdict]) -> Attempt[T]:
    """Get something that later checks need, and judge it."""
    value: T | None = None
    try:
        value = found = get()
        verdict = judge(found)
    except NotKnownError as error:
        verdict = warn(f"not known: {error}")
    except EXPECTED as error:
        verdict = fail(str(error))
    return Attempt(value, Finding(check, verdict.state, _one_line(verdict.line)))


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return "".join(sign if sign.isprintable() else "?" for sign in line)
