"""The bridge, through Flower's own ClientApp: to a trainer at an address, and to one of its own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from flwr.app import Context, Message, MessageType, RecordDict
from support.trainers import MEASURED, ROOT, institution_file, trainer_process

from client_app import app
from ipfl_flower.protocol import Reply, Request
from ipfl_flower.trainer import InstitutionError
from ipfl_flower.trainer.initial import initial_model
from ipfl_flower.trainer_api import AddressError, TrainerRefusedError, TrainerUnreachableError

pytestmark = pytest.mark.timeout(300)

THETA_0 = initial_model({"name": "digits"}, 0)


def request(number=0, *, train=True):
    role, arrays = ("initial", THETA_0) if number == 0 else ("none", {})
    return Request(number, train, role, arrays, 0.0, "own")


def bridge(node_config, asked, *, ttl=120.0):
    """Have the app answer a message; return the reply as the server reads it."""
    kind = MessageType.TRAIN if asked.train else MessageType.EVALUATE
    message = Message(content=asked.to_records(), dst_node_id=1, message_type=kind, ttl=ttl)
    context = Context(1, 1, node_config, RecordDict(), {})
    return Reply.from_message(app(message, context), round_number=asked.round)


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[n], right[n]) for n in left)


def test_a_trainer_at_an_address_and_one_of_its_own_answer_alike(tmp_path):
    files = [institution_file(tmp_path / name) for name in ("far", "near")]
    with trainer_process(files[0]) as running:
        for number in range(3):
            far, near = (
                bridge(config, request(number, train=number < 2))
                for config in ({"trainer": running.address}, {"institution": str(files[1])})
            )
            assert same(far.arrays, near.arrays)
            assert bool(far.arrays) is (number < 2)
            assert (far.terms, far.leaving, far.round) == (near.terms, near.leaving, near.round)
            for reply in (far, near):
                for measured in MEASURED & reply.metrics.keys():
                    reply.metrics.pop(measured)
            assert far.metrics == near.metrics


BRIDGE = """
import json, sys
import numpy as np
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity
TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
from client_app import app
from ipfl_flower.protocol import Reply, Request
with np.load(sys.argv[2]) as file:
    theta = {name: file[name] for name in file.files}
asked = Request(0, True, "initial", theta, 0.0, "own")
message = Message(content=asked.to_records(), dst_node_id=1, message_type=MessageType.TRAIN)
answer = app(message, Context(1, 1, {"trainer": sys.argv[1]}, RecordDict(), {}))
reply = Reply.from_message(answer, round_number=0)
print(json.dumps([sorted(reply.arrays), sorted(sys.modules)]))
"""


def test_a_node_that_names_a_trainer_loads_neither_torch_nor_a_task(tmp_path):
    np.savez(tmp_path / "theta0.npz", **THETA_0)
    with trainer_process(institution_file(tmp_path / "alder")) as running:
        done = subprocess.run(
            [sys.executable, "-c", BRIDGE, running.address, tmp_path / "theta0.npz"],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert done.returncode == 0, done.stderr
    names, modules = json.loads(done.stdout)
    assert names == sorted(THETA_0)
    loaded = {name for name in modules if name.startswith(("torch", "ipfl_flower", "pydantic"))}
    assert "ipfl_flower.trainer_api.client" in loaded
    assert not any(name.startswith(("torch", "pydantic")) for name in loaded)
    assert not any(f"ipfl_flower.{part}" in loaded for part in ("trainer", "tasks", "ledger"))


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({}, TypeError, "names no trainer: start it with --node-config 'trainer="),
        ({"trainer": 7}, TypeError, "trainer in the SuperNode's node config must be text, is 7"),
        ({"trainer": "nowhere"}, AddressError, "'nowhere' is neither unix:///path nor host:port"),
        ({"trainer": "t.example:9"}, AddressError, "needs TLS: .*trainer-ca, trainer-certificate"),
        (
            {"trainer": "t.example:9", "trainer-ca": "/ca.pem"},
            TypeError,
            "node config lacks trainer-certificate, trainer-key: TLS needs all",
        ),
        ({"institution": "/no/such.toml"}, InstitutionError, "/no/such.toml can't be read"),
    ],
)
def test_a_wrong_node_config_is_named(config, error, message):
    with pytest.raises(error, match=message):
        bridge(config, request())


def test_a_trainer_that_is_not_there_is_waited_for_as_long_as_the_message_lives(tmp_path):
    nowhere = {"trainer": f"unix://{tmp_path / 'none.sock'}"}
    with pytest.raises(TrainerUnreachableError, match=r"none\.sock can't be reached \(.*start it"):
        bridge(nowhere, request(), ttl=1.0)


def test_what_the_trainer_says_is_what_the_server_is_told(tmp_path):
    config = {"institution": str(institution_file(tmp_path))}
    with pytest.raises(TrainerRefusedError, match="alder has no model yet, and round 4 brings no"):
        bridge(config, request(4))
    bridge(config, request())  # and the next one works
