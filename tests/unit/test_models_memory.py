"""The memory of the process does not grow with the bank."""

import subprocess
import sys

SIZE_MIB = 256
# The models of the script are made one at a time, too.
SCRIPT = """
import re, sys
from pathlib import Path
import numpy as np
from ipfl_flower.models import Layout, ModelBank

def memory_mib(field):
    status = Path("/proc/self/status").read_text()
    return int(re.findall(field + r":\\s+(\\d+) kB", status)[0]) / 1024

m, size = 64, 2**20
reference = {"w": np.ones(size, np.float32)}
before = memory_mib("VmRSS")
with ModelBank(Path(sys.argv[1]), Layout.of(reference), m, reference, threads=2) as bank:
    for i in range(m):
        bank.put(i, {"w": np.full(size, i, np.float32)})
    assert bank.gram()[3, 5] == 2 * 4 * size
    for i, centre in bank.centres(np.eye(m) * -0.5):
        assert centre["w"][0] == i - 0.5 * (i - 1)
print(memory_mib("VmHWM") - before)
"""


def test_a_large_bank_takes_the_memory_of_a_few_models(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "bank")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < SIZE_MIB / 4
