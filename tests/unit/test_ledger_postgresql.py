"""PostgreSQL: what is refused at the door, append-only rows, writers, readers, lost connections."""

import sys

import pytest
import sqlalchemy
from support.ledgers import play

from ipfl_flower.ledger import Ledger, LedgerError, postgresql, tables


@pytest.fixture(scope="module")
def template(postgres):
    """Give the name of a database with a small market that nobody is connected to."""
    name = postgres.new_database()
    with Ledger.open(postgres.url(name)) as ledger:
        play(ledger)
        ledger.acknowledge(2, 0, {"loss": 0.5})
        ledger.log_event("started", "a test")
        ledger.admit(0)
        assert ledger.verify() == []
    return name


@pytest.fixture
def database(postgres, template):
    """Give the name of a copy of it."""
    name = postgres.new_database(template)
    yield name
    postgres.drop(name)


@pytest.fixture
def url(postgres, database):
    return postgres.url(database)


# --- opening --------------------------------------------------------------------------------------


def test_either_spelling_of_the_url_opens_it_and_its_options_count(url):
    for spelled in (url, url.replace("+psycopg", ""), f"{url}?application_name=mine"):
        with Ledger.open(spelled, create=False) as ledger, ledger._read() as connection:
            name = connection.exec_driver_sql("SHOW application_name").scalar()
        assert (name == "mine") is spelled.endswith("mine")


def refusal(url, **arguments):
    with pytest.raises(LedgerError) as caught:
        Ledger.open(url, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert "tell-nobody" not in message
    assert "guessed" not in message
    return message


def test_what_cannot_be_reached_is_named_with_the_fix(postgres, url):
    assert "the server does not accept the user or password: check both" in refusal(
        url.replace("tell-nobody", "guessed")
    )
    assert "does not accept the user" in refusal(postgres.url("postgres", user="nobody"))
    assert "/absent: there is no such database: create it" in refusal(postgres.url("absent"))
    assert "no server answers there: start it" in refusal(url.replace(str(postgres.port), "1"))
    assert "there is no such host" in refusal(url.replace("127.0.0.1", "nowhere.invalid"))


def test_a_reader_creates_nothing(postgres):
    name = postgres.new_database()
    assert "start a market first, or check the URL" in refusal(postgres.url(name), create=False)
    assert postgres.execute("SELECT 1 FROM pg_tables WHERE schemaname = 'public'", name) == []


def test_another_programs_database_is_left_alone(postgres):
    name = postgres.new_database()
    postgres.execute("CREATE TABLE theirs (id int)", name)
    assert "it is another program's database" in refusal(postgres.url(name))


def test_a_role_that_may_not_create_tables_is_told(postgres):
    name = postgres.new_database()
    postgres.execute("DROP ROLE IF EXISTS guest")
    postgres.execute("CREATE ROLE guest LOGIN PASSWORD 'guessed'")
    message = refusal(postgres.url(name, user="guest", password="guessed"))
    assert "the role may not do that (permission denied for schema public)" in message
    assert "make it the owner of the database" in message


def test_an_encoding_that_cannot_hold_every_name_is_refused(postgres):
    postgres.execute("DROP DATABASE IF EXISTS latin")
    postgres.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    assert "the database's encoding is LATIN1" in refusal(postgres.url("latin"))


def test_another_schema_version_is_refused(postgres, database, url):
    postgres.execute("UPDATE alembic_version SET version_num = 'ipfl9999'", database)
    assert "its schema is ipfl9999, this program knows ipfl0003 and older" in refusal(url)


def test_a_missing_driver_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    message = refusal("postgresql+psycopg://u:tell-nobody@host/db")
    assert message.endswith("the PostgreSQL driver is missing: pip install 'ipfl-flower[postgres]'")


def test_two_that_create_at_once_make_one_ledger(postgres, monkeypatch):
    url = postgres.url(postgres.new_database())
    read, raced = postgresql.schema.read_version, []

    def race(connection, name):
        version = read(connection, name)
        if not raced:
            raced.append(name)
            with Ledger.open(url) as other:
                other.begin({"first": True})
        return version

    monkeypatch.setattr(postgresql.schema, "read_version", race)
    with Ledger.open(url) as ledger:
        assert ledger.settings == {"first": True}


def test_commits_wait_for_the_disk_whatever_the_servers_default(postgres, database, url):
    postgres.execute(f"ALTER DATABASE {database} SET synchronous_commit = off")
    with Ledger.open(url) as ledger, ledger._write() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


# --- append-only ----------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [t.name for t in tables.APPEND_ONLY])
def test_rows_cannot_be_changed_or_deleted(postgres, template, table):
    column = tables.METADATA.tables[table].columns.keys()[-1]
    key = ", ".join(tables.METADATA.tables[table].primary_key.columns.keys())
    for statement, verb in (
        (f"UPDATE {table} SET {column} = {column}", "changed"),
        (f"DELETE FROM {table}", "deleted"),
        (f"TRUNCATE {table} CASCADE", "deleted"),
        (
            f"INSERT INTO {table} TABLE {table} ON CONFLICT ({key}) DO UPDATE SET {column} = NULL",
            "changed",
        ),
        (f"SET session_replication_role = replica; UPDATE {table} SET {column} = NULL", "changed"),
    ):
        with pytest.raises(Exception, match=f"append-only: a row of \\w+ cannot be {verb}"):
            postgres.execute(statement, template)


# --- verification ---------------------------------------------------------------------------------


def problems(postgres, database, sql):
    """Run `sql` with every trigger and foreign key out of the way, and verify."""
    names = [table.name for table in tables.APPEND_ONLY]
    off = ";".join(f"ALTER TABLE {name} DISABLE TRIGGER ALL" for name in names)
    on = ";".join(
        f"ALTER TABLE {name} ENABLE TRIGGER ALL;"
        + ";".join(
            f"ALTER TABLE {name} ENABLE ALWAYS TRIGGER {name}_no_{verb}"
            for verb in ("update", "delete", "truncate")
        )
        for name in names
    )
    postgres.execute(f"{off}; {sql}; {on}", database)
    with Ledger.open(postgres.url(database), create=False) as ledger:
        return [str(problem) for problem in ledger.verify()]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("UPDATE entries SET amount_micro = amount_micro + 1 WHERE id = 0", "rows of entries"),
        ("UPDATE reports SET budget = 'NaN' WHERE institution = 1", "rows of reports"),
        ("UPDATE outcomes SET gain = 'Infinity'", "gains are not finite"),
        ("UPDATE settlements SET distances = '\\x00'", "settlements cannot be read"),
        ("UPDATE institutions SET public_key = 'x' WHERE id = 1", "rows of institutions"),
        ("UPDATE market SET settings = '{}'", "settings do not fit their digest"),
        ("DELETE FROM refusals", "rows of refusals"),
        ("DELETE FROM chain WHERE round = 0", "does not follow the head before it"),
        ("DELETE FROM rounds WHERE number = 1", "2 rows of transitions refer to rows of rounds"),
        ("ALTER TABLE entries DROP CONSTRAINT entries_check", "has 3 check constraints, not 4"),
        ("ALTER TABLE chain RENAME COLUMN head TO crown", "cannot be read"),
    ],
)
def test_what_is_changed_behind_its_back_is_found(postgres, database, sql, words):
    found = problems(postgres, database, sql)
    assert any(words in problem for problem in found), found


