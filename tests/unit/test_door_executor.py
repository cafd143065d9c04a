import json
import logging
import subprocess
import sys

import pytest

from ipfl_flower.door import clientapp, executor

BUNDLE = "ab" * 32


def child(code):
    return subprocess.Popen([sys.executable, "-c", code])


def test_a_client_app_whose_message_was_given_up_does_not_keep_the_next_from_running(
    monkeypatch, caplog
):
    monkeypatch.setattr(executor, "END_S", 0.1)
    waiting = child("import time; time.sleep(600)")
    with caplog.at_level(logging.WARNING):
        executor.end_former(waiting)
    assert waiting.returncode == -9
    assert "given up by the SuperNode" in caplog.text


@pytest.mark.parametrize(("code", "said"), [(0, ""), (3, "ended with exit code 3")])
def test_a_client_app_that_has_ended_is_told_of_when_it_failed(caplog, code, said):
    executor.end_former(child(f"raise SystemExit({code})"))
    assert ("exit code" in caplog.text) == bool(said)
    assert said in caplog.text


def test_before_the_first_client_app_there_is_nothing_to_end(caplog):
    executor.end_former(None)
    assert not caplog.text


def test_a_client_app_is_told_how_to_log_and_nothing_of_the_rest_that_is_ours():
    ours = {"IPFL_LOG_FORMAT": "json", "IPFL_LOG_LEVEL": "INFO", "IPFL_TOKEN": "secret"}
    assert set(executor.client_environment(ours)) == {"IPFL_LOG_FORMAT", "IPFL_LOG_LEVEL"}


@pytest.fixture
def apps(tmp_path, monkeypatch):
    """Client apps that write down what they are told, and their folder; "fail" makes them fail."""
    program = tmp_path / "client_app.py"
    program.write_text(
        "import os, pathlib, sys\n"
        "here = pathlib.Path(__file__).parent\n"
        "if (here / 'fail').exists(): sys.exit(3)\n"
        "told = sys.stdin.read()\n"
        "(here / f'told-{os.getpid()}').write_text(told)\n"
    )
    (tmp_path / "allowed").write_text(f"{BUNDLE}\n")
    monkeypatch.setattr(executor, "CLIENT_APP", program)
    apps = executor.ClientApps("127.0.0.1:1", tmp_path)
    yield apps
    for process in (apps._running, apps._ready):
        if process is not None:
            process.kill()
            process.wait()
            process.stdin.close()


def test_a_client_app_waits_for_its_message_and_the_next_one_for_its_end(apps, tmp_path):
    first = apps._ready
    apps.tend()
    assert apps._ready is first
    assert first.poll() is None
    apps.answer("token of the first")
    assert first.wait(30) == 0
    told = json.loads((tmp_path / f"told-{first.pid}").read_text())
    assert (told["token"], told["allowed"]) == ("token of the first", [BUNDLE])
    assert apps._ready is None
    apps.tend()
    second = apps._ready
    assert second.poll() is None
    (tmp_path / "allowed").write_text("")  # read anew for every message
    apps.answer("token of the second")
    assert second.wait(30) == 0
    assert json.loads((tmp_path / f"told-{second.pid}").read_text())["allowed"] == []


def test_a_client_app_that_was_killed_while_it_waited_is_replaced(apps, tmp_path):
    killed = apps._ready
    killed.kill()
    killed.wait()
    killed.stdin.close()
    apps.answer("token")
    answering = apps._running
    assert answering.wait(30) == 0
    assert (tmp_path / f"told-{answering.pid}").exists()


def test_client_apps_that_cannot_start_end_the_executor(apps, tmp_path):
    (tmp_path / "fail").touch()
    apps.answer("token")
    apps._running.wait(30)
    apps.tend()
    apps._ready.wait(30)
    with pytest.raises(RuntimeError, match="before any message, with exit code 3"):
        apps.tend()


def test_a_client_app_ends_when_its_executor_has(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", clientapp.__file__], input=b"", check=True, capture_output=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")
