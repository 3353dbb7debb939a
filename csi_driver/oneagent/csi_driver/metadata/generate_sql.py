"""Compiles the statements of the running processes from the typed models, into `statements.py`.

    python -m oneagent.csi_driver.metadata.generate_sql        writes the file again

Why ahead of time: SQLAlchemy costs 22 MiB of resident memory in each process on each node, and its statement
cache alone costs more on the publish path than SQLite's commit. So models, migrations and this module use it, and
what runs on the node uses their result. A test fails if `statements.py` is not what this module writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.schema import CreateIndex, CreateTable

from oneagent.csi_driver.metadata.models import Base, CursorRow, DynaKubeRow, NoticeRow, VersionRow, VolumeRow

_DIALECT: Final = sqlite.dialect(paramstyle="named")
_WIDTH: Final = 120
_HEAD: Final = '''"""The SQL of running processes. Written by `metadata.generate_sql` from the typed models; not by hand."""

from typing import Final
'''


def _upsert(model: type[Base]) -> Any:
    table: Any = model.__table__
    statement = upsert(table).values({column.name: bindparam(column.name) for column in table.columns})
    keys = [column.name for column in table.primary_key]
    return statement.on_conflict_do_update(
        index_elements=keys,
        set_={column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys},
    )


def _insert(model: type[Base], *leave_out: str) -> Any:
    table: Any = model.__table__
    names = [column.name for column in table.columns if column.name not in leave_out]
    return insert(table).values({name: bindparam(name) for name in names})


def statements() -> dict[str, Any]:
    """Every statement by the name of its constant."""
    return {
        "SELECT_VOLUMES": select(VolumeRow.__table__),
        "PUT_VOLUME": _upsert(VolumeRow),
        "DROP_VOLUMES": delete(VolumeRow),
        "DROP_VOLUME": delete(VolumeRow).where(VolumeRow.id == bindparam("volume")),
        "ADD_NOTICE": _insert(NoticeRow, "id"),
        "DROP_OLD_NOTICES": delete(NoticeRow).where(NoticeRow.at < bindparam("before")),
        "SELECT_NOTICES_AFTER": select(NoticeRow.__table__)
        .where(NoticeRow.id > bindparam("after"))
        .order_by(NoticeRow.id),
        "SELECT_DYNAKUBES": select(DynaKubeRow.__table__),
        "ADD_DYNAKUBE": _insert(DynaKubeRow),
        "DROP_DYNAKUBES": delete(DynaKubeRow),
        "SELECT_VERSIONS": select(VersionRow.__table__),
        "PUT_VERSION": _upsert(VersionRow),
        "DROP_VERSION": delete(VersionRow).where(VersionRow.version == bindparam("gone")),
        "SELECT_CURSOR": select(CursorRow.notice_id).where(CursorRow.reader == bindparam("name")),
        "PUT_CURSOR": _upsert(CursorRow),
    }


def _text(statement: Any) -> str:
    return " ".join(str(statement.compile(dialect=_DIALECT)).split())


def schema() -> list[str]:
    """The statements that make an empty database, in order."""
    made = []
    for table in Base.metadata.sorted_tables:
        made.append(_text(CreateTable(table)))
        made += [_text(CreateIndex(index)) for index in sorted(table.indexes, key=lambda index: str(index.name))]
    return made


def _literal(text: str, indent: str) -> str:
    """A string literal in lines that fit, as `ruff format` leaves it."""
    if len(one := f'{indent}"{text}"') <= _WIDTH:
        return one
    lines, line = [], ""
    for word in text.split(" "):
        if len(line) + len(word) > 90:
            lines.append(line)
            line = ""
        line += f"{word} "
    lines.append(line.rstrip())
    return "\n".join(f'{indent}"{part}"' for part in lines)


def render() -> str:
    """The whole of `statements.py`."""
    text = _HEAD
    for name, statement in statements().items():
        sql = _text(statement)
        text += "\n" + _fitting(f'{name}: Final = "{sql}"', f"{name}: Final = (\n{_literal(sql, '    ')}\n)")
    text += "\nSCHEMA: Final = (\n"
    for sql in schema():
        text += _fitting(f'    ("{sql}"),', f"    (\n{_literal(sql, '        ')}\n    ),")
    return text + ")\n"


def _fitting(line: str, lines: str) -> str:
    return (line if len(line) <= _WIDTH else lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("statements.py").write_text(render())
