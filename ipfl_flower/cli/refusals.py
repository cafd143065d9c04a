"""Who was refused at the operator's door: one clear line each, and a count of each kind."""

import json
import re
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from ipfl_flower.cli.documents import KitError, write_file
from ipfl_flower.cli.node_keys import fingerprint_of_bytes

LAST_MAX = 100
QUIET_S = 60.0
WRITE_EVERY_S = 1.0
WHO_MAX = 1024

_API_ERROR = re.compile(r"\[/flwr\.proto\.Fleet/\w+\]\[ApiError:(2001|2004)\]")
_PUBLIC_KEY = re.compile(
    r"-----BEGIN PUBLIC KEY-----(?:\\n)?[A-Za-z0-9+/=\\n]{1,2000}-----END PUBLIC KEY-----"
)


class Kind(StrEnum):
    """Why somebody was refused."""

    UNKNOWN_KEY = "unknown-key"
    KEY_IN_USE = "key-in-use"
    NO_KEY = "no-key"
    CERTIFICATE = "certificate"
    NOT_TLS = "not-tls"
    HANDSHAKE = "handshake"


REASONS = {
    Kind.UNKNOWN_KEY: "its key is not registered: not admitted, expelled, or a name that was taken "
    "with another key; compare the fingerprint with the institution, then ipfl admit",
    Kind.KEY_IN_USE: "a SuperNode with this key is still shown online: it was killed and is let in "
    "within a minute, or the key is used twice",
    Kind.NO_KEY: "it showed no registered key: SuperNodes are started with ipfl supernode",
    Kind.CERTIFICATE: "it did not accept our certificate: it has the CA of another market, dialled "
    "a name that the certificate lacks, or the certificate has expired",
    Kind.NOT_TLS: "it did not speak TLS",
    Kind.HANDSHAKE: "the TLS handshake failed",
}


@dataclass(frozen=True)
class Refusal:
    """One refusal.

    Attributes
    ----------
    kind : Kind
    who : str
        The key's fingerprint, or the address; empty if neither is known.
    detail : str
        What the library said, if that says more than the kind.
    """

    kind: Kind
    who: str
    detail: str = ""

    def line(self) -> str:
        """Return what there is to say, on one line."""
        detail = f" ({self.detail})" if self.detail else ""
        return f"ipfl: refused [{self.kind}] {self.who or 'somebody'}: {REASONS[self.kind]}{detail}"


def refused_node(line: str) -> Refusal | None:
    """Return the refusal that a line of Flower's log tells of, if it does."""
    error = _API_ERROR.search(line)
    if error is None:
        return None
    if error[1] == "2001":
        kind = Kind.NO_KEY
    elif "No SuperNode found with the given public key" in line:
        kind = Kind.UNKNOWN_KEY
    elif "could not be activated" in line:
        kind = Kind.KEY_IN_USE
    else:
        return None
    return Refusal(kind, _key_in(line))


def _key_in(line: str) -> str:
    """Return the fingerprint of the public key in a line, or nothing."""
    found = _PUBLIC_KEY.search(line)
    return fingerprint_of_bytes(found[0].replace("\\n", "\n").encode()) if found else ""


class Refusals:
    """Counts refusals by kind, and says each once a minute at most.

    Parameters
    ----------
    file : Path
        JSON: since when, the counts by kind, and the last `LAST_MAX`. Goes on with what it holds.
    say : callable
        Gets the lines.
    """

    def __init__(self, file: Path, say: Callable[[str], None]) -> None:
        self._file = file
        self._say = say
        self._lock = threading.Lock()
        self._dirty = False
        self._written = float("-inf")
        self._said: OrderedDict[tuple[Kind, str], tuple[float, int]] = OrderedDict()
        before = read_refusals(file)
        self._since: str = before.get("since", _now())
        self._counts = Counter({kind: int(before.get("counts", {}).get(kind, 0)) for kind in Kind})
        self._last: list[dict[str, str]] = before.get("last", [])[-LAST_MAX:]

    def note(self, refusal: Refusal) -> None:
        """Count a refusal, and say it unless the same was said a moment ago."""
        with self._lock:
            self._counts[refusal.kind] += 1
            self._last.append(
                {
                    "time": _now(),
                    "kind": refusal.kind,
                    "who": refusal.who,
                    "detail": refusal.detail,
                }
            )
            del self._last[:-LAST_MAX]
            self._dirty = True
            line = self._line(refusal)
        if line is not None:
            self._say(line)

    def flush(self, *, force: bool = False) -> None:
        """Write the file, if there is news and it wasn't written a moment ago."""
        with self._lock:
            if not self._dirty or (time.monotonic() < self._written + WRITE_EVERY_S and not force):
                return
            content = {"since": self._since, "counts": dict(self._counts), "last": self._last}
            text = json.dumps(content, indent=2) + "\n"
            self._dirty = False
            self._written = time.monotonic()
        try:
            write_file(self._file, text.encode(), 0o600)
        except KitError as error:
            # A full disk must not end the SuperLink for the sake of a count.
            self._say(f"ipfl: {error}; trying again in a minute")
            with self._lock:
                self._dirty, self._written = True, time.monotonic() + QUIET_S - WRITE_EVERY_S

    def _line(self, refusal: Refusal) -> str | None:
        # By host, not by port: every attempt comes from another one.
        host = refusal.who if refusal.who.startswith("SHA256:") else refusal.who.rpartition(":")[0]
        key = (refusal.kind, host)
        since, held = self._said.get(key, (float("-inf"), 0))
        if time.monotonic() < since + QUIET_S:
            self._said[key] = (since, held + 1)
            return None
        self._said[key] = (time.monotonic(), 0)
        self._said.move_to_end(key)
        if len(self._said) > WHO_MAX:
            self._said.popitem(last=False)
        more = f", and {held} times more since it was last said" if held else ""
        return f"{refusal.line()}{more}"


def read_refusals(file: Path) -> dict[str, Any]:
    """Return what `Refusals` wrote; of a damaged file nothing: it is a count, not a ledger."""
    try:
        content = json.loads(file.read_text())
        Counter({kind: int(number) for kind, number in content["counts"].items()})
        return {
            "since": str(content["since"]),
            "counts": content["counts"],
            "last": list(content["last"]),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
