"""Verify the ledger that stdin names, and print what is wrong as JSON: a process of its own.

An address may hold a password, which an argument would show to everybody on the machine.
"""

import dataclasses
import json
import os
import sys

from ipfl_flower.console.verifier import verified
from ipfl_flower.ledger import Ledger, LedgerError

NICE = 10


def main() -> int:
    """Return the exit code: 0 whatever verification finds."""
    os.nice(NICE)
    try:
        with Ledger.open(sys.stdin.read().strip(), read_only=True) as ledger:
            problems = [dataclasses.asdict(problem) for problem in verified(ledger)]
    except LedgerError as error:
        print(f"ipfl: {error}", file=sys.stderr)  # noqa: T201
        return 1
    json.dump(problems, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
