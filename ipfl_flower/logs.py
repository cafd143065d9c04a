"""Logs of our long-lived processes: lines of text for people, or one JSON object a line.

``IPFL_LOG_FORMAT=json`` chooses the latter for every process that inherits it, Flower's apps
included. What a line is about (market, round, institution, request) is set once, where it is known,
with `context` or `note`, and is on every line that is logged until then, by whatever part.
"""

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, NoReturn, TextIO

FORMAT: Final = "IPFL_LOG_FORMAT"
LEVEL: Final = "IPFL_LOG_LEVEL"
_FORMATS: Final = ("text", "json")
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")

FIELDS: Final = ("market", "run", "round", "institution", "request")
"""What a line can be about, in the order of a JSON line."""

# Of other libraries only warnings are news.
_OURS: Final = ("client_app", "ipfl", "ipfl_flower", "server_app")
_ID_DIGITS: Final = 16
_ID: Final = re.compile(r"[0-9A-Za-z._-]{1,64}")
_REQUIRED: Final = ("ts", "level", "logger", "message")
# As Flower prints: "INFO :      message", in colours.
_FLOWER: Final = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL)\s*:\s+(.*)", re.DOTALL)
_COLOUR: Final = re.compile(r"\x1b\[\d*m")

_process: dict[str, str | int] = {}
_context: ContextVar[Mapping[str, str | int]] = ContextVar("ipfl_logs")


class LogSettingError(ValueError):
    """A variable of the environment that says how to log is wrong; the message names both."""


# --- what a line is about -------------------------------------------------------------------------


def short(identifier: str | None) -> str:
    """Return as much of a long hexadecimal id as a log shows, its first 16 digits; "": of None."""
    return (identifier or "")[:_ID_DIGITS]


def usable_id(text: object) -> str:
    """Return an id that came from elsewhere if it looks like one, else ""."""
    return text if isinstance(text, str) and _ID.fullmatch(text) else ""


def note(**fields: str | int | None) -> None:
    """Say what all lines of this process are about from now on; None and "": not known."""
    _process.update(_known(fields))


@contextmanager
def context(**fields: str | int | None) -> Iterator[Callable[..., None]]:
    """Say what the lines within the block are about, beside what is said already.

    It holds for this thread or asyncio task and what that starts, not for other threads: copy
    the context where work is handed to one (`contextvars.copy_context`).

    Yields
    ------
    callable
        Takes more fields, which hold until the block ends, too.
    """

    def add(**more: str | int | None) -> None:
        _context.set({**_context.get({}), **_known(more)})

    token = _context.set({**_context.get({}), **_known(fields)})
    try:
        yield add
    finally:
        _context.reset(token)


def about() -> dict[str, str | int]:
    """Return what a line that is logged here would be about."""
    found = {**_process, **_context.get({})}
    return {name: found[name] for name in FIELDS if name in found}


def _known(fields: Mapping[str, str | int | None]) -> dict[str, str | int]:
    return {name: value for name, value in fields.items() if value is not None and value != ""}


# --- how it is written ----------------------------------------------------------------------------


def printable(text: str) -> str:
    """Escape what others wrote and a terminal would obey, or take for a new line."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


class JsonFormatter(logging.Formatter):
    """One JSON object a record, in ASCII and on one line, whatever the record's values hold."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "ts": _utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **about(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _dumped(line)


class TextFormatter(logging.Formatter):
    """The standard library's, except that a message stays on its line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        """Return the line, without a traceback."""
        record.message = printable(record.message)
        return super().formatMessage(record)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what is standard error now: Flower puts another stream in its place."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def _utc(seconds: float) -> str:
    at = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return at.replace("+00:00", "Z")


def _dumped(line: Mapping[str, Any]) -> str:
    # The one control sign that JSON leaves as it is.
    return json.dumps(line, ensure_ascii=True).replace("\x7f", "\\u007f")


# --- a process's logging --------------------------------------------------------------------------


def is_json() -> bool:
    """Tell whether this process logs in JSON."""
    handlers = logging.getLogger().handlers
    return any(isinstance(handler.formatter, JsonFormatter) for handler in handlers)


def configure(text: str = "%(levelname)s %(name)s %(message)s") -> None:
    """Have this process log to standard error, unless its logging is set up already.

    Parameters
    ----------
    text : str
        How a line looks where JSON isn't asked for, as for `logging.Formatter`.

    Raises
    ------
    LogSettingError
        If a variable of the environment is wrong.
    """
    as_json = _setting(FORMAT, _FORMATS, str.lower, default="text") == "json"
    level = _setting(LEVEL, _LEVELS, str.upper, default="INFO")
    if logging.getLogger().handlers:
        return
    handler = _Stderr()
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter(text))
    handler.setLevel(level)
    if as_json:
        handler.addFilter(_says_something)
    logging.getLogger().addHandler(handler)
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    flower = logging.getLogger("flwr")
    if as_json:
        # Flower's lines, too, and what would be printed without logging.
        flower.handlers.clear()
        flower.setLevel(logging.INFO)  # what it says below may be sensitive
        logging.captureWarnings(capture=True)
        sys.excepthook = _uncaught
        threading.excepthook = _uncaught_in_thread
    else:
        flower.propagate = False  # it has a handler of its own: each line once


def announce(line: str) -> None:
    """Say on standard output what a user waits for; where this process logs in JSON, log it."""
    if is_json():
        logging.getLogger("ipfl").info(line)
    else:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def fail(line: str) -> None:
    """Say on standard error, in one line, why this process ends."""
    if is_json():
        logging.getLogger("ipfl").error(line.removeprefix("ipfl: ").removeprefix("error: "))
    else:
        sys.stderr.write(f"{line}\n")


def write(line: str) -> None:
    """Write a line that this process says, or that a program it started has printed.

    As it is, or in a process that logs in JSON, as JSON: a line of ours stays what it is, of
    Flower's the level is read, others become INFO, and blank ones are left out.
    """
    if is_json():
        if not _COLOUR.sub("", line).strip():
            return
        line = _as_json(line)
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _says_something(record: logging.LogRecord) -> bool:
    """Tell whether a record is more than one of Flower's blank lines."""
    return bool(record.exc_info or record.getMessage().strip())


def _as_json(line: str) -> str:
    try:
        found = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and all(isinstance(found.get(name), str) for name in _REQUIRED):
        return _dumped(found)
    plain = _COLOUR.sub("", line)
    if plain.startswith("ipfl: "):
        level, name, message = "WARNING", "ipfl", plain.removeprefix("ipfl: ")
    elif flower := _FLOWER.fullmatch(plain):
        level, name, message = flower[1], "flwr", flower[2]
    else:
        level, name, message = "INFO", "output", plain
    now = datetime.now(UTC).timestamp()
    return _dumped({"ts": _utc(now), "level": level, "logger": name, "message": message, **about()})


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _setting(
    name: str, allowed: tuple[str, ...], fold: Callable[[str], str], *, default: str
) -> str:
    given = os.environ.get(name, "").strip()
    value = fold(given) if given else default
    if value not in allowed:
        raise LogSettingError(
            f"{name} is {given!r} in the environment: set it to one of {', '.join(allowed)}, "
            "or leave it out"
        )
    return value


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("ipfl").critical("ended by an error", exc_info=(kind, error, trace))


def _uncaught_in_thread(given: threading.ExceptHookArgs) -> None:
    if given.exc_value is not None:
        _uncaught(given.exc_type, given.exc_value, given.exc_traceback)
