"""The market on the newest Flower, which pyproject.toml does not allow: what differs, does it hold?

``make compat`` runs this as a program, with an environment of its own in ``build/compat-venv``. It
ends with an error if the market does not come to its end or its ledger does not verify.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from ipfl_flower.cli.processes import LaunchError

ROOT = Path(__file__).parents[2]
VENV = ROOT / "build" / "compat-venv"
MARKET = ROOT / "build" / "compat" / "market"
INSTALL_S, MARKET_S, VERIFY_S = 1800.0, 900.0, 60.0
# What a Flower is, as its own interpreter sees it.
ASK = """
import json
from importlib.metadata import version
from pathlib import Path
from ipfl_flower.cli.flower_versions import fleet_api
from ipfl_flower.cli.superlink_command import superlink_command
command = superlink_command(certificates=Path("CERTIFICATES"), database=Path("DATABASE"),
    fleet_address="HOST:9092", host="127.0.0.1", port=8000)
print(json.dumps({
    "flwr": version("flwr"),
    "fleet API": fleet_api().name,
    "port for institutions alone": "yes" if fleet_api().own_port else "no",
    "SuperLink": " ".join(str(part) for part in command[4:]),
}))
"""


def run(command: list[str | Path], timeout_s: float, *, captured: bool = False) -> str:
    """Run a command, without the sources that this process was told to import."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        env=environment,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE if captured else None,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        line = " ".join(str(part) for part in command[:4])
        raise LaunchError(f"compat: {line} … ended with exit code {done.returncode}")
    return done.stdout or ""


def requirements() -> list[str]:
    """Return what the market and its demo need, but for Flower's pin."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["trainer"], *extras["demo"]]
    return [line for line in lines if not line.startswith(("flwr==", "ipfl-flower"))]


def install() -> None:
    """Install the newest Flower that there is, and this package beside it."""
    if not VENV.exists():
        run([sys.executable, "-m", "venv", VENV], INSTALL_S)
    pip: list[str | Path] = [VENV / "bin" / "pip", "install", "--quiet"]
    run([*pip, "--upgrade", "flwr", *requirements()], INSTALL_S)
    run([*pip, "--no-deps", "--editable", ROOT], INSTALL_S)


def describe(python: Path) -> dict[str, str]:
    """Ask an interpreter about its Flower."""
    found: dict[str, str] = json.loads(run([python, "-c", ASK], VERIFY_S, captured=True))
    return found


def main() -> None:
    """Install, say what differs, play a market, and verify its ledger with either Flower."""
    install()
    pinned, newest = describe(Path(sys.executable)), describe(VENV / "bin" / "python")
    for name, ours in pinned.items():
        same = ours == newest[name]
        print(f"{name}: {ours}, on both" if same else f"{name}:\n  - {ours}\n  + {newest[name]}")
    play: list[str | Path] = [VENV / "bin" / "ipfl", "demo", "--dir", MARKET]
    MARKET.parent.mkdir(parents=True, exist_ok=True)
    run([*play, "--institutions", "3", "--groups", "1", "--rounds", "2"], MARKET_S)
    warnings = {
        f"{log.stem}: {line.strip()}"
        for log in sorted((MARKET / "logs").glob("*.log"))
        for line in re.findall(r".*deprecated.*", log.read_text())
    }
    print("\n".join(sorted(warnings)) or "nothing that we use is called deprecated")
    for ipfl in (VENV / "bin" / "ipfl", Path(sys.executable).with_name("ipfl")):
        run([ipfl, "ledger", "verify", MARKET / "ledger.db"], VERIFY_S)


if __name__ == "__main__":
    try:
        main()
    except (LaunchError, subprocess.TimeoutExpired) as error:
        sys.exit(str(error))
