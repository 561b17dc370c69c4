"""A version has any number of inputs, each a feature service, and versions it was trained behind.

Until now a version and a training set named one service. Two towers read two, so a feature of the second tower
reached no model. Both now name as many as there are, in rows of their own.

SQLite cannot drop a column that is part of a foreign key, so there the two tables are written anew, as
https://www.sqlite.org/lang_altertable.html section 7 has it; `registry.database.migrate` switches the checking of
foreign keys off for that long and checks them all before it commits.

Revision: 0004, after 0003.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.sql.schema import SchemaItem
from sqlalchemy.types import TypeEngine

from registry.columns import Instant
from registry.migrations.refusals import complete, leaves_only_with, refusals
from registry.migrations.steps import lift, put_in_force, take_the_place
from registry.migrations.triggers import Refusal

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# A row that hangs on another: (table, its key, the other table, its key, how many the other has in all)
PARTS = (
    ("training_set_service", "training_set_digest", "training_set", "digest", "service_count"),
    ("version_input", "version_id", "model_version", "id", "input_count"),
    ("version_upstream", "version_id", "model_version", "id", "upstream_count"),
)
REFUSALS = (
    *(Refusal(part[0], "UPDATE", f"matinee: rows of {part[0]} do not change") for part in PARTS),
    *(leaves_only_with(*part[:4]) for part in PARTS),
    *(complete(*part) for part in PARTS),
)
CHANGED = ("training_set", "model_version")
SERVED = "CASE WHEN service_digest IS NULL THEN 0 ELSE 1 END"
FIRST_OF = {
    "training_set": "(SELECT service_digest FROM training_set_service s WHERE s.training_set_digest = digest AND s.position = 0)",
    "model_version": "(SELECT service_digest FROM version_input i WHERE i.version_id = id AND i.position = 0)",
}


def upgrade() -> None:
    """Create the three tables, move the services over, and let the two columns go."""
    lift(_of_0001())
    _create_parts()
    op.execute(
        "INSERT INTO training_set_service SELECT digest, 0, service_digest FROM training_set WHERE service_digest IS NOT NULL"
    )
    op.execute(
        "INSERT INTO version_input (version_id, position, name, dtype, service_digest) "
        "SELECT id, 0, 'features', 'float32', service_digest FROM model_version WHERE service_digest IS NOT NULL"
    )
    counts = {
        "training_set": {"service_count": SERVED},
        "model_version": {"input_count": SERVED, "upstream_count": "0"},
    }
    for table in CHANGED:
        _with_columns(table, add=counts[table], leave=("service_digest",))
    put_in_force((*_of_0001(), *REFUSALS))


def downgrade() -> None:
    """Keep the first service of each, which is all that there is room for."""
    lift((*REFUSALS, *_of_0001()))
    counts = {"training_set": ("service_count",), "model_version": ("input_count", "upstream_count")}
    for table in CHANGED:
        _with_columns(table, add={"service_digest": FIRST_OF[table]}, leave=counts[table])
        op.create_index(f"ix_{table}_service_digest", table, ["service_digest"])
    for part, *_ in reversed(PARTS):
        op.drop_table(part)
    put_in_force(_of_0001())


def _of_0001() -> tuple[Refusal, ...]:
    return tuple(refusal for refusal in refusals() if refusal.table in CHANGED)


def _create_parts() -> None:
    op.create_table(
        "training_set_service",
        sa.Column("training_set_digest", TEXT, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("service_digest", TEXT, nullable=False),
        _refers("training_set_service", "training_set_digest", "training_set.digest", cascade=True),
        _refers("training_set_service", "service_digest", "feature_service.digest"),
        sa.PrimaryKeyConstraint("training_set_digest", "position", name="pk_training_set_service"),
    )
    op.create_table(
        "version_input",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        *(sa.Column(name, TEXT, nullable=False) for name in ("name", "dtype", "service_digest")),
        _refers("version_input", "version_id", "model_version.id", cascade=True),
        _refers("version_input", "service_digest", "feature_service.digest"),
        sa.PrimaryKeyConstraint("version_id", "position", name="pk_version_input"),
        sa.UniqueConstraint("version_id", "name", name="uq_version_input_version_id_name"),
    )
    op.create_table(
        "version_upstream",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("role", TEXT, nullable=False),
        sa.Column("upstream_id", sa.Integer(), nullable=False),
        _refers("version_upstream", "version_id", "model_version.id", cascade=True),
        _refers("version_upstream", "upstream_id", "model_version.id"),
        sa.PrimaryKeyConstraint("version_id", "role", name="pk_version_upstream"),
    )
    for table, column in (
        ("training_set_service", "service_digest"),
        ("version_input", "service_digest"),
        ("version_upstream", "upstream_id"),
    ):
        op.create_index(f"ix_{table}_{column}", table, [column])


def _refers(table: str, column: str, to: str, *, cascade: bool = False) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [to], f"fk_{table}_{column}", ondelete="CASCADE" if cascade else None
    )


def _with_columns(table: str, *, add: dict[str, str], leave: tuple[str, ...]) -> None:
    """Change the columns of a table; each new one is filled with the value of an SQL expression over its row."""
    if op.get_bind().dialect.name == "sqlite":
        _written_anew(table, add)
        return
    for name, expression in add.items():
        op.add_column(table, sa.Column(name, _NEW[name], nullable=True))
        op.execute(f"UPDATE {table} SET {name} = {expression}")
        if name.endswith("_count"):
            op.alter_column(table, name, nullable=False)
        else:
            op.create_foreign_key(f"fk_{table}_{name}", table, "feature_service", [name], ["digest"])
    for name in leave:
        op.drop_column(table, name)


def _written_anew(table: str, add: dict[str, str]) -> None:
    more = [sa.Column(name, _NEW[name], nullable=name == "service_digest") for name in add]
    items, indexed = _TABLES[table](*more)
    if "service_digest" in add:
        items = [*items, _refers(table, "service_digest", "feature_service.digest")]
    made = op.create_table(f"{table}_anew", *items)
    columns = [column.name for column in made.columns]
    values = [add.get(name, name) for name in columns]
    op.execute(f"INSERT INTO {table}_anew ({', '.join(columns)}) SELECT {', '.join(values)} FROM {table}")
    take_the_place(table, indexed)


_NEW: dict[str, TypeEngine[Any]] = {
    **dict.fromkeys(("service_count", "input_count", "upstream_count"), sa.Integer()),
    "service_digest": TEXT,
}


def _training_set(*more: SchemaItem) -> tuple[list[SchemaItem], tuple[str, ...]]:
    return [
        *(sa.Column(name, TEXT, nullable=False) for name in ("digest", "source")),
        *(sa.Column(name, Instant(), nullable=False) for name in ("interval_start", "interval_end")),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("as_of", Instant(), nullable=True),
        sa.Column("generation", TEXT, nullable=True),
        sa.Column("event_digests", sa.JSON(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        *more,
        sa.CheckConstraint("interval_start < interval_end", name=op.f("ck_training_set_interval")),
        sa.PrimaryKeyConstraint("digest", name="pk_training_set"),
    ], ()


def _model_version(*more: SchemaItem) -> tuple[list[SchemaItem], tuple[str, ...]]:
    return [
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        *(sa.Column(name, TEXT, nullable=False) for name in ("created_by", "source")),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=True),
        sa.Column("signature", sa.JSON(), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("file_count", "parameter_count")),
        sa.Column("training_set_digest", TEXT, nullable=True),
        *more,
        sa.CheckConstraint("number >= 1", name=op.f("ck_model_version_number")),
        _refers("model_version", "model_id", "registered_model.id"),
        _refers("model_version", "training_set_digest", "training_set.digest"),
        sa.PrimaryKeyConstraint("id", name="pk_model_version"),
        sa.UniqueConstraint("model_id", "digest", name="uq_model_version_model_id_digest"),
        sa.UniqueConstraint("model_id", "number", name="uq_model_version_model_id_number"),
    ], ("created_at", "training_set_digest")


_TABLES: dict[str, Any] = {"training_set": _training_set, "model_version": _model_version}
