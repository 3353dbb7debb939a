"""Upgrade a metadata database to the newest schema: `python -m oneagent.csi_driver.metadata.migrate FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from oneagent.csi_driver.linux import stop_signals


def upgrade(path: Path, revision: str = "head") -> None:
    """Run the outstanding migrations, all in one transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    # No implicit transactions: sqlite3 would commit before each change of the schema.
    engine = create_engine(f"sqlite:///{path}", connect_args={"isolation_level": None})
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.exec_driver_sql("COMMIT")
    engine.dispose()


if __name__ == "__main__":
    stop_signals.unblock()
    upgrade(Path(sys.argv[1]))
