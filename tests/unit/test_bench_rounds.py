"""The pure parts of benchmarks/bench_rounds.py: reading, adding up, printing."""

import bench_model
import numpy as np
import pytest
from bench_rounds import arguments
from rounds_bench.cases import Case, cases, unfit
from rounds_bench.outcome import Outcome, comparison, durations, resources
from rounds_bench.play import read_market, write_institution
from rounds_bench.sampler import Process, Sample, between, cpu_by_role, role_of
from rounds_bench.sockets import Counters, listening, parse

from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.ledger import Ledger, Report, Settlement
from ipfl_flower.market import Rules, Terms, clear
from ipfl_flower.trainer import FitRequest, Institution, Trainer

OPEN = (
    "ESTAB 0 0 [::ffff:127.0.0.1]:9092 [::ffff:127.0.0.1]:50000 cubic wscale:10,10 rtt:0.1/0.05 "
    "bytes_sent:1000 bytes_acked:900 bytes_received:5000 segs_out:42 segs_in:101"
)


def end(peer, moved, port=9092):
    return parse(f"ESTAB 0 0 127.0.0.1:{port} 127.0.0.1:{peer} cubic bytes_received:{moved} x")


@pytest.fixture
def counters():
    return Counters({9092: "fleet", 8000: "operator"})


def test_a_connection_has_both_directions_of_what_was_acknowledged():
    connection = parse(OPEN)
    assert connection.port == 9092
    assert connection.moved == 5900


@pytest.mark.parametrize(
    "line",
    [
        "",
        "UNCONN 0 0 127.0.0.1:40031 0.0.0.0:* rto:1000 mss:536",
        "Netid State Recv-Q Send-Q Local Address:Port",
    ],
)
def test_lines_of_no_connection_are_left_out(line):
    assert parse(line) is None


def test_a_connection_that_has_moved_nothing_counts_nothing():
    assert parse("ESTAB 0 0 127.0.0.1:1 127.0.0.1:2 cubic rto:200").moved == 0


def test_links_add_up_over_connections_and_only_named_ports_count(counters):
    for connection in (end(1, 10), end(2, 20), end(3, 5, port=8000), end(4, 99, port=5432)):
        counters.take(connection)
    counters.close(end(5, 99, port=5432))
    assert counters.by_link() == {"fleet": 30, "operator": 5}


def test_a_connection_that_closes_counts_once_and_its_ports_can_be_used_again(counters):
    counters.begin()
    counters.take(end(1, 10))
    counters.begin()
    counters.close(end(1, 12))
    counters.take(end(1, 11))  # the look had begun before it closed
    assert counters.by_link()["fleet"] == 12
    counters.begin()
    counters.take(end(1, 3))
    assert counters.by_link()["fleet"] == 15


def test_a_connection_between_two_looks_counts(counters):
    counters.begin()
    counters.close(end(1, 12))
    assert counters.by_link() == {"fleet": 12, "operator": 0}


@pytest.mark.parametrize(
    ("command", "role"),
    [
        (["/venv/bin/python3", "/venv/bin/flower-supernode", "--port", "1"], "supernode"),
        (["/venv/bin/flwr-clientapp", "--token", "x"], "clientapp"),
        (["python", "-P", "/venv/ipfl_flower/door/clientapp.py"], "clientapp"),
        (["python", "-P", "-m", "ipfl_flower.door.executor", "--secret", "s"], "superexec"),
        (["python", "-m", "ipfl_flower.trainer.serve", "a.toml"], "trainer"),
        (["python", "-P", "-m", "ipfl_flower.cli.server_executor", "--secret", "s"], "superexec"),
        (["python", "-P", "-m", "ipfl_flower.cli.server_superlink", "--port", "1"], "superlink"),
        (["ss", "-E"], None),
        (["cat", "a", "flower-supernode"], None),
        ([], None),
    ],
)
def test_roles_by_command_line(command, role):
    assert role_of(command) == role


def test_who_listens_where():
    superlink = ["flower-superlink", "--fleet-api-address", "127.0.0.1:9092", "--port", "8000"]
    assert listening("superlink", superlink) == {9092: "fleet", 8000: "operator"}
    assert listening("supernode", ["flower-supernode", "--port", "9094"]) == {9094: "node"}
    assert listening("superexec", ["flower-superexec", "--port", "1"]) == {}


def test_apps_that_have_ended_count_where_they_belong_and_not_for_their_executor():
    processes = [
        Process("superexec", "clientapp", 1.0, 20.0, 0),
        Process("superexec", "serverapp", 2.0, 30.0, 0),
        Process("clientapp", None, 3.0, 0.0, 0),
        Process("supernode", None, 4.0, 100.0, 0),  # its executor, which counts itself
    ]
    assert cpu_by_role(processes) == {
        "superexec": 3.0,
        "clientapp": 23.0,
        "serverapp": 30.0,
        "supernode": 4.0,
    }


def test_what_grew_between_two_times_is_interpolated():
    samples = [
        Sample(10.0, {"superlink": 1.0}, {"fleet": 0}),
        Sample(12.0, {"superlink": 2.0}, {"fleet": 100}),
        Sample(14.0, {"superlink": 6.0, "clientapp": 4.0}, {"fleet": 500}),
    ]
    cpu_s, moved = between(samples, 11.0, 13.0)
    assert cpu_s == {"superlink": 2.5, "clientapp": 2.0}
    assert moved == {"fleet": 250.0}


