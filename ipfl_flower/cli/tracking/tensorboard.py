"""Event files for TensorBoard, a folder for the market and one for each institution.

Files are only ever added: what those of earlier calls hold is read once, and not written again.
"""

import re
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.cli.tracking.figures import Institution, Market, Point
from ipfl_flower.logs import short

NAME_LENGTH_MAX: Final = 40
# Each record: its length, a checksum of that, the record, and its checksum.
_HEADER: Final = struct.Struct("<QI")
_FOOTER_BYTES: Final = 4


class TensorBoardTracker:
    """Writes scalars below a folder.

    Parameters
    ----------
    folder : Path
        Made when missing; may hold other markets.

    Raises
    ------
    LaunchError
        If tensorboardX is not installed, or the folder can't be made.
    """

    def __init__(self, folder: Path) -> None:
        _imported()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LaunchError(f"{folder} can't be made ({error.strerror}): name another") from error
        self.place = f"{folder} (tensorboard --logdir {folder})"
        self._folder = folder
        self._known: dict[Path, set[tuple[str, int]]] = {}
        self._writers: dict[Path, Any] = {}

    def write(self, market: Market, whose: Institution | None, point: Point) -> None:
        """Write what is missing of a round's figures."""
        folder = self._folder / short(market.id) / _name(whose)
        known = self._known.get(folder)
        if known is None:
            known = self._known[folder] = written(folder)
        kind = "market" if whose is None else "institution"
        for name, value in point.values.items():
            tag = f"{kind}/{name}"
            if (tag, point.round) not in known:
                self._writer(folder).add_scalar(tag, value, point.round, walltime=point.at)
                known.add((tag, point.round))

    def flush(self, *, finished: bool) -> None:
        """Have everything on the disk; TensorBoard has no notion of an end."""
        del finished
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, folder: Path) -> Any:
        if folder not in self._writers:
            # The suffix: two files that are begun in one second would have one name.
            self._writers[folder] = _imported().SummaryWriter(
                str(folder), filename_suffix=f".{secrets.token_hex(4)}"
            )
        return self._writers[folder]


def written(folder: Path) -> set[tuple[str, int]]:
    """Return tag and step of every scalar in a folder's event files."""
    from tensorboardX.proto.event_pb2 import Event  # noqa: PLC0415  # an extra

    found = set()
    for file in sorted(folder.glob("*tfevents*")):
        for record in _records(file.read_bytes()):
            event = Event.FromString(record)
            found |= {(value.tag, event.step) for value in event.summary.value}
    return found


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the whole records of an event file; the last may be cut off, by a crash."""
    at = 0
    while at + _HEADER.size <= len(content):
        length, _ = _HEADER.unpack_from(content, at)
        begin, at = at + _HEADER.size, at + _HEADER.size + length + _FOOTER_BYTES
        if at <= len(content):
            yield content[begin : begin + length]


def _name(whose: Institution | None) -> str:
    """Return a folder's name: institutions are told apart by number, whatever their names hold."""
    if whose is None:
        return "market"
    plain = re.sub(r"[^\w-]", "_", whose.name)
    return f"{whose.id}-{plain[:NAME_LENGTH_MAX]}"


def _imported() -> Any:
    try:
        import tensorboardX  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise LaunchError(
            f"tensorboardX is not installed ({error}): pip install 'ipfl-flower[tensorboard]'"
        ) from error
    return tensorboardX
