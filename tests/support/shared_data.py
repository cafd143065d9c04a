"""Real data that lies beside the checkout on some machines, and is never part of the project."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("IPFL_DATA_DIR") or Path(__file__).parents[3] / "shared" / "data")


def shared_file(name):
    """Return a file's folder, or skip the test when it isn't on this machine."""
    if not (FOLDER / name).exists():
        pytest.skip(f"{name} is neither in ../shared/data nor in IPFL_DATA_DIR")
    return str(FOLDER)
