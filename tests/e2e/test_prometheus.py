"""A real Prometheus scrapes `ipfl metrics` of two markets; boards and alerts are tried on that."""

import json
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import yaml
from support import ledgers, monitoring, rounds
from support.fake_grid import FakeGrid
from support.institutions import FakeInstitution, theta0
from support.monitoring import PROMETHEUS, wait_for
from support.tampering import attacker

from ipfl_flower.cli.bundle import to_toml
from ipfl_flower.cli.certs import make_server_certificates
from ipfl_flower.cli.processes import ProcessGroup
from ipfl_flower.cli.refusals import Kind, Refusal, Refusals
from ipfl_flower.console import catalogue
from ipfl_flower.console.catalogue import Spec
from ipfl_flower.ledger import Ledger, Report
from ipfl_flower.market import Rules, Terms
from ipfl_flower.protocol import array_record
from ipfl_flower.settings import Settings
from ipfl_flower.strategy import IPFL

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

COMMAND = Path(sysconfig.get_path("scripts")) / "ipfl"
DASHBOARDS = PROMETHEUS.parent / "grafana" / "dashboards"
NAMES = ("alder", "birch", "cedar", "elm")
INSTALL = "apt-get install prometheus prometheus-alertmanager"


@pytest.fixture(scope="module")
def promtool():
    """Give the path of promtool."""
    found = monitoring.find("promtool")
    if found is None:
        pytest.skip(f"no promtool here: {INSTALL}")
    return found


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Scrape a market that waits for replies, one with a false ledger, and one that goes on.

    Nobody trades in the second, for its λ is too large; the third's ledger is given, too.
    """
    if not (
        monitoring.find("prometheus") and monitoring.find("prometheus-alertmanager", "alertmanager")
    ):
        pytest.skip(f"no Prometheus or no Alertmanager here: {INSTALL}")
    folder = tmp_path_factory.mktemp("monitoring")
    options = play_market(folder)
    play_broken(folder / "broken.db")
    with (
        Ledger.open(folder / "ledger.db", serve=True) as ledger,
        Ledger.open(folder / "live.db") as live,
        ProcessGroup(folder / "logs", os.environ) as group,
    ):
        leave_collecting(ledger)
        ledgers.play(live)
        targets = {
            "market": serve(group, "market", folder / "ledger.db", *options),
            "broken": serve(group, "broken", folder / "broken.db"),
            "live": serve(group, "live", folder / "live.db"),
        }
        yield monitoring.start(folder, group, targets), live


def play_market(folder):
    """Play two rounds over a fake Grid; return the options that say what is where."""
    said = {**dict.fromkeys(catalogue.REPORTED, 0.5), "receipt_alarms": 0.0, "fit_seconds": 2.0}
    institutions = {name: FakeInstitution(i, metrics=said) for i, name in enumerate(NAMES)}
    values = {
        "rounds": 2,
        "institutions-min": 4,
        "ledger": str(folder / "ledger.db"),
        "models-dir": str(folder / "models"),
        "initial-model": str(folder / "theta0.npz"),
    }
    np.savez(folder / "theta0.npz", **theta0())
    (folder / "market.toml").write_text(to_toml(values))
    grid = FakeGrid(institutions)
    with Ledger.open(folder / "ledger.db") as ledger:
        ledger.log_event("started", "for a test")
        IPFL(Settings.read(values), ledger, grid.clock).start(grid, array_record(theta0()))
        assert sum(item.edges for item in ledger.rounds()) > 0
    make_server_certificates(folder / "certificates", ["market.example"], days=10)
    refusals = Refusals(folder / "refusals.json", lambda _: None)
    refusals.note(Refusal(Kind.NOT_TLS, "192.0.2.1:5"))
    refusals.flush(force=True)
    return (
        f"--market={folder / 'market.toml'}",
        f"--certificates={folder / 'certificates'}",
        f"--superlink-folder={folder}",
    )


def leave_collecting(ledger):
    ledger.open_round(2, range(4), 600.0, 2)
    ledger.collect(2)
    said = dict.fromkeys(catalogue.REPORTED, 0.5)
    ledger.report(Report(2, 0, Terms(10, 1.0, 1.0), "digest", leaving=False, metrics=said))
    ledger.refuse(2, 3, "damaged")


def play_broken(path):
    """Settle three rounds in which λ keeps everyone from trading, and change one of them."""
    terms, far = rounds.four_terms(), 0.5 * (1 - np.eye(4))
    played = [rounds.settled(n, terms, far, Rules(distance_weight=1e6)) for n in range(3)]
    with Ledger.open(path) as ledger:
        rounds.play(ledger, played, {"distance-weight": 1e6})
    with attacker(path) as raw:
        raw.execute("UPDATE outcomes SET utility = utility + 1 WHERE round = 2")


def serve(group, name, ledger, *options):
    """Start ``ipfl metrics`` on a port that it chooses, and return where it listens."""
    group.start(name, [COMMAND, "metrics", ledger, "--listen=127.0.0.1:0", *options])

    def listening():
        assert name not in group.dead(), group.dead()[name]
        return re.findall(r"at http://(127\.0\.0\.1:\d+)/metrics", group.log(name).read_text())

    [address] = wait_for(f"ipfl metrics of {name}", listening)
    return address


@pytest.fixture
def scraped(running):
    """Give them once each target was scraped three times, and verified."""
    few = "count(count_over_time(ipfl_ledger_verified[5m]) >= 3) == 3"
    watched, _ = running
    wait_for("three scrapes of each", lambda: watched.query(few))
    return watched


def alert_rules():
    [group] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return group["rules"]


def dashboard_expressions():
    found = []
    for file in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(file.read_text())
        found += [
            (file.name, panel["title"], target["expr"])
            for panel in board["panels"]
            for target in panel["targets"]
        ]
    return found


def metrics_in(expression):
    return set(re.findall(r"\b(?:ipfl|process|scrape)_\w+|\bup\b", expression))


def filled_in(expression):
    """Put in for Grafana's variables what it does."""
    return expression.replace("$__rate_interval", "1m").replace("$institution", ".*")


