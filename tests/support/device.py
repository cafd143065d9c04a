"""Where the trainer's tests train: ``IPFL_TEST_DEVICE=cuda`` tries them on a GPU."""

import os
from typing import Literal, cast

DEVICE = cast("Literal['cpu', 'cuda']", os.environ.get("IPFL_TEST_DEVICE", "cpu"))
