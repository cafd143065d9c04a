"""A whole market over real processes: gRPC fleet, TLS, node authentication, real data."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sysconfig
import time
from pathlib import Path

import psutil
import pytest

from ipfl_flower.ledger import Ledger

IPFL = Path(sysconfig.get_path("scripts")) / "ipfl"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def ours(folder):
    """Return the processes that were started for the demo in `folder` (zombies are ended)."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and any(
                str(folder) in part for part in [*process.cmdline(), *process.environ().values()]
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


def run_demo(folder, *arguments, **variables):
    """Run a demo with 6 institutions to its end; return its folder, result and output."""
    with (folder / "printed").open("w") as printed:
        demo = subprocess.Popen(
            [IPFL, "demo", "--dir", folder / "demo", "--json", folder / "out.json", *arguments],
            stdout=printed,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
        )
        try:
            code = demo.wait(400)
        finally:
            demo.terminate()  # politely: it ends what it has started
            demo.wait()
    said = (folder / "printed").read_text()
    assert code == 0, said
    return folder / "demo", json.loads((folder / "out.json").read_text()), said


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("market")
    return run_demo(folder, "--rounds", "4", IPFL_LOG_FORMAT="json")


def test_the_papers_preset_works_as_well(tmp_path):
    folder, result, _ = run_demo(tmp_path, "--rounds", "4", "--preset", "paper")
    assert mean(result, "accuracy") > mean(result, "local_accuracy")
    assert all(row["utility"] >= 0 for row in result["institutions"])
    assert result["ledger"]["verified"] is True
    assert ours(folder) == []


def mean(result, key):
    return sum(row[key] for row in result["institutions"]) / len(result["institutions"])


def test_the_market_beats_training_alone_and_fedavg(outcome):
    _, result, _ = outcome
    assert mean(result, "accuracy") > mean(result, "local_accuracy")
    assert mean(result, "accuracy") > mean(result, "fedavg_accuracy")


def test_nobody_loses_and_money_only_moves(outcome):
    _, result, _ = outcome
    rows = result["institutions"]
    assert all(row["utility"] >= 0 for row in rows)
    assert sum(row["net"] for row in rows) == 0
    assert sum(row["paid"] for row in rows) == sum(row["earned"] for row in rows) > 0
    assert all(row["net"] == row["paid"] - row["earned"] for row in rows)
    assert all(type(row["paid"]) is int for row in rows)


def test_purchases_stay_inside_the_hidden_groups(outcome):
    _, result, _ = outcome
    group = {row["name"]: row["group"] for row in result["institutions"]}
    bought = [
        (row["name"], seller) for row in result["institutions"] for seller in row["bought_from"]
    ]
    assert bought
    assert all(group[buyer] == group[seller] for buyer, seller in bought)


