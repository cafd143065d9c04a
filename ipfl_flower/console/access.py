"""Who may see what: tokens, of which only hashes are kept, and logins."""

import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TOKEN_LENGTH_MIN: Final = 32
LOGIN_S: Final = 12 * 3600
LOGINS_MAX: Final = 50
"""Of one viewer: who begins more ends its own oldest, and nobody else's."""

_LINE: Final = re.compile(r"([0-9a-f]{64})  (\S.*)")


class ConsoleError(RuntimeError):
    """The console can't start as it is told to; the message says why and what to do."""


@dataclass(frozen=True)
class Viewer:
    """Who asks: an institution, by name, or the operator (None)."""

    name: str | None = None

    @property
    def is_operator(self) -> bool:
        """Whether it sees everything."""
        return self.name is None

    def sees(self, name: str) -> bool:
        """Tell whether it may see the affairs of the institution called `name`."""
        return self.name in (None, name)


OPERATOR: Final = Viewer()


class Gate:
    """Lets in who has a token.

    Parameters
    ----------
    operators : iterable of str
        SHA-256 of the operators' tokens.
    institutions : mapping of str to str
        SHA-256 of each token to the institution's name.
    """

    def __init__(self, operators: Iterable[str] = (), institutions: Mapping[str, str] = {}) -> None:
        self._viewers = dict.fromkeys(operators, OPERATOR)
        self._viewers |= {digest: Viewer(name) for digest, name in institutions.items()}
        self._logins: dict[str, tuple[float, Viewer]] = {}
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether there are no tokens, and everybody is the operator."""
        return not self._viewers

    def viewer_of(self, token: str) -> Viewer | None:
        """Return whose token it is. All are compared, each in the same time whatever it is."""
        given, found = digest_of(token), None
        for digest, viewer in self._viewers.items():
            if hmac.compare_digest(digest, given):
                found = viewer
        return found

    def log_in(self, viewer: Viewer) -> str:
        """Begin a login that lasts `LOGIN_S`, and return the secret that its cookie holds."""
        secret, now = secrets.token_urlsafe(32), time.monotonic()
        with self._lock:
            for digest, (end, _) in list(self._logins.items()):
                if end < now:
                    del self._logins[digest]
            own = [digest for digest, (_, whose) in self._logins.items() if whose == viewer]
            for digest in own[: max(0, len(own) + 1 - LOGINS_MAX)]:
                del self._logins[digest]
            self._logins[digest_of(secret)] = now + LOGIN_S, viewer
        return secret

    def logged_in(self, secret: str) -> Viewer | None:
        """Return who logged in with a cookie; None: nobody, or too long ago."""
        # By its hash: how long a look-up takes says nothing about a secret.
        end, viewer = self._logins.get(digest_of(secret), (0.0, None))
        return viewer if end > time.monotonic() else None

    def log_out(self, secret: str) -> None:
        """End a login."""
        self._logins.pop(digest_of(secret), None)


def digest_of(token: str) -> str:
    """Hash a token. It is long and random, so a fast hash will do."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def read_gate(operator_file: Path | None, tokens_file: Path | None) -> Gate:
    """Read who is let in.

    Parameters
    ----------
    operator_file : Path or None
        Holds the operator's token.
    tokens_file : Path or None
        What `add_token` writes.

    Raises
    ------
    ConsoleError
        A file can't be read, or makes no sense.
    """
    operators = []
    if operator_file is not None:
        token = _read(operator_file).strip()
        if len(token) < TOKEN_LENGTH_MIN or len(token.split()) != 1:
            raise ConsoleError(
                f"{operator_file} must hold one token of {TOKEN_LENGTH_MIN} characters or more: "
                "make one with openssl rand -hex 32"
            )
        operators.append(digest_of(token))
    institutions = {} if tokens_file is None else _read_tokens(tokens_file)
    if tokens_file is not None and not operators:
        raise ConsoleError("--tokens lets institutions in: give --operator-token-file, too")
    return Gate(operators, institutions)


def add_token(path: Path, name: str) -> str:
    """Make a token for an institution, and add its hash to a file (made with mode 0600).

    Returns
    -------
    str
        The token, which is kept nowhere.

    Raises
    ------
    ConsoleError
        The file makes no sense, or can't be written; or the name is none.
    """
    if not name.strip() or not name.isprintable():
        raise ConsoleError(f"an institution's name is printable, not {name!r}")
    unended = False
    if path.exists():
        _read_tokens(path)
        unended = _read(path)[-1:] not in ("", "\n")
    token = secrets.token_urlsafe(32)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("\n" * unended + f"{digest_of(token)}  {name}\n")
    except OSError as error:
        raise ConsoleError(f"{path} can't be written: {error.strerror}: check the path") from error
    return token


def _read_tokens(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConsoleError(
                f"{path}, line {number}: not a SHA-256, two spaces and a name: "
                "add institutions with ipfl console token NAME"
            )
        found[match[1]] = match[2]
    return found


def _read(path: Path) -> str:
    with suppress(UnicodeDecodeError):
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConsoleError(f"{path} can't be read: {error.strerror}: check the path") from error
    raise ConsoleError(f"{path} is not a text file: check the path")
