"""What the collectors say of the operator's machine."""

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from support.scraping import samples

from ipfl_flower.cli.certs import make_server_certificates
from ipfl_flower.cli.metrics import host_collectors
from ipfl_flower.cli.refusals import Kind, Refusal, Refusals
from ipfl_flower.console.host import (
    CERTIFICATES_MAX,
    CertificateCollector,
    DiskCollector,
    FileCollector,
    ServerCollector,
)
from ipfl_flower.ledger import Ledger
from ipfl_flower.settings import Settings


def scrape(*collectors):
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return samples(generate_latest(registry))


def test_disks_have_room_and_a_size_and_a_missing_folder_has_none(tmp_path):
    found = scrape(DiskCollector({"ledger": tmp_path, "models": tmp_path / "not yet"}))
    usage = shutil.disk_usage(tmp_path)
    assert found["ipfl_disk_size_bytes", "ledger"] == usage.total
    assert 0 < found["ipfl_disk_free_bytes", "ledger"] <= usage.total
    assert len(found) == 2


def test_files_have_sizes(tmp_path):
    for name, size in (("l.db", 7), ("l.db-wal", 4), ("round-000003.bank", 100), ("o.bank", 1)):
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "round-000003.bank.centres").write_bytes(bytes(50))
    (tmp_path / "theta0.npz").write_bytes(bytes(30))
    found = scrape(FileCollector(tmp_path / "l.db", tmp_path, tmp_path / "theta0.npz"))
    assert found == {
        ("ipfl_ledger_file_bytes",): 11,
        ("ipfl_bank_bytes",): 150,
        ("ipfl_model_bytes",): 30,
    }


def test_certificates_say_when_they_expire_and_other_files_are_passed_over(tmp_path):
    make_server_certificates(tmp_path, ["market.example"], days=40)
    (tmp_path / "notes.pem").write_text("not a certificate")
    (tmp_path / "key.pem").write_bytes((tmp_path / "server.key").read_bytes())
    found = scrape(CertificateCollector(tmp_path))
    name = "ipfl_certificate_expiry_timestamp_seconds"
    assert set(found) == {(name, "ca.pem"), (name, "server.pem")}
    ends = datetime.fromtimestamp(found[name, "server.pem"], UTC)
    assert timedelta(days=39) < ends - datetime.now(UTC) < timedelta(days=41)
    assert found[name, "ca.pem"] > found[name, "server.pem"]


def test_a_folder_full_of_certificates_makes_no_endless_labels(tmp_path):
    files = make_server_certificates(tmp_path / "made", ["market.example"])
    folder = tmp_path / "full"
    folder.mkdir()
    for number in range(CERTIFICATES_MAX + 3):
        shutil.copy(files.ca, folder / f"{number:03d}.pem")
    assert len(scrape(CertificateCollector(folder))) == CERTIFICATES_MAX


def test_the_servers_memory_is_that_of_the_process_that_serves(tmp_path):
    path = tmp_path / "ledger.db"
    with Ledger.open(path) as reader:
        assert scrape(ServerCollector(reader)) == {}
        with Ledger.open(path, serve=True):
            [value] = scrape(ServerCollector(reader)).values()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            now = pages * os.sysconf("SC_PAGE_SIZE")
            assert value == pytest.approx(now, rel=0.2)
            # One of another machine has another process under that number, or none.
            path.with_name("ledger.db.lock").write_text(f"process {os.getpid()} on elsewhere\n")
            assert scrape(ServerCollector(reader)) == {}


def test_refusals_are_those_that_the_superlink_counted(tmp_path):
    counted = Refusals(tmp_path / "refusals.json", lambda _: None)
    for _ in range(3):
        counted.note(Refusal(Kind.UNKNOWN_KEY, "SHA256:abc"))
    counted.flush(force=True)
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        collectors = host_collectors(ledger, None, None, tmp_path)
        assert scrape(*collectors)["ipfl_door_refusals_total", "unknown-key"] == 3
        (tmp_path / "refusals.json").write_text(json.dumps(["damaged"]))
        assert not any(name.startswith("ipfl_door") for name, *_ in scrape(*collectors))


def test_a_market_toml_says_where_models_are(tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    values = {"ledger": "/l", "models-dir": str(models), "initial-model": str(tmp_path / "t.npz")}
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        found = scrape(*host_collectors(ledger, Settings.read(values), None, None))
    assert found["ipfl_bank_bytes",] == 0
    assert {label[0] for name, *label in found if name == "ipfl_disk_free_bytes"} == {
        "ledger",
        "models",
    }


def test_a_ledger_on_a_server_has_no_file_and_no_disk_here(place):
    with Ledger.open(place) as ledger:
        found = scrape(*host_collectors(ledger, None, None, None))
    names = {name for name, *_ in found}
    here = {"ipfl_ledger_file_bytes", "ipfl_disk_free_bytes", "ipfl_disk_size_bytes"}
    assert names == (set() if "://" in place else here)
