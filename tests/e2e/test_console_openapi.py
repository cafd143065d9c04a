"""The console does what its OpenAPI description says, whatever it is asked (Schemathesis)."""

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from support import console_market
from support.browser import serving

from ipfl_flower.console.access import add_token
from ipfl_flower.ledger import Ledger

SCHEMATHESIS = Path(sysconfig.get_path("scripts")) / "schemathesis"
OPERATOR = "operator-" + "0123456789" * 3
EXAMPLES = "10"  # of each operation in each phase, beside those that cover its limits
ASK_S = 800

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openapi")
    with Ledger.open(folder / "ledger.db") as ledger:
        console_market.play(ledger)
    (folder / "operator").write_text(OPERATOR)
    return folder, {"operator": OPERATOR, "institution": add_token(folder / "tokens", "alder")}


@pytest.mark.parametrize("who", ["operator", "institution"])
def test_nothing_is_found_that_the_description_does_not_say(tokens, who, tmp_path):
    folder, known = tokens
    files = "--operator-token-file", folder / "operator", "--tokens", folder / "tokens"
    with serving(folder / "ledger.db", *files) as address:
        done = subprocess.run(
            [
                *(SCHEMATHESIS, "run", f"{address}/api/v1/openapi.json"),
                *("--header", f"Authorization: Bearer {known[who]}"),
                *("--max-examples", EXAMPLES, "--generation-deterministic"),
                "--no-color",
            ],
            cwd=tmp_path,  # it keeps what it found there
            capture_output=True,
            text=True,
            timeout=ASK_S,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    operations = re.search(r"(\d+) selected / (\d+) total", done.stdout)
    cases = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert operations[1] == operations[2] != "0"
    assert cases[1] == cases[2]
    assert int(cases[1]) > 10 * int(operations[1])
