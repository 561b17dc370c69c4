"""What training sets beside a version: its figures and the page that shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from matinee.evaluating import popularity_windows
from matinee.evaluation import Evaluation
from matinee.figures import learning_curve, reliability_diagram
from matinee.lineage import inputs_digest, service_record
from matinee.version_page import Told, version_page
from models.data import RankingSet
from models.evaluate import RankingModel
from models.progress import Epoch, Progress
from models.reliability import of_heads

if TYPE_CHECKING:
    from matinee.bench import Bench
    from matinee.training import Fitted

LEARNING, RELIABILITY, PAGE = "learning-curve.svg", "reliability.svg", "report.html"
SHOWN = ("ndcg_at_20", "recall_at_100", "recall_at_200", "loss")
"""Metrics of an epoch that a learning curve shows, of those there are."""


def noting(epochs: list[Epoch], progress: Progress) -> Progress:
    """Tells `progress` of every epoch and keeps it in `epochs`."""

    def tell(epoch: Epoch) -> None:
        epochs.append(epoch)
        progress(epoch)

    return tell


def documented(
    bench: Bench,
    fitted: Fitted,
    epochs: list[Epoch],
    tested: tuple[RankingModel, RankingSet] | None = None,
    evaluation: Evaluation | None = None,
) -> Fitted:
    """A fitted model with its learning curve and its page, and where a ranker was `tested` its reliability.

    Epochs that validation did not judge, of what is learnt anew once their number is known, are not drawn.
    """
    judged = [epoch for epoch in epochs if epoch.metrics]
    known = [name for name in SHOWN if name in judged[-1].metrics]
    figures = {LEARNING: learning_curve(judged, fitted.name, known)}
    if tested and (heads := of_heads(*tested)):
        figures[RELIABILITY] = reliability_diagram(heads, fitted.name, f"{_data(bench)}, test period")
    page = version_page(told(bench, fitted, figures), evaluation)
    return replace(fitted, documents={**figures, PAGE: page})


def told(bench: Bench, fitted: Fitted, figures: Mapping[str, bytes]) -> Told:
    """What there is to tell of a model before it has a number."""
    source, split = bench.desk.source, bench.split
    services = {
        f"feature service {given.name} (input {name})": service_record(given).digest
        for name, given in fitted.inputs.items()
    }
    behind = {f"trained behind, as {role}": ref for role, ref in fitted.upstream.items()}
    return Told(
        model=fitted.name,
        source=source.name,
        as_of=split.as_of,
        config=fitted.config.model_dump(mode="json"),
        training_set=fitted.training_set,
        rows=fitted.rows,
        metrics=fitted.metrics,
        peers=tuple(popularity_windows(source)),
        digests={
            **services,
            **behind,
            "recipe and inputs": inputs_digest(bench.desk, split, fitted.recipe),
        },
        figures=figures,
        simulated=bench.simulated,
    )


def _data(bench: Bench) -> str:
    return bench.desk.source.name + (", simulated" if bench.simulated else "")