def test_the_first_round_is_left_out():
    assert durations([10.0, 13.0, 15.0]) == (3.0, 2.0)


def outcome(system, seconds, fit=()):
    return Outcome(
        Case(system, 2, 100.0), seconds, fit, {"superlink": 1.5}, {"fleet": 4e8}, {"trainer": 7}, ()
    )


def test_the_table_has_medians_and_ratios_and_a_dash_for_what_is_missing():
    outcomes = [outcome("fedavg", (8.0, 9.0, 100.0), (0.5,)), outcome("market", (3.0, 2.0, 4.0))]
    *_, line = comparison(outcomes)
    seconds, ratios, fits = (part.split() for part in line.split("|"))
    assert seconds == ["2", "100", "9.00", "3.00", "–"]
    assert ratios == ["3.00", "(≥2)", "–", "(≤1.1)"]
    assert fits == ["0.50", "–"]


def test_both_tables_have_their_columns_under_their_headings():
    outcomes = [outcome(system, (3.0,)) for system in ("fedavg", "market", "transport")]
    for table in (comparison(outcomes), resources(outcomes)):
        bars = [[k for k, letter in enumerate(line) if letter == "|"] for line in table]
        assert bars[0]
        assert bars.count(bars[0]) == len(bars)
    assert "400.0" in resources(outcomes)[-1]


def test_every_system_is_measured_at_every_size():
    assert len(cases(("fedavg", "market"), (2, 6), (1.0, 100.0))) == 8


def test_a_case_that_does_not_fit_says_what_it_lacks():
    case = Case("fedavg", 10, 500.0)
    assert unfit(case, memory_mb=1e6, disk_mb=1e6) is None
    assert "of memory" in unfit(case, memory_mb=case.memory_mb - 1, disk_mb=1e6)
    assert "of disk" in unfit(case, memory_mb=1e6, disk_mb=case.disk_mb - 1)
    assert case.memory_mb > Case("transport", 10, 500.0).memory_mb


@pytest.mark.parametrize("megabytes", [0.1, 1, 100, 500])
def test_the_model_is_as_large_as_asked(megabytes):
    count = sum(int(np.prod(shape)) for shape in bench_model.shapes(megabytes).values())
    assert count * 4 == megabytes * 1e6


def test_a_stamp_makes_another_model_of_each_chunk():
    values, chunk = bench_model.arrays(8), 5 * bench_model.MB // 4
    before = {name: value.copy() for name, value in values.items()}
    bench_model.stamp(values, 1.0, 2.0)
    for name, value in values.items():
        changed = (value != before[name]).reshape(-1)
        assert all(changed[k : k + chunk].any() for k in range(0, changed.size, chunk))


def test_quick_is_two_small_sizes_and_single_values_can_be_given():
    quick = arguments(["--quick"])
    assert (tuple(quick.institutions), tuple(quick.mb), quick.rounds) == ((2,), (1, 100), 3)
    given = arguments(["--institutions", "6", "--mb", "1", "500"])
    assert (given.institutions, given.mb) == ([6], [1, 500])
    with pytest.raises(SystemExit):
        arguments(["--institutions", "1"])


def settled(folder, rounds, distances):
    """Give the ledger of a market in which three institutions trade at `distances`."""
    ledger = Ledger.open(str(folder / "ledger.db"))
    ledger.begin({"bench": "rounds"})
    for i in range(3):
        ledger.enrol(f"institution-{i}", bytes([i]))
    terms, active, rules = (Terms(100, 0.01, 4e4),) * 3, np.ones(3, bool), Rules()
    digests = ("a", "b", "c")
    metrics = tuple({"fit_seconds": seconds} for seconds in (0.5, 1.0, 1.5))
    for number in range(rounds):
        ledger.open_round(number, range(3), 30.0, 3)
        if number:
            ledger.deliver(number - 1)
        ledger.collect(number)
        for i in range(3):
            ledger.report(Report(number, i, terms[i], digests[i], False, metrics[i]))
        clearing = clear(terms, distances, rules, active)
        given = (tuple(range(3)), terms, distances, active, rules, clearing, digests, metrics)
        ledger.commit(Settlement(number, *given))
    return ledger


def test_a_market_is_read_from_its_ledger(tmp_path):
    with settled(tmp_path, 3, 0.1 * (1 - np.eye(3))) as ledger:
        found = read_market(ledger, tmp_path)
    assert found.ends == sorted(found.ends)
    assert (found.fit_s, found.replies) == ([1.0] * 3, [3] * 3)


def test_a_market_in_which_somebody_buys_nothing_is_no_measurement(tmp_path):
    lonely = np.array([[0.0, 0.1, 1e9], [0.1, 0.0, 1e9], [1e9, 1e9, 0.0]])
    with (
        settled(tmp_path, 1, lonely) as ledger,
        pytest.raises(LaunchError, match="round 0: 2 of 3 institutions bought"),
    ):
        read_market(ledger, tmp_path)


def test_training_changes_the_whole_model_in_every_round(tmp_path):
    file = write_institution(Case("market", 2, 0.1), 1, tmp_path / "one")
    trainer, arrays = Trainer(Institution.load(file)), bench_model.arrays(0.1)
    for number in range(3):
        reply = trainer.fit(FitRequest(round=number, initial=bench_model.arrays(0.1)))
        assert all((reply.arrays[name] != values).all() for name, values in arrays.items())
        arrays = {name: values.copy() for name, values in reply.arrays.items()}
