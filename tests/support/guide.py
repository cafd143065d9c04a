"""The docs as tests follow them: what is in their fenced blocks is typed in at a terminal."""

import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from support.containers import ROOT

BLOCK_DEADLINE_S = 1200.0


def blocks(document: str, heading: str, language: str = "sh") -> list[str]:
    """Return the fenced blocks of a language under a heading, and under those below it."""
    text = (ROOT / "docs" / document).read_text()
    [start] = re.finditer(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    level = len(start[1])
    section = re.split(rf"^#{{1,{level}}} ", text[start.end() :], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


class Terminal:
    """A shell of somebody who follows the docs; folder and exports stay from block to block.

    Parameters
    ----------
    folder : Path
        Where it is opened.
    environment : mapping of str to str
        Beside this process's own.
    instead : mapping of str to str
        What in the docs stands for what here, replaced in this order.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str], instead: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self._exports = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in environment.items())
        self._instead = dict(instead)

    def learn(self, theirs: str, ours: str) -> None:
        """Take in what stands for a placeholder of the docs, as read out over the telephone."""
        self._instead[theirs] = ours

    def text(self, block: str) -> str:
        """Return a block with this host's own names in it."""
        for theirs, ours in self._instead.items():
            block = block.replace(theirs, ours)
        return block

    def type(self, block: str) -> str:
        """Run a block to its end; return what it printed."""
        typed = self.text(block)
        assert "…" not in typed, f"nothing was read out for a placeholder: {typed}"
        with tempfile.NamedTemporaryFile("r") as left:
            leave = f"{{ export -p; pwd; }} >{shlex.quote(left.name)}"
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", f"{self._exports}\n{typed}\n{leave}"],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=BLOCK_DEADLINE_S,
            )
            assert done.returncode == 0, f"{typed}\n{(done.stdout + done.stderr)[-3000:]}"
            self._exports, _, folder = left.read().rstrip("\n").rpartition("\n")
        self.folder = Path(folder)
        return done.stdout + done.stderr
