"""What a SuperLink's fleet API tells: how its clock goes, and whether it knows a key."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ipfl_flower.cli.doctoring.clock import judge_skew
from ipfl_flower.cli.doctoring.finding import NotKnownError, Verdict, fail, ok
from ipfl_flower.cli.processes import PYTHON

ASK_S = 60.0


@dataclass(frozen=True)
class FleetAnswer:
    """See `fleet_calls.Answer`."""

    skew_s: float | None
    ahead_s: float
    behind_s: float
    authenticates: bool
    registered: bool | None

    def clock(self) -> Verdict:
        """Judge the clocks."""
        if not self.authenticates:
            return fail(
                "the SuperLink lets anybody in without a key: the operator starts it with ipfl "
                "superlink"
            )
        return judge_skew(self.skew_s, self.ahead_s, self.behind_s)


def ask_fleet(fleet: str, ca: Path, key: Path | None = None) -> FleetAnswer:
    """Ask a SuperLink for its clock and, if given, for a node's key.

    Nothing changes there: a SuperNode that runs with the same key goes on. A key that is not
    registered is counted at the operator as refused.

    Parameters
    ----------
    fleet : str
        HOST:PORT.
    ca : Path
        PEM.
    key : Path, optional
        The node key, OpenSSH.

    Raises
    ------
    NotKnownError
        It did not answer, or not as Flower does that was built against.
    """
    command = [*PYTHON, "ipfl_flower.cli.doctoring.fleet_calls", fleet, str(ca)]
    if key is not None:
        command.append(str(key))
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=ASK_S,
            check=False,
        )
        return FleetAnswer(**json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        raise NotKnownError(f"the SuperLink at {fleet} did not answer in {ASK_S:g} s") from None
    except (ValueError, TypeError, IndexError):
        said = done.stderr.strip().rpartition("\n")[2][-300:]
        raise NotKnownError(f"the SuperLink at {fleet} did not say ({said})") from None


def judge_key(answer: FleetAnswer, name: str, fingerprint: str) -> Verdict:
    """Tell whether the SuperLink knows a node's key."""
    if answer.registered is None:
        raise NotKnownError("see clock")
    if answer.registered:
        return ok(f"the SuperLink knows the key of {name} ({fingerprint})")
    return fail(
        f"the SuperLink does not know the key {fingerprint}: it was not admitted, or was expelled: "
        "ask the operator for ipfl admit"
    )
