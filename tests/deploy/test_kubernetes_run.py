"""The script that keeps a market going in its pod, with a stand-in for `ipfl`."""

import os
import signal
import subprocess
import time

import pytest
from support.manifests import KUBERNETES

DEADLINE_S = 20.0


@pytest.fixture
def market(tmp_path):
    """Start run.sh; give the process, θ⁰'s file, and what the stand-in writes when it starts."""
    stand_in = tmp_path / "ipfl"
    started = []

    def start(body):
        said = tmp_path / "said"
        stand_in.write_text(f'#!/bin/sh\necho "$@" > {said}.new\nmv {said}.new {said}\n{body}\n')
        stand_in.chmod(0o755)
        child = subprocess.Popen(
            [
                "sh",
                str(KUBERNETES / "base/operator/run.sh"),
                str(tmp_path / "theta0"),
                "market.toml",
            ],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        assert "waiting for the initial model" in child.stdout.readline()
        return child, tmp_path / "theta0", said

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stdout.close()


def appears(path):
    end = time.monotonic() + DEADLINE_S
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear within {DEADLINE_S} s"
        time.sleep(0.02)
    return path.read_text()


def test_a_market_waits_for_its_initial_model_and_stays_when_it_has_ended(market):
    child, initial, said = market("exit 0")
    assert not said.exists()
    initial.touch()
    assert appears(said) == "run market.toml --superlink market --resume\n"
    assert "has ended" in child.stdout.readline()
    assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    assert child.wait(DEADLINE_S) == 0


def test_a_market_that_fails_ends_its_container_with_the_code(market):
    child, initial, _ = market("exit 7")
    initial.touch()
    assert child.wait(DEADLINE_S) == 7


def test_a_pod_that_ends_lets_the_market_end_first(market, tmp_path):
    child, initial, said = market(
        f"trap 'echo bye > {tmp_path}/bye; exit 130' TERM\nwhile :; do sleep 0.05; done"
    )
    initial.touch()
    appears(said)
    child.send_signal(signal.SIGTERM)
    assert child.wait(DEADLINE_S) == 0
    assert (tmp_path / "bye").read_text() == "bye\n"
