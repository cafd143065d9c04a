"""Real Prometheus and Alertmanager (Debian's) with the configuration of `deploy`, on free ports."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from ipfl_flower.cli.processes import LaunchError, ProcessGroup, free_port

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
STARTS_S = 60.0


def find(*names: str) -> str | None:
    """Find a program under the first of its names that is here."""
    return next((found for name in names if (found := shutil.which(name))), None)


def wait_for(what: str, condition: Callable[[], Any], deadline_s: float = STARTS_S) -> Any:
    """Return what `condition` gives, once that is true."""
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < end, f"{what}: not within {deadline_s:g} s"
        time.sleep(0.2)
    return found


@dataclass(frozen=True)
class Monitoring:
    """Both of them, running: where they answer."""

    prometheus: str
    alertmanager: str

    def get(self, path: str, **parameters: Any) -> Any:
        """Ask Prometheus' API; an error is one here."""
        answer = httpx.get(f"{self.prometheus}/api/v1/{path}", params=parameters, timeout=30.0)
        content = answer.json()
        assert content["status"] == "success", f"{parameters}: {content.get('error')}"
        return content["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression now."""
        data = self.get("query", query=expression)
        assert data["resultType"] in ("vector", "scalar"), expression
        return data["result"] if data["resultType"] == "vector" else [data["result"]]

    def firing(self) -> set[tuple[str, str]]:
        """Return the alerts that Prometheus fires: alert and instance."""
        return {
            (alert["labels"]["alertname"], alert["labels"].get("instance", ""))
            for alert in self.get("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def received(self) -> list[dict[str, Any]]:
        """Return the alerts that Alertmanager has."""
        answer = httpx.get(f"{self.alertmanager}/api/v2/alerts", timeout=30.0)
        return list(answer.raise_for_status().json())


def start(folder: Path, group: ProcessGroup, targets: dict[str, str]) -> Monitoring:
    """Start both with the files of `deploy/prometheus`, but for addresses and intervals.

    Parameters
    ----------
    folder : Path
        For their data and their configuration.
    group : ProcessGroup
        Ends them.
    targets : dict of str to str
        Instance to HOST:PORT of ``ipfl metrics``.
    """
    ports = free_port(), free_port()
    made = Monitoring(*(f"http://127.0.0.1:{port}" for port in ports))
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    [manager] = config["alerting"]["alertmanagers"]
    manager["static_configs"] = [{"targets": [f"127.0.0.1:{ports[1]}"]}]
    [job] = config["scrape_configs"]
    job["static_configs"] = [
        {"targets": [address], "labels": {"instance": name}} for name, address in targets.items()
    ]
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    group.start(
        "alertmanager",
        [
            str(find("prometheus-alertmanager", "alertmanager")),
            f"--config.file={PROMETHEUS / 'alertmanager.yml'}",
            f"--storage.path={folder / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{ports[1]}",
            "--cluster.listen-address=",
        ],
    )
    group.start(
        "prometheus",
        [
            str(find("prometheus")),
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{ports[0]}",
        ],
    )
    for name, url in (("prometheus", made.prometheus), ("alertmanager", made.alertmanager)):
        wait_for(name, lambda name=name, url=url: _ready(group, name, url))
    return made


def _ready(group: ProcessGroup, name: str, url: str) -> bool:
    how = group.dead().get(name)
    if how is not None:
        raise LaunchError(f"{name} {how}")
    try:
        return httpx.get(f"{url}/-/ready", timeout=5.0).status_code == 200
    except httpx.TransportError:
        return False
