"""A trainer's process in JSON: lines are about the request that came, and nothing else is said."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import grpc
import pytest
from support.trainers import MODULE, ROOT, institution_file

from ipfl_flower.trainer.initial import initial_model
from ipfl_flower.trainer_api import FitCall, TrainerClient, TrainerRefusedError
from ipfl_flower.trainer_api import trainer_pb2 as pb
from ipfl_flower.trainer_api.speaker import PROTOCOL
from ipfl_flower.trainer_api.trainer_pb2_grpc import TrainerStub

pytestmark = pytest.mark.timeout(300)

THETA_0 = initial_model({"name": "digits"}, 0)
DEADLINE_S = 120.0
MARKET = "9f1c0a6be2d4c871"


@contextmanager
def json_trainer(folder):
    """Run a trainer; give its address and, once it has ended, what it has said."""
    address, said = f"unix://{folder}/t.sock", []
    command = [sys.executable, *MODULE, str(institution_file(folder)), "--listen", address]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["IPFL_LOG_FORMAT"] = "json"
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield address, said
        child.send_signal(signal.SIGTERM)
        out, errors = child.communicate(timeout=DEADLINE_S)
        assert (child.returncode, out) == (0, "")
        said.extend(json.loads(line) for line in errors.splitlines())
    finally:
        child.kill()
        child.wait()


def about(line):
    return {name: line.get(name) for name in ("market", "round", "institution", "request")}


def test_lines_name_the_request_whether_it_is_answered_or_refused(tmp_path):
    with json_trainer(tmp_path) as (address, said):
        with TrainerClient(address) as client:
            call = FitCall(0, role="initial", arrays=THETA_0, market=MARKET, request="00ff")
            client.fit(call, deadline_s=DEADLINE_S)
            call = FitCall(1, task="iris", market=MARKET, request="00fe")
            with pytest.raises(TrainerRefusedError, match="iris"):
                client.fit(call, deadline_s=DEADLINE_S)
            # As an older bridge asks, and one that would break a line.
            client.fit(FitCall(2), deadline_s=DEADLINE_S)
            client.fit(FitCall(3, request="a\nb", market='"'), deadline_s=DEADLINE_S)
        with grpc.insecure_channel(address) as channel:
            older = pb.FitHeader(round=4, speaker=pb.Speaker(protocol=PROTOCOL + 1))
            asked = TrainerStub(channel).Fit(
                iter([pb.FitRequest(header=older)]),
                metadata=[("ipfl-request", "x" * 65), ("ipfl-market", MARKET)],
                timeout=DEADLINE_S,
            )
            with pytest.raises(grpc.RpcError, match="upgrade"):
                list(asked)
    answered = [line for line in said if line["message"].endswith("answered")]
    refused = [line for line in said if line["message"].startswith("refused")]
    alder = {"institution": "alder"}
    assert [about(line) for line in answered] == [
        {"market": MARKET, "round": 0, "request": "00ff"} | alder,
        {"market": None, "round": 2, "request": None} | alder,
        {"market": None, "round": 3, "request": None} | alder,
    ]
    assert [about(line) for line in refused] == [
        {"market": MARKET, "round": 1, "request": "00fe"} | alder,
        {"market": MARKET, "round": None, "request": None} | alder,
    ]
    assert [line["level"] for line in refused] == ["WARNING"] * 2
    assert said[0]["message"] == f"serving alder on {address}"


def test_what_the_thread_that_trains_says_is_about_the_request_too(tmp_path):
    with json_trainer(tmp_path) as (address, said), TrainerClient(address) as client:
        call = FitCall(0, role="initial", arrays=THETA_0, request="00ff")
        client.fit(call, deadline_s=DEADLINE_S)
        call = FitCall(1, role="centre", arrays=THETA_0, request="00fe")
        client.fit(call, deadline_s=DEADLINE_S)  # a centre without a receipt is an alarm
    (alarm,) = [line for line in said if "ALARM" in line["message"]]
    assert (alarm["level"], alarm["request"], alarm["round"]) == ("ERROR", "00fe", 1)