def test_every_metric_of_the_catalogue_arrives(scraped):
    suffix = {"counter": "_total", "gauge": "", "histogram": "_bucket"}
    values = list(vars(catalogue).values()) + list(catalogue.REPORTED.values())
    specs = {value for value in values if isinstance(value, Spec)}
    assert len(specs) > 50
    there = set(scraped.get("label/__name__/values"))
    assert {f"{spec.name}{suffix[spec.kind]}" for spec in specs} <= there


def test_every_dashboard_shows_something_in_every_panel_and_names_metrics_that_exist(scraped):
    expressions = dashboard_expressions()
    assert len({file for file, *_ in expressions}) == 5
    there = set(scraped.get("label/__name__/values"))
    for file, title, expression in expressions:
        where = f"{file}: {title}: {expression}"
        assert metrics_in(expression), where
        assert metrics_in(expression) <= there, where
        assert scraped.query(filled_in(expression)), f"{where} shows nothing"


def test_every_alert_can_be_evaluated_and_names_metrics_that_exist(scraped):
    there = set(scraped.get("label/__name__/values"))
    for rule in alert_rules():
        assert metrics_in(rule["expr"]), rule["alert"]
        assert metrics_in(rule["expr"]) <= there, rule["alert"]
        scraped.query(rule["expr"])
    loaded = [rule for group in scraped.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in loaded} == {rule["alert"] for rule in alert_rules()}
    assert {rule["health"] for rule in loaded} <= {"ok", "unknown"}


def test_alerts_fire_for_the_market_that_they_are_about_and_reach_alertmanager(scraped):
    expected = {
        ("CertificateExpires", "market"),
        ("ChainBroken", "broken"),
        ("DistanceWeightTooLarge", "broken"),
        ("PaymentDeadlock", "broken"),
    }
    wait_for(f"{expected} to fire", lambda: expected <= scraped.firing())
    silent = {
        (alert, instance)
        for alert in ("ChainBroken", "DistanceWeightTooLarge", "PaymentDeadlock", "MetricsDown")
        for instance in ("market", "broken", "live")
    } - expected
    assert not silent & scraped.firing()

    def received():
        labels = [alert["labels"] for alert in scraped.received()]
        return expected <= {(item["alertname"], item["instance"]) for item in labels}

    wait_for("Alertmanager to receive them", received)
    for alert in scraped.received():
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["runbook"].startswith("docs/operate.md#")
        assert [receiver["name"] for receiver in alert["receivers"]] == ["operator"]


def test_an_alert_comes_and_goes_with_what_happens_in_the_market(running, scraped):
    _, live = running
    quorum = ("QuorumLost", "live")
    assert quorum not in scraped.firing()
    live.deliver(2)
    live.collect(3)
    live.refuse(3, 1, "damaged")
    live.refuse(3, 2, "damaged")
    wait_for("QuorumLost to fire", lambda: quorum in scraped.firing())
    [left] = scraped.query('ipfl_round_asked{instance="live"} - ipfl_round_failed')
    assert left["value"][1] == "1"
    # A reply that was refused and comes well the next time counts.
    live.report(Report(3, 1, Terms(100, 1.0, 1.0), "digest", leaving=False, metrics={}))
    wait_for("QuorumLost to be silent", lambda: quorum not in scraped.firing())


@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
)
def test_promtool_finds_nothing_wrong(promtool, command):
    done = subprocess.run(
        [promtool, *command],
        cwd=PROMETHEUS,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_notices_an_alert_that_does_not_fire(promtool, tmp_path):
    """The rules' tests can fail: with one threshold changed, they do."""
    rules = (PROMETHEUS / "alerts.yml").read_text()
    changed = rules.replace(
        "ipfl_market_rounds_without_purchases >= 3", "ipfl_market_rounds_without_purchases >= 4"
    )
    assert changed != rules
    (tmp_path / "alerts.yml").write_text(changed)
    (tmp_path / "alerts_test.yml").write_text((PROMETHEUS / "alerts_test.yml").read_text())
    done = subprocess.run(
        [promtool, "test", "rules", "alerts_test.yml"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "PaymentDeadlock" in done.stdout + done.stderr


def test_alertmanagers_configuration_is_valid():
    amtool = monitoring.find("amtool")
    if amtool is None:
        pytest.skip(f"no amtool here: {INSTALL}")
    command = [amtool, "check-config", str(PROMETHEUS / "alertmanager.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