def test_changing_nothing_is_no_problem(postgres, database):
    assert problems(postgres, database, "SELECT 1") == []


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("DROP TRIGGER entries_no_truncate ON entries", "entries_no_truncate"),
        ("ALTER TABLE entries DISABLE TRIGGER entries_no_update", "entries_no_update"),
        ("ALTER TABLE entries ENABLE TRIGGER entries_no_delete", "entries_no_delete"),
        (
            """
            CREATE OR REPLACE FUNCTION entries_append_only() RETURNS trigger LANGUAGE plpgsql
            AS 'BEGIN RETURN NEW; END'
            """,
            "entries_no_update",
        ),
    ],
)
def test_a_guard_that_is_down_is_named(postgres, database, url, sql, named):
    postgres.execute(sql, database)
    with Ledger.open(url, create=False) as ledger:
        found = [problem.what for problem in ledger.verify()]
    assert f"the trigger {named}, which keeps the table append-only, is missing" in found


# --- several at once ------------------------------------------------------------------------------


@pytest.mark.parametrize("serve", [False, True])
def test_a_reader_keeps_its_snapshot_and_cannot_write(url, serve):
    count = tables.institutions.select()
    with Ledger.open(url, serve=serve) as writer, Ledger.open(url, create=False) as reader:
        with reader._read() as snapshot:
            assert len(snapshot.execute(count).all()) == 3
            writer.enrol("delta", b"delta")
            assert len(snapshot.execute(count).all()) == 3
        assert len(reader.institutions()) == 4
        with pytest.raises(LedgerError, match="it cannot be written"), reader._read() as snapshot:
            snapshot.execute(tables.events.insert(), {"id": 9, "kind": "", "text": "", "at": 0.0})


def test_a_second_writer_waits_and_then_says_who_is_in_the_way(url, monkeypatch):
    monkeypatch.setattr(postgresql, "LOCK_TIMEOUT_MS", 1)
    for serve in (False, True):
        with Ledger.open(url, serve=serve) as first, Ledger.open(url, create=False) as second:
            with (
                first._write(),
                pytest.raises(LedgerError, match="another process has been writing to it for"),
            ):
                second.enrol("delta", b"delta")
            assert second.enrol("delta", b"delta") == 3


def test_a_reader_comes_back_after_its_connection_was_cut(postgres, database, url):
    with Ledger.open(url, create=False) as ledger:
        cut(postgres, database)
        assert len(ledger.institutions()) == 3


def cut(postgres, database):
    postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
    )


def test_a_server_that_lost_its_connection_lost_its_lock_and_writes_no_more(
    postgres, database, url
):
    with Ledger.open(url, serve=True) as first:
        cut(postgres, database)
        with Ledger.open(url, serve=True) as second:
            for _ in range(2):
                with pytest.raises(LedgerError, match="the connection to the server was lost"):
                    first.enrol("delta", b"delta")
            assert second.enrol("delta", b"delta") == 3
            assert len(first.institutions()) == 4


def test_a_failed_write_leaves_the_server_able_to_write(url):
    with Ledger.open(url, serve=True) as ledger:
        with pytest.raises(LedgerError, match="append-only"), ledger._write() as connection:
            connection.execute(tables.events.delete())
        with pytest.raises(LedgerError, match="no institution is enrolled as 9"):
            ledger.acknowledge(0, 9, {})
        assert ledger.enrol("delta", b"delta") == 3


@pytest.mark.parametrize(
    ("state", "words"),
    [("53100", "the disk is full"), ("XX001", "restore a backup"), ("99999", "^ledger .*: odd$")],
)
def test_errors_of_the_server_are_one_line(monkeypatch, state, words):
    database = postgresql.PostgreSQL(sqlalchemy.make_url("postgresql://u:tell-nobody@host/db"))
    origin = type("Odd", (Exception,), {"sqlstate": state})("odd\nDETAIL: more")
    with pytest.raises(LedgerError, match=words) as caught, database.explained():
        raise sqlalchemy.exc.DBAPIError("SELECT 1", {}, origin)
    assert "tell-nobody" not in str(caught.value)
    database.close()
