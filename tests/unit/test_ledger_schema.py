"""The tables and the migrations to them: both ways end in the same schema, on both databases."""

import shutil

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from support.ledgers import play
from typer.testing import CliRunner

from ipfl_flower.cli.main import cli
from ipfl_flower.ledger import Ledger, LedgerError, schema, tables, upgrade
from ipfl_flower.ledger.addresses import find_database
from ipfl_flower.ledger.copying import insert_rows

NEXT = """
from alembic import op
revision, down_revision = "ipfl0004", "ipfl0003"
def upgrade():
    op.execute("CREATE TABLE later (id INTEGER PRIMARY KEY)")
    op.execute("INSERT INTO later VALUES (1)")
"""

DESCRIBE = {
    "sqlite": "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2",
    "postgresql": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
            FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT table_name, column_name, concat(data_type, is_nullable, ordinal_position)
            FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL SELECT tgrelid::regclass::text, tgname, concat(pg_get_triggerdef(oid), tgenabled)
            FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT proname, '', prosrc FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace
        ORDER BY 1, 2, 3
    """,
}


def describe(connection):
    statement = DESCRIBE[connection.dialect.name]
    return [tuple(row) for row in connection.exec_driver_sql(statement)]


def drop_tables(connection):
    for table in reversed(tables.APPEND_ONLY):
        connection.exec_driver_sql(f"DROP TABLE {table.name}")
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"DROP FUNCTION {table.name}_append_only")
    connection.execute(tables.schema.delete())


def test_the_migrations_lead_to_the_tables_as_they_are(place):
    Ledger.open(place).close()
    database = find_database(place)
    with database.transaction(write=True) as connection:
        created = describe(connection)
        drop_tables(connection)
        schema.upgrade(connection)
        assert describe(connection) == created
        assert schema.read_version(connection, "") == tables.SCHEMA_VERSION
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, tables.METADATA) == []
    database.close()
    with Ledger.open(place, create=False) as ledger:
        assert ledger.verify() == []


@pytest.mark.parametrize(("version", "later"), [("ipfl0001", {"admissions"}), ("ipfl0002", set())])
def test_a_ledger_of_each_older_version_is_upgraded_with_its_rows(place, version, later):
    with Ledger.open(place) as ledger:
        play(ledger)
        head, statement = ledger.head(), ledger.statement("alpha")
    database, config = find_database(place), schema._config()
    with database.transaction(write=True) as connection:
        created = describe(connection)
        rows = {
            table: [dict(row) for row in connection.execute(table.select()).mappings()]
            for table in tables.APPEND_ONLY
            if table.name not in later
        }
        drop_tables(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, version)
        for table, held in rows.items():
            insert_rows(connection, table, held)
        assert describe(connection) != created
        assert schema.read_version(connection, "") == version
    database.close()
    with pytest.raises(LedgerError, match=f"its schema is {version}, .* run: ipfl ledger upgrade"):
        Ledger.open(place)
    assert upgrade(place) == (version, tables.SCHEMA_VERSION)
    with Ledger.open(place, create=False) as ledger:
        assert (ledger.head(), ledger.statement("alpha")) == (head, statement)
        assert ledger.verify() == []
        with ledger._read() as connection:
            assert describe(connection) == created


def test_the_newest_migration_leads_to_this_programs_version():
    assert max(schema._revisions()) == tables.SCHEMA_VERSION


def test_a_ledger_at_this_version_needs_no_upgrade(place):
    Ledger.open(place).close()
    assert upgrade(place) == (tables.SCHEMA_VERSION, tables.SCHEMA_VERSION)
    done = CliRunner().invoke(cli, ["ledger", "upgrade", place])
    assert (done.exit_code, done.output) == (0, f"is at {tables.SCHEMA_VERSION}\n")


@pytest.fixture
def later(tmp_path, monkeypatch):
    """Make this program one that has a migration more; give that migration's file."""
    folder = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions/ipfl0004.py").write_text(NEXT)
    monkeypatch.setattr(schema, "MIGRATIONS", folder)
    return folder / "versions/ipfl0004.py"


def test_an_older_ledger_is_refused_until_it_is_upgraded(place, later, monkeypatch):
    with Ledger.open(place) as ledger:
        play(ledger)
        head = ledger.head()
    monkeypatch.setattr(tables, "SCHEMA_VERSION", "ipfl0004")
    with pytest.raises(LedgerError, match=r"its schema is ipfl0003, .* run: ipfl ledger upgrade"):
        Ledger.open(place)
    done = CliRunner().invoke(cli, ["ledger", "upgrade", place])
    assert (done.exit_code, done.output) == (0, "upgraded from ipfl0003 to ipfl0004\n")
    with Ledger.open(place, create=False) as ledger:
        assert (ledger.head(), ledger.verify()) == (head, [])
        with ledger._read() as connection:
            assert connection.exec_driver_sql("SELECT id FROM later").scalar() == 1


def test_an_upgrade_that_fails_changes_nothing(place, later, monkeypatch):
    Ledger.open(place).close()
    later.write_text(NEXT + '    op.execute("SELECT nonsense FROM later")\n')
    with monkeypatch.context() as patch:
        patch.setattr(tables, "SCHEMA_VERSION", "ipfl0004")
        with pytest.raises(LedgerError, match="nonsense"):
            upgrade(place)
    with Ledger.open(place, create=False) as ledger, ledger._read() as connection:
        assert "later" not in str(describe(connection))


def test_a_newer_ledger_is_left_alone(place):
    Ledger.open(place).close()
    database = find_database(place)
    with database.transaction(write=True) as connection:
        connection.execute(tables.schema.update(), {"version_num": "ipfl9999"})
    database.close()
    with pytest.raises(LedgerError, match="use the version of ipfl-flower that wrote it"):
        upgrade(place)
