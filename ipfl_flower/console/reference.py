"""The page `docs/reference/metrics.md`, from what a registry describes: ``make docs`` writes it."""

import sys
from typing import Final

from ipfl_flower.console.catalogue import Spec
from ipfl_flower.console.host import (
    CertificateCollector,
    DiskCollector,
    DoorCollector,
    FileCollector,
    ServerCollector,
)
from ipfl_flower.console.metrics import INSTITUTIONS_MAX, LedgerCollector
from ipfl_flower.console.page import Described
from ipfl_flower.console.verifier import Verifier

_HEAD = f"""# Metrics

Made by `make docs`; the list is `ipfl_flower/console/catalogue.py`.

```sh
ipfl metrics LEDGER                              # serves http://127.0.0.1:9464/metrics
ipfl metrics LEDGER --once                       # prints them
ipfl metrics LEDGER --listen 0.0.0.0:9464 --market market.toml \\
    --certificates /srv/certificates --superlink-folder /srv/superlink --verify-every 3600
```

Everything is read from the ledger when it is scraped, also while no market runs, and nothing is
written. `--market` adds the sizes of models and their disk, `--certificates` when they expire,
`--superlink-folder` who was refused at the door. The whole ledger is verified at the start and then
every `--verify-every` seconds, beside the scrapes; before the first has ended, its metrics are
absent. Whoever reaches the port sees names and money: keep it on the operator's network.

Money is in credits, times are seconds since 1970. The first {INSTITUTIONS_MAX} institutions have
lines of their own. Of the others, sums are under the institution `other`, and what can't be summed
is left out. No metric has two institutions as labels. What trainers report of themselves is shown
as they say it, and is absent where an institution doesn't share it (`share_metrics`). Dashboards
and alerts: [operating a market](../operate.md#watching-a-market).
"""
_TAIL = """## The exporter itself

`process_*` (`process_resident_memory_bytes`, `process_cpu_seconds_total` …) are of `ipfl metrics`'
own process.
"""
_PARTS: Final[tuple[tuple[str, tuple[type[Described], ...]], ...]] = (
    ("The market, from the ledger", (LedgerCollector,)),
    ("The ledger's verification", (Verifier,)),
    (
        "The operator's machine",
        (ServerCollector, FileCollector, DiskCollector, CertificateCollector, DoorCollector),
    ),
)


def page() -> str:
    """Return the page."""
    lines = [_HEAD]
    for title, collectors in _PARTS:
        lines += [
            f"## {title}",
            "",
            "| metric | kind | labels | what it says |",
            "| - | - | - | - |",
        ]
        lines += [_line(spec) for collector in collectors for spec in collector.specs]
        lines.append("")
    lines.append(_TAIL)
    return "\n".join(lines)


def _line(spec: Spec) -> str:
    labels = ", ".join(f"`{label}`" for label in spec.labels)
    return f"| `{spec.shown}` | {spec.kind} | {labels} | {spec.about.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    sys.stdout.write(page())
