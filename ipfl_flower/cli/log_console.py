"""What a long command says, as log lines."""

import io
import logging
from typing import Any

from rich.console import Console

from ipfl_flower import logs

logger = logging.getLogger("ipfl.run")


def console() -> Console:
    """Return where a command prints: the terminal, or the log where that is in JSON."""
    if logs.is_json():
        return LogConsole()
    return Console(markup=False, highlight=False)


class LogConsole(Console):
    """Logs what is printed, a record a line; there is no terminal, so nothing moves."""

    def __init__(self) -> None:
        super().__init__(file=io.StringIO(), markup=False, highlight=False)

    def print(self, *objects: Any, **_: Any) -> None:
        """Log `objects`."""
        for line in " ".join(str(item) for item in objects).splitlines():
            logger.info("%s", line)
