import logging
import subprocess
import sys

import pytest

from ipfl_flower.door import executor


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
