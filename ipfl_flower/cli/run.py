"""``ipfl run``: submit a market to a SuperLink and keep it going until it has ended."""

import os
import tempfile
import time
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from ipfl_flower.cli.bundle import stage_app, to_toml
from ipfl_flower.cli.flower import SCRIPTS, FlowerCli
from ipfl_flower.cli.live import LOOK_EVERY_S, MarketStoppedError, Watch
from ipfl_flower.cli.processes import LaunchError, ProcessGroup, signals_held
from ipfl_flower.settings import Settings, SettingsError

AGAIN_AFTER_S = 5.0
# Deaths without progress of the market between them: then it is not bad luck.
DEATHS_MAX = 5
# For a server app that was stopped to notice it: its next call to the SuperLink fails.
STOP_DEADLINE_S = 60.0


def run_market(
    market_file: Path, superlink: str, console: Console, *, resume: bool, patience_s: float
) -> None:
    """Submit the market and keep it going: whenever its server app dies, it is resumed.

    Interrupted, it stops the server app: the market stands still, to be resumed.

    Parameters
    ----------
    market_file : Path
        The settings, ``market.toml``.
    superlink : str
        The connection's name in Flower's ``config.toml``.
    console : Console
    resume : bool
        Whether the ledger may hold rounds already.
    patience_s : float
        How long the SuperLink may be out of reach.

    Raises
    ------
    SettingsError
        If the file can't be read, or a setting is wrong.
    KitError
        If ``samples-max`` is not what institutions were admitted with.
    LaunchError
        If the market stops for a reason of its own, the SuperLink stays away, or the server app
        dies again and again.
    """
    values = read_market(market_file)
    settings = Settings.read(values)
    environment = {**os.environ, "PATH": f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', '')}"}
    with (
        tempfile.TemporaryDirectory(prefix="ipfl-run-") as scratch,
        ProcessGroup(Path(scratch) / "logs", environment) as group,
    ):
        flower = FlowerCli(group, superlink)
        watch = Watch(settings.ledger, group, flower, settings.rounds, console, patience_s)
        watch.check_admissions(settings.samples_max)
        app = stage_app(Path(scratch) / "app")
        console.print(f"app bundle {flower.bundle(app)}", soft_wrap=True)
        config = Path(scratch) / "market.toml"
        deaths, events, progress = 0, watch.events(), watch.progress()
        while True:
            config.write_text(to_toml({**values, "resume": resume}), encoding="utf-8")
            submitted: list[int] = []
            try:
                run = _submit(flower, app, config, patience_s, submitted)
                console.print(f"Flower run {run}{', resuming' if resume else ''}")
                watch.follow(run, events)
            except MarketStoppedError:
                raise
            except KeyboardInterrupt:
                _stand_still(flower, submitted, watch, console)
                raise
            except LaunchError as error:
                if not submitted:
                    raise
                deaths = deaths + 1 if watch.progress() == progress else 1
                if deaths == DEATHS_MAX:
                    raise
                console.print(f"{error}; resuming")
                with suppress(LaunchError):
                    flower.stop(submitted[-1])  # it may be waiting in a queue
                time.sleep(AGAIN_AFTER_S)
                resume, events, progress = True, watch.events(), watch.progress()
            else:
                return


def _stand_still(flower: FlowerCli, submitted: list[int], watch: Watch, console: Console) -> None:
    """Stop the run, and wait until Flower and its server app have both ended it."""
    if not submitted:
        console.print("if `flwr list` shows a run that has begun, `flwr stop` ends it")
        return
    run = submitted[-1]
    console.print(f"stopping Flower run {run}")
    try:
        flower.stop(run)
    except LaunchError as error:
        console.print(f"{error}: the market may go on without ipfl run", soft_wrap=True)
        return
    end = time.monotonic() + STOP_DEADLINE_S
    while watch.is_served() or not _has_ended(flower, run):
        if time.monotonic() > end:
            console.print(
                f"it has not ended after {STOP_DEADLINE_S:g} s: see `flwr list`, and kill its "
                "server app"
            )
            return
        time.sleep(LOOK_EVERY_S)
    console.print("the market stands still; ipfl run --resume goes on with it")


def _has_ended(flower: FlowerCli, run: int) -> bool:
    """Ask Flower, which may be out of reach for a moment."""
    with suppress(LaunchError):
        return flower.run_status(run).startswith("finished")
    return False


def read_market(market_file: Path) -> dict[str, Any]:
    """Read a ``market.toml``; its values are not checked yet.

    Raises
    ------
    SettingsError
        It can't be read, or is no TOML.
    """
    try:
        return tomllib.loads(market_file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{market_file} can't be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{market_file} is not a TOML file: {error}") from error


def _submit(
    flower: FlowerCli, app: Path, config: Path, patience_s: float, submitted: list[int]
) -> int:
    """Submit, and again as long as the SuperLink is out of reach; note the run in `submitted`."""
    end = time.monotonic() + patience_s
    while True:
        try:
            # Who is asked to stop meanwhile does so when Flower has answered: a run that has begun
            # and nobody knows of would go on.
            with signals_held():
                submitted.append(flower.submit(app, config))
            return submitted[-1]
        except LaunchError:
            if time.monotonic() > end:
                raise
            time.sleep(AGAIN_AFTER_S)
