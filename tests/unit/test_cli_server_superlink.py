import json
import subprocess
import sys

ASK = """
import json, sys
from flwr.supercore.object_store import ObjectStoreFactory
from ipfl_flower.cli.server_superlink import prepare
prepare()
store = ObjectStoreFactory(sys.argv[1]).store()
names = ["secure_delete", "busy_timeout", "journal_mode"]
print(json.dumps([list(store.query(f"PRAGMA {name}")[0].values())[0] for name in names * 2]))
"""


def test_flowers_own_store_forgets_quickly_and_waits_longer(tmp_path):
    # A process of its own: the events are for every connection of one.
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(tmp_path / "superlink.db")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [0, 60_000, "wal"] * 2
