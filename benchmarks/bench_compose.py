"""Sizes of the images, and seconds from `compose up` to the demo's first settled round.

Usage: python benchmarks/bench_compose.py [--tag TAG]        or: make bench-compose TORCH=cpu

It starts deploy/compose/demo.yml (an operator, six institutions) with images that are there, from
no volumes at all: certificates, θ⁰, keys, requests, kits and all are made within the time that is
measured. Everything that was started is taken away again. A size is that on disk, unpacked, on top
of the base image, python:3.11-slim-bookworm.
"""

import argparse
import os
import subprocess
import time
import uuid
from pathlib import Path

DEMO = Path(__file__).parents[1] / "deploy" / "compose" / "demo.yml"
IMAGES = ("server", "console", "supernode", "trainer")
MB = 1e6
UP_DEADLINE_S = 900.0
ROUND_DEADLINE_S = 900.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tag", default="latest", help="of the images (default: latest)")
    tag = parser.parse_args().tag
    print("| image | MB on top of the base image | of them shared by all |")
    print("| --- | --- | --- |")
    for image in IMAGES:
        own = layer_sizes(f"ipfl-{image}:{tag}")[base_layers() :]
        print(f"| `ipfl-{image}` | {sum(own) / MB:.0f} | {own[0] / MB:.0f} |")
    up_s, settled_s, line = first_round(tag)
    print(f"\nup returned after {up_s:.0f} s, the first round was settled after {settled_s:.0f} s:")
    print(f"  {line}")


def layer_sizes(image: str) -> list[int]:
    """Return the bytes of an image's layers, from the base up; empty ones are left out."""
    history = run(
        "docker", "history", "--no-trunc", "--human=false", "--format", "{{.Size}}", image
    )
    return [size for size in map(int, reversed(history.split())) if size > 0]


def base_layers() -> int:
    """Return of how many layers the base image is made."""
    return len(layer_sizes("python:3.11-slim-bookworm"))


def first_round(tag: str) -> tuple[float, float, str]:
    """Start the demo; return the seconds until `up` was back and until it settled, and its line."""
    compose = ["docker", "compose"] if has_compose_v2() else ["docker-compose"]
    compose += ["--project-name", f"ipfl-bench-{uuid.uuid4().hex[:8]}", "--file", str(DEMO)]
    environment = {"IPFL_TAG": tag, "IPFL_FLEET": "127.0.0.1:"}
    start = time.monotonic()
    try:
        run(*compose, "up", "--detach", environment=environment, deadline_s=UP_DEADLINE_S)
        up_s = time.monotonic() - start
        while True:
            said = run(*compose, "logs", "--no-color", "run", environment=environment)
            lines = [line for line in said.splitlines() if "round 0 of" in line]
            if lines:
                return up_s, time.monotonic() - start, lines[0].partition("| ")[2]
            if time.monotonic() - start > ROUND_DEADLINE_S:
                raise SystemExit(
                    f"no round was settled within {ROUND_DEADLINE_S:g} s: {said[-500:]}"
                )
            time.sleep(0.5)
    finally:
        run(*compose, "down", "--volumes", "--timeout", "5", environment=environment)


def has_compose_v2() -> bool:
    """Tell whether Docker has compose as a plugin."""
    done = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return done.returncode == 0


def run(*command: str, environment: dict[str, str] | None = None, deadline_s: float = 120.0) -> str:
    """Run a command to its end; return what it printed."""
    done = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=deadline_s,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-1000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
