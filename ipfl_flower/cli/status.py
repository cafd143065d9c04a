"""``ipfl status``: which round it is, which phase, whom it waits for and until when."""

import json
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ipfl_flower.ledger import Ledger
from ipfl_flower.logs import printable

WATCH_EVERY_S = 1.0


def status(
    ledger: Annotated[str, typer.Argument(help="The ledger: a file or a database URL.")],
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until interrupted; with --json a line a change.")
    ] = False,
) -> None:
    """Say which round it is, which phase, whom it waits for and until when."""
    with Ledger.open(ledger, create=False) as book:
        if watch:
            _watch(book, as_json=json_)
            return
        found = read_status(book)
    typer.echo(json.dumps(found, indent=2) if json_ else "\n".join(status_lines(found)))


def _watch(book: Ledger, *, as_json: bool) -> None:
    """Show a market's status, and show it again whenever it has changed."""
    console, shown = Console(markup=False, highlight=False), None
    is_live = console.is_terminal and not as_json
    try:
        with Live(console=console, auto_refresh=False) if is_live else nullcontext() as live:
            while True:
                found = read_status(book)
                if found != shown and live is not None:
                    live.update(Text("\n".join(status_lines(found))), refresh=True)
                elif found != shown:
                    typer.echo(json.dumps(found) if as_json else "\n".join(status_lines(found)))
                shown = found
                time.sleep(WATCH_EVERY_S)
    except KeyboardInterrupt:
        raise typer.Exit from None


def read_status(ledger: Ledger) -> dict[str, Any]:
    """Return where a market stands.

    Returns
    -------
    dict
        Ready for JSON: ``round`` (None before the first), ``phase``, ``asked``, ``reported``,
        ``waiting`` (names), ``failed`` (name to reason), ``quorum``, ``until`` (ISO 8601 or None),
        ``detail`` (why a round was abandoned), ``last_event``, ``expelled`` (name to reason),
        ``server`` (the process that serves the market, None: nobody does).
    """
    events = ledger.events()
    last = f"{events[-1].kind}: {events[-1].text}" if events else None
    state = ledger.state()
    server = ledger.server()
    names = {item.id: item.name for item in ledger.institutions()}
    standing = {
        "last_event": last,
        "expelled": {names[i]: reason for i, reason in ledger.expelled().items()},
        "server": server,
    }
    if state is None:
        return {"round": None, "phase": "not begun", **standing}
    until = state.deadline_at
    return {
        "round": state.number,
        "phase": str(state.state),
        "asked": [names[i] for i in state.asked],
        "reported": [names[i] for i in state.reported],
        "waiting": [names[i] for i in state.waiting],
        "failed": {names[i]: reason for i, reason in state.failed.items()},
        "quorum": state.quorum,
        "until": None
        if until is None
        else datetime.fromtimestamp(until, UTC).isoformat("T", "seconds"),
        "detail": state.detail,
        **standing,
    }


def status_lines(status: dict[str, Any]) -> list[str]:
    """Say a market's status in a few lines, which reasons that others wrote can't break out of."""
    return [printable(line) for line in _lines(status)]


def _lines(status: dict[str, Any]) -> list[str]:
    server = f"served by {status['server']}" if status["server"] else "nobody serves it now"
    expelled = [
        f"{name} is expelled" + (f": {reason}" if reason else "")
        for name, reason in status["expelled"].items()
    ]
    if status["round"] is None:
        return [*expelled, f"no round has begun; {server}"]
    lines = [
        (
            f"round {status['round']}: {status['phase']}, {len(status['reported'])} of "
            f"{len(status['asked'])} replied, quorum {status['quorum']}"
        )
    ]
    if status["phase"] == "COLLECTING" and status["waiting"]:
        lines.append(f"waiting for {', '.join(status['waiting'])} until {status['until']}")
    lines += [f"{name}: {reason}" for name, reason in status["failed"].items()]
    if status["detail"]:
        lines.append(status["detail"])
    if status["last_event"]:
        lines.append(f"last event: {status['last_event']}")
    return [*lines, *expelled, server]
