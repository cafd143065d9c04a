"""Structured logs: what is on a line, and that nothing breaks one."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
from contextvars import copy_context
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.trainers import ROOT

from ipfl_flower import logs
from ipfl_flower.cli.log_console import LogConsole


@pytest.fixture(autouse=True)
def _nothing_noted(monkeypatch):
    monkeypatch.setattr(logs, "_process", {})


def line_of(message, *args, exc_info=None, name="ipfl_flower.x"):
    record = logging.LogRecord(name, logging.WARNING, "x.py", 1, message, args, exc_info)
    return logs.JsonFormatter().format(record)


def test_a_line_has_time_level_logger_and_message():
    record = logging.LogRecord("ipfl_flower.x", logging.ERROR, "x.py", 1, "%d left", (3,), None)
    record.created = 1_700_000_000.9996
    assert json.loads(logs.JsonFormatter().format(record)) == {
        "ts": "2023-11-14T22:13:20.999Z",
        "level": "ERROR",
        "logger": "ipfl_flower.x",
        "message": "3 left",
    }


def test_what_a_line_is_about_comes_from_process_and_block_and_ends_with_the_block():
    logs.note(market="m" * 16, run=7)
    with logs.context(round=0, institution="alder", request="") as about:
        about(request="00ff")
        inner = json.loads(line_of("x"))
        assert [inner[name] for name in logs.FIELDS] == ["m" * 16, 7, 0, "alder", "00ff"]
        assert list(inner)[4:] == list(logs.FIELDS)
        with logs.context(institution="birch"):
            assert logs.about()["institution"] == "birch"
        assert logs.about()["institution"] == "alder"
    assert logs.about() == {"market": "m" * 16, "run": 7}


def test_tasks_that_take_turns_keep_their_own_context():
    async def one(name, met):
        with logs.context(request=name):
            await met.wait()
            return logs.about()["request"]

    async def both():
        met = asyncio.Barrier(2)
        return await asyncio.gather(one("a", met), one("b", met))

    assert asyncio.run(both()) == ["a", "b"]


def test_a_thread_has_a_context_only_if_it_is_copied():
    found = []
    with logs.context(request="a"):
        for work in (lambda: found.append(logs.about()), None):
            copied = copy_context()
            target = work or (lambda run=copied.run: run(lambda: found.append(logs.about())))
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert found == [{}, {"request": "a"}]


@given(st.text())
def test_nothing_in_a_message_a_name_or_an_exception_breaks_a_line(text):
    raised = (ValueError, ValueError(text), None)
    with logs.context(institution=text or "-"):
        line = line_of("%s", text, exc_info=raised, name=text)
    assert line.isascii()
    assert line.isprintable()
    read = json.loads(line)
    assert (read["message"], read["institution"]) == (text, text or "-")
    assert "ValueError" in read["exception"]


@given(st.text())
def test_nor_a_line_of_text(text):
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "%s", (text,), None)
    line = logs.TextFormatter("%(levelname)s %(message)s").format(record)
    assert line.isprintable()


def test_text_that_is_readable_stays_as_it_is():
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "θ̄ of Höhe\n", (), None)
    assert logs.TextFormatter("%(message)s").format(record) == "θ̄ of Höhe\\n"


@pytest.mark.parametrize("text", ["", "a\nb", "é", "x" * 65, "a b", 7, None, b"00ff"])
def test_an_id_from_elsewhere_that_looks_like_none_is_none(text):
    assert logs.usable_id(text) == ""


# --- lines of programs that were started ----------------------------------------------------------


@pytest.fixture
def as_json(monkeypatch, capsys):
    """Have this process log in JSON; give what it has written."""
    handler = logging.Handler()
    handler.setFormatter(logs.JsonFormatter())
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_lines_of_programs_become_json_with_their_level(as_json):
    logs.note(institution="alder")
    for line in (
        "\x1b[92mINFO \x1b[0m:      Starting Flower SuperNode",
        "\x1b[91mERROR \x1b[0m:     it broke",
        "ipfl: can't reach the SuperLink",
        "",
        "\x1b[0m ",
        '  File "x.py", line 1\x1b[2J',
        '{"level": "INFO"}',
        '{"ts": "t", "level": "INFO", "logger": "l", "message": NaN}',
        "[" * 20_000,
    ):
        logs.write(line)
    found = as_json()
    assert {line["institution"] for line in found} == {"alder"}
    assert [(line["logger"], line["level"]) for line in found] == [
        ("flwr", "INFO"),
        ("flwr", "ERROR"),
        ("ipfl", "WARNING"),
        *[("output", "INFO")] * 4,
    ]
    assert [line["message"] for line in found[:3]] == [
        "Starting Flower SuperNode",
        "it broke",
        "can't reach the SuperLink",
    ]


def test_a_line_that_is_json_of_ours_stays_what_it_is(as_json):
    with logs.context(request="00ff"):
        ours = line_of("done")
    logs.note(institution="alder")
    logs.write(ours)
    assert as_json() == [json.loads(ours)]


def test_in_text_lines_of_programs_are_not_touched(capsys):
    logs.write("\x1b[92mINFO \x1b[0m:      x")
    assert capsys.readouterr().err == "\x1b[92mINFO \x1b[0m:      x\n"


def test_what_a_command_prints_is_a_record_a_line(caplog):
    with caplog.at_level(logging.INFO):
        LogConsole().print("round 1 [x]\nround 2", soft_wrap=True)
    assert caplog.messages == ["round 1 [x]", "round 2"]


# --- a process of its own -------------------------------------------------------------------------

PROGRAM = """
import logging, sys, threading, warnings
from ipfl_flower import logs
try:
    logs.configure("%(levelname)s %(message)s")
    logs.configure()
