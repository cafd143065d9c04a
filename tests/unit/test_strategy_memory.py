"""The server app's memory is that of one message, whatever the number of institutions."""

import subprocess
import sys

MODEL_MIB = 32
# Each message is made when it is asked for and forgotten by the grid: what adds up is the market's.
SCRIPT = """
import re, sys
from pathlib import Path
import numpy as np
from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity
from ipfl_flower.ledger import Ledger
from ipfl_flower.market import Terms
from ipfl_flower.protocol import Reply, array_record
from ipfl_flower.settings import Settings
from ipfl_flower.strategy import IPFL

TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
folder, count = Path(sys.argv[1]), int(sys.argv[2])
size = int(sys.argv[3]) * 2**20 // 4
shapes = {"large": (size // 2 // 64, 64), "a": (size // 4,), "b": (size // 4,)}

def memory_mib(field):
    status = Path("/proc/self/status").read_text()
    return int(re.findall(field + r":\\s+(\\d+) kB", status)[0]) / 1024

class Tensors(dict):
    def __init__(self, seed):
        super().__init__(shapes)
        self.rng = np.random.default_rng(seed)
    def __getitem__(self, name):
        return self.rng.random(shapes[name], np.float32)

class Grid:
    def __init__(self):
        self.asked, self.pulled = {}, 0
    def get_nodes(self):
        return [NodeInfo(node_id=i + 1, name=str(i), public_key=b"%d" % i, status="online",
                         last_activated_at="now") for i in range(count)]
    def push_messages(self, messages):
        (message,) = messages
        name = f"m{len(self.asked)}"
        message.metadata.__dict__["_message_id"] = name
        config, arrays = message.content["config"], message.content["arrays"]
        sent = sum(len(array.data) for array in arrays.values())
        assert (sent > 4 * size) == (config["role"] != "none")
        empty = Message(message.content.__class__(), dst_node_id=1, message_type="train")
        empty.metadata.__dict__.update(message.metadata.__dict__)
        self.asked[name] = (empty, config["round"], config["train"])
        return [name]
    def pull_messages(self, ids):
        (name,) = ids
        asked, number, train = self.asked[name]
        self.pulled += 1
        arrays = Tensors(asked.metadata.dst_node_id) if train else {}
        reply = Reply(number, arrays, Terms(100, 0.01, 1e4), leaving=False, metrics={})
        return [Message(reply.to_records(), reply_to=asked)]

settings = Settings.read({
    "rounds": 2, "institutions-min": count, "distance-weight": 0.01,
    "ledger": str(folder / "ledger.db"), "models-dir": str(folder / "models"),
    "initial-model": str(folder / "theta0.npz"),
})
with Ledger.open(settings.ledger) as ledger:
    strategy = IPFL(settings, ledger)
    initial = array_record(Tensors(0))
    before = memory_mib("VmRSS")
    strategy.start(Grid(), initial)
    assert strategy.ledger.rounds()[1].edges > 0
print(memory_mib("VmHWM") - before)
"""


def growth_mib(folder, institutions):
    folder.mkdir()
    arguments = [str(folder), str(institutions), str(MODEL_MIB)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**20)},
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def test_a_market_takes_the_memory_of_one_message(tmp_path):
    # θ⁰ is in memory when the growth begins to be measured, and gone when messages come: a model
    # that anything else still holds is a growth by a whole one.
    few, many = growth_mib(tmp_path / "few", 2), growth_mib(tmp_path / "many", 5)
    assert few < MODEL_MIB
    assert many < few + MODEL_MIB / 4
