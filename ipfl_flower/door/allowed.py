"""The app bundles that an institution lets run: ``DIR/allowed``, one SHA-256 a line."""

import re
from pathlib import Path

FILE = "allowed"
SHA256 = re.compile(r"[0-9a-f]{64}")


class AllowedError(ValueError):
    """The file ``allowed`` is missing or isn't what it should be."""


def bundle_of(line: str) -> str:
    """Return the SHA-256 on a line of the file, in lower case; empty if there is only a comment."""
    return line.partition("#")[0].strip().lower()


def read_allowed(folder: Path) -> frozenset[str]:
    """Return the SHA-256 (hex) of every bundle that the institution in `folder` allows.

    Parameters
    ----------
    folder : Path
        Its file ``allowed`` holds a hash a line; ``#`` begins a comment.

    Raises
    ------
    AllowedError
        If the file can't be read, or a line is no SHA-256: nothing is guessed at a door.
    """
    file = folder / FILE
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AllowedError(
            f"{file}, which lists the app bundles that may run here, can't be read ({error}): "
            f"ipfl join fills it from the operator's kit"
        ) from None
    found = set()
    for number, line in enumerate(lines, 1):
        text = bundle_of(line)
        if text and not SHA256.fullmatch(text):
            raise AllowedError(
                f"{file}, line {number}: {text[:80]!r} is no SHA-256 (64 hex digits)"
            )
        if text:
            found.add(text)
    return frozenset(found)
