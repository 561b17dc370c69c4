"""What revision 0001 forbids, whoever writes to the ledger. A later revision brings a list of its own."""

from __future__ import annotations

from registry.migrations.triggers import Refusal

UNCHANGING = (
    "feature", "feature_service", "feature_service_member", "training_set", "model_version", "artifact",
    "version_file", "metric", "parameter", "alias_history", "gate_report", "bento", "bento_version",
    "experiment_state", "arm", "binding", "readout",
)  # fmt: skip
UNDYING = (
    "registered_model", "alias_history", "gate_report", "experiment", "experiment_state", "arm", "binding", "readout",
)  # fmt: skip
# A row that hangs on another: (table, its key, the other table, its key, how many the other has in all)
PARTS = (
    ("feature_service_member", "service_digest", "feature_service", "digest", "feature_count"),
    ("version_file", "version_id", "model_version", "id", "file_count"),
    ("parameter", "version_id", "model_version", "id", "parameter_count"),
    ("metric", "version_id", "model_version", "id", None),
    ("bento_version", "bento_id", "bento", "id", "version_count"),
)


def refusals() -> tuple[Refusal, ...]:
    """What no one may do to the ledger, whoever writes."""
    return (
        *(Refusal(table, "UPDATE", f"matinee: rows of {table} do not change") for table in UNCHANGING),
        *(Refusal(table, "DELETE", f"matinee: rows of {table} stay") for table in UNDYING),
        *(leaves_only_with(*part[:4]) for part in PARTS),
        *(complete(part, key, whole, other, count) for part, key, whole, other, count in PARTS if count),
        Refusal(
            "registered_model",
            "UPDATE",
            "matinee: a version counter does not go back",
            "NEW.id <> OLD.id OR NEW.next_version < OLD.next_version",
        ),
        Refusal(
            "model_version",
            "INSERT",
            "matinee: a version number comes from the counter of its model",
            "NEW.number <> (SELECT next_version - 1 FROM registered_model WHERE id = NEW.model_id)",
        ),
        Refusal(
            "experiment",
            "UPDATE OF id, name, layer, config, digest, created_at",
            "matinee: of an experiment only the state changes",
        ),
        Refusal(
            "arm",
            "INSERT",
            "matinee: arms are declared while the experiment is a draft",
            "(SELECT state FROM experiment WHERE id = NEW.experiment_id) <> 'draft'",
        ),
        Refusal(
            "binding",
            "INSERT",
            "matinee: arms are bound when the experiment starts, once",
            "(SELECT e.state FROM experiment e JOIN arm a ON a.experiment_id = e.id WHERE a.id = NEW.arm_id) <> 'draft'",
        ),
    )


def not_emptied_at_once(table: str) -> Refusal:
    """Refuse TRUNCATE, for which PostgreSQL fires no trigger on rows."""
    return Refusal(table, "TRUNCATE", f"matinee: {table} is not emptied at once", only="postgresql")


def needs_pragma(pragma: str, event: str, table: str) -> Refusal:
    """Refuse `event` on SQLite connections that do not enforce what ours do."""
    message = f"matinee: say PRAGMA {pragma} = ON before writing to {table}"
    return Refusal(
        table, event, message, f"(SELECT {pragma} FROM pragma_{pragma}) = 0", only="sqlite", verb="guard"
    )


def leaves_only_with(part: str, key: str, whole: str, other: str) -> Refusal:
    """Refuse to delete a row of `part` while the row of `whole` it hangs on is there."""
    condition = f"EXISTS (SELECT 1 FROM {whole} WHERE {other} = OLD.{key})"
    return Refusal(part, "DELETE", f"matinee: rows of {part} leave only with their {whole}", condition)


def complete(part: str, key: str, whole: str, other: str, count: str) -> Refusal:
    """Refuse another row of `part` once there are as many as column `count` of the row it hangs on says."""
    condition = (
        f"(SELECT count(*) FROM {part} WHERE {key} = NEW.{key}) >= "
        f"(SELECT {count} FROM {whole} WHERE {other} = NEW.{key})"
    )
    return Refusal(part, "INSERT", f"matinee: the {whole} is complete", condition)
