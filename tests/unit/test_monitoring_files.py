"""Alert rules, their tests and runbooks, dashboards and compose files belong together."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
MONITORING = ("metrics", "prometheus", "alertmanager", "grafana")


def rules():
    [group] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return group["rules"]


def test_every_alert_has_a_runbook_that_names_it():
    text = (ROOT / "docs" / "operate.md").read_text()
    sections = {}
    for part in re.split(r"^#{2,3} ", text, flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        sections[re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")] = body
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/operate.md"
        assert sections[anchor].lstrip().startswith(f"`{rule['alert']}`."), rule["alert"]


def test_every_alert_is_tested_to_fire_and_to_be_silent():
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


def test_every_alert_has_a_severity_and_a_summary():
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_is_one_that_grafana_can_provision(file):
    board = json.loads(file.read_text())
    assert board["uid"] == f"ipfl-{file.stem}"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + right, place["y"] + down)
            for right in range(place["w"])
            for down in range(place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["expr"] for target in panel["targets"])


def test_grafana_finds_what_it_provisions():
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    [source] = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((folder / "dashboards" / "ipfl.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/dashboards"


@pytest.mark.parametrize("name", ["demo.yml", "operator.yml"])
def test_compose_starts_monitoring_with_its_profile_alone_and_pins_its_images(name):
    file = ROOT / "deploy" / "compose" / name
    compose = yaml.safe_load(file.read_text())
    found = {
        name
        for name, service in compose["services"].items()
        if "monitoring" in service.get("profiles", [])
    }
    assert found == set(MONITORING)
    published = set()
    for part in MONITORING:
        service = compose["services"][part]
        assert service["read_only"] is True
        if "ports" in service:
            published.add(part)
            assert all("127.0.0.1" in port for port in service["ports"])
        if part != "metrics":
            assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"])
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (file.parent / source).is_dir() or "market.toml" in source, volume
            elif not source.startswith("$"):
                assert source in compose["volumes"], volume
        for network in service["networks"]:
            assert network in compose["networks"]
    assert published == {"grafana"}
    [job] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    [target] = job["static_configs"][0]["targets"]
    host, _, port = target.partition(":")
    assert host in MONITORING
    assert f"--listen=0.0.0.0:{port}" in compose["services"][host]["command"]
