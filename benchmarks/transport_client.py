"""The ClientApp of bench_transport.py: answers at once with a model that it makes up, no torch.

It is staged as the app's ``client_app/main.py``. The "institution file" of its node config is a
TOML table: ``theta0``, an .npz whose tensors say what a model looks like, and ``seed``.
"""

import os
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from ipfl_flower.market import Terms
from ipfl_flower.protocol import Reply, Request

app = ClientApp()


class MadeUp(Mapping[str, NDArray[Any]]):
    """A model near θ⁰, a tensor at a time: a stand-in for what a trainer would stream."""

    def __init__(self, theta0: Path, seed: int) -> None:
        self._archive = np.load(theta0)
        self._seed = seed

    def __getitem__(self, name: str) -> NDArray[Any]:
        tensor = self._archive[name]
        rng = np.random.default_rng([self._seed, self._archive.files.index(name)])
        for k in range(len(tensor)):
            tensor[k] += rng.random(tensor.shape[1:], np.float32) * np.float32(1e-3)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._archive.files)

    def __len__(self) -> int:
        return len(self._archive.files)


@app.train()
@app.evaluate()
def serve(message: Message, context: Context) -> Message:
    """Read the message as an institution must, and answer."""
    entered = time.time()
    request = Request.from_records(message.content, keep_arrays=False)
    given = tomllib.loads(Path(str(context.node_config["institution"])).read_text())
    arrays = MadeUp(Path(given["theta0"]), given["seed"]) if request.train else {}
    answer = Reply(
        round=request.round,
        arrays=arrays,
        terms=Terms(samples=200, cost=0.05, eagerness=2e4),
        leaving=False,
        metrics={"started": started(), "entered": entered, "left": time.time()},
    )
    return Message(answer.to_records(), reply_to=message)


def started() -> float:
    """Return when this process was started, seconds since 1970."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
