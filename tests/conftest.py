"""Rules for the whole test suite."""

import os

import pytest
from flwr.supercore.task_identity import TaskIdentity

# A process that makes messages is one of a run's tasks; Flower says so to its own, we to our tests.
TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Where everything is installed (CI), a skipped test is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("IPFL_NO_SKIPS") and skipped and exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{len(skipped)} skipped, IPFL_NO_SKIPS allows none", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def postgres():
    """Give a running PostgreSQL server."""
    pytest.importorskip("psycopg", reason="no driver: pip install 'ipfl-flower[postgres]'")
    from support.postgres import find_binaries, running  # noqa: PLC0415  # needs the driver

    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    with running(binaries) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """Give the address of a ledger that is not there yet, once on each database."""
    if request.param == "sqlite":
        yield str(tmp_path / "ledger.db")
        return
    server = request.getfixturevalue("postgres")
    database = server.new_database()
    yield server.url(database)
    server.drop(database)