def test_every_round_is_settled_delivered_and_verified(outcome):
    folder, result, printed = outcome
    assert [item["state"] for item in result["rounds"]] == ["DELIVERED"] * 4
    assert [item["participants"] for item in result["rounds"]] == [6] * 4
    assert result["ledger"]["verified"] is True
    assert "grpc" in result["transport"]
    assert result["ledger"]["head"] in printed.replace("\n", "")
    verify = subprocess.run(
        [IPFL, "ledger", "verify", folder / "ledger.db"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verify.returncode == 0, verify.stderr
    assert result["ledger"]["head"] in verify.stdout


def test_the_ledger_commands_agree_with_the_result(outcome):
    folder, result, _ = outcome
    shown = json.loads(
        subprocess.check_output([IPFL, "ledger", "show", folder / "ledger.db", "--json"])
    )
    assert shown["balances"] == {row["name"]: -row["net"] for row in result["institutions"]}
    name = result["institutions"][0]["name"]
    statement = json.loads(
        subprocess.check_output([IPFL, "ledger", "statement", folder / "ledger.db", name, "--json"])
    )
    for key in ("paid", "earned", "net"):
        assert statement[key] == result["institutions"][0][key]


def test_its_report_agrees_with_the_result_and_has_its_baselines(outcome, tmp_path):
    folder, result, _ = outcome
    output = tmp_path / "report.html"
    subprocess.run([IPFL, "report", folder / "ledger.db", "--output", output], check=True)
    page = output.read_text()
    assert result["ledger"]["head"] in page
    assert "Baselines are from result.json." in page
    for row in result["institutions"]:
        keys = "accuracy", "local_accuracy", "fedavg_accuracy"
        shown = "".join(f'<td class="number">{100 * row[key]:.1f}</td>' for key in keys)
        assert f'<th scope="row">{row["name"]}</th>{shown}' in page


def test_a_changed_amount_is_found(outcome, tmp_path):
    folder, _, _ = outcome
    for file in folder.glob("ledger.db*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    connection = sqlite3.connect(tmp_path / "ledger.db")
    for (name,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    ).fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("UPDATE entries SET amount_micro = amount_micro + 1 WHERE id = 1")
    connection.commit()
    connection.close()
    verify = subprocess.run(
        [IPFL, "ledger", "verify", tmp_path / "ledger.db"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verify.returncode == 1
    assert "round 0" in verify.stderr


def test_nothing_is_left_running(outcome):
    folder, _, _ = outcome
    assert ours(folder) == []


def test_the_institutions_keep_their_models_and_the_server_keeps_none(outcome):
    folder, result, _ = outcome
    for row in result["institutions"]:
        state = folder / "institutions" / row["name"] / "state"
        assert list(state.glob("*.npz"))
    assert list((folder / "models").iterdir()) == []


def json_lines(files, *, among_others=False):
    """Return the lines of logs; `among_others`: those that Flower's own processes didn't print."""
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines if not among_others or line.startswith("{")]


def test_each_request_is_found_at_server_app_bridge_and_trainer(outcome):
    folder, result, _ = outcome
    logs = folder / "logs"
    server = json_lines([logs / "superexec.log"])
    trainers = json_lines(logs.glob("trainer-*.log"))
    # Client apps write where what starts them does: Flower's SuperNode, or our executor.
    nodes = [*logs.glob("supernode-*.log"), *logs.glob("executor-*.log")]
    bridges = json_lines(nodes, among_others=True)
    for line in (*server, *trainers, *bridges):
        assert {"ts", "level", "logger", "message"} <= line.keys()
    replied = [line for line in server if line["message"].endswith(" replied") and "run" in line]
    assert len(replied) == len({line["request"] for line in replied}) >= 4 * 6
    names = {row["name"] for row in result["institutions"]}
    assert {(line["round"], line["institution"]) for line in replied} >= {
        (number, name) for number in range(4) for name in names
    }
    with Ledger.open(folder / "ledger.db", create=False) as ledger:
        market = ledger.market[:16]
    for line in replied:
        for where, said in ((server, "is asked"), (bridges, "answered"), (trainers, "answered")):
            (same,) = [
                other
                for other in where
                if other.get("request") == line["request"] and other["message"].endswith(said)
            ]
            for field in ("round", "institution"):
                assert same[field] == line[field]
            assert same["market"] == line["market"] == market
    assert len({line["run"] for line in (*replied, *bridges) if "run" in line}) == 1


@pytest.mark.parametrize("moment", ["starting", "training"])
def test_ctrl_c_ends_every_process(tmp_path, moment):
    """While processes are being started, and while client apps answer messages."""

    def has_come():
        if moment == "starting":
            return any("superlink" in " ".join(process.cmdline()) for process in ours(tmp_path))
        return any(tmp_path.glob("demo/flower/app-*"))  # a bundle, unpacked for a message

    with (tmp_path / "out").open("w") as out:
        demo = subprocess.Popen(
            [IPFL, "demo", "--institutions", "2", "--groups", "1", "--dir", tmp_path / "demo"],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            end = time.monotonic() + 240
            while not has_come():
                assert demo.poll() is None
                assert time.monotonic() < end
                time.sleep(0.1)
            demo.send_signal(signal.SIGINT)
            assert demo.wait(60) == 130
        finally:
            demo.terminate()
            demo.wait()
    assert ours(tmp_path) == []
    assert "everything that was started has been ended" in (tmp_path / "out").read_text()


def test_a_port_in_use_is_one_line_and_nothing_stays(tmp_path):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = str(sock.getsockname()[1])
        done = subprocess.run(
            [IPFL, "demo", "--dir", tmp_path / "demo", "--fleet-port", port],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "COLUMNS": "200"},
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"port {port} is in use" in done.stderr
    assert ours(tmp_path) == []


def test_a_wrong_preset_is_one_line(tmp_path):
    done = subprocess.run(
        [IPFL, "demo", "--preset", "best", "--dir", tmp_path / "demo"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == ("ipfl: setting preset is 'best': choose one of paper, recommended\n")