except logs.LogSettingError as error:
    logs.fail(f"ipfl: {error}")
    sys.exit(1)
logs.note(institution="alder")
logging.getLogger("ipfl_flower.x").info("ours %s", "a\\nb")
logging.getLogger("client_app").debug("deep")
logging.getLogger("ipfl_flower.x").info("")
logging.getLogger("httpx").info("a request")
logging.getLogger("httpx").warning("theirs")
logs.announce("serving")
warnings.warn("odd")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise ValueError("the end")
"""


def program(**variables):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def test_a_process_that_logs_json_writes_nothing_else():
    done = program(IPFL_LOG_FORMAT="JSON")
    assert (done.returncode, done.stdout) == (1, "")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["institution"] for line in lines} == {"alder"}
    assert [(line["level"], line["logger"]) for line in lines] == [
        ("INFO", "ipfl_flower.x"),
        ("WARNING", "httpx"),
        ("INFO", "ipfl"),
        ("WARNING", "py.warnings"),
        ("CRITICAL", "ipfl"),
        ("CRITICAL", "ipfl"),
    ]
    assert lines[0]["message"] == "ours a\nb"
    assert "ZeroDivisionError" in lines[4]["exception"]
    assert "ValueError: the end" in lines[5]["exception"]
    for line in lines:
        assert line["ts"].endswith("Z")
        assert datetime.fromisoformat(line["ts"]).utcoffset().total_seconds() == 0


def test_text_is_what_it_was():
    done = program()
    assert done.stdout == "serving\n"
    assert done.stderr.splitlines()[:3] == ["INFO ours a\\nb", "INFO ", "WARNING theirs"]


def test_a_level_may_be_chosen():
    assert "DEBUG deep" in program(IPFL_LOG_LEVEL="debug").stderr
    assert program(IPFL_LOG_LEVEL="error").stderr.startswith("<string>")


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("IPFL_LOG_FORMAT", "text, json"), ("IPFL_LOG_LEVEL", "DEBUG, INFO, WARNING, ERROR")],
)
def test_a_wrong_setting_is_one_line_that_says_what_is_right(name, allowed):
    done = program(**{name: "xml"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"ipfl: {name} is 'xml' in the environment: set it to one of {allowed}, or leave it out\n"
    )
