"""The demo overlay's containers, played without a cluster by the guide (support/pods.py)."""

import os
import subprocess
import sys

import pytest
from support.manifests import ROOT, find_kubectl
from support.pods import ROUNDS

UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
DEADLINE_S = 1800.0


@pytest.mark.cluster
@pytest.mark.timeout(DEADLINE_S + 20)
def test_a_market_is_played_as_the_manifests_and_the_guide_say(tmp_path):
    if find_kubectl() is None:
        pytest.skip("no kubectl of 1.27 or newer here: make kubectl")
    if subprocess.run([*UNSHARE, "ip", "link"], capture_output=True, check=False).returncode:
        pytest.skip("it takes root, and namespaces: unshare --net --mount --pid")
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-m", "support.pods", str(tmp_path)],
        cwd=ROOT / "tests",
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"verified: {ROUNDS} rounds" in done.stdout
    assert f"the console says round {ROUNDS - 1} DELIVERED" in done.stdout
