"""Training of the two towers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from models.coplays import known_coplays, no_coplays
from models.data import Histories, MalformedData, RetrievalPeriod
from models.determinism import deterministic
from models.devices import Hardware
from models.evaluate import Floats, evaluate_candidates, histories_of, judged, retrieved, score_lists
from models.fitting import Best, Lesson, Notebook, Verdict, fit
from models.inputs import fit_standardiser
from models.losses import catalogue_softmax_loss, next_title_loss
from models.parallel import Team
from models.play_batches import PlayBatch, play_batches, share_of, steps_in, tensors_of
from models.progress import Progress
from models.retrieval import Retriever, Towers
from models.settings import RetrievalConfig
from models.signature import Signature
from models.towers import TitleTower, UserTower
from models.uncertainty import first_as_good


@deterministic()
def train_retrieval(
    train: Sequence[RetrievalPeriod],
    validation: RetrievalPeriod,
    config: RetrievalConfig,
    user_signature: Signature,
    title_signature: Signature,
    progress: Progress = lambda _: None,
    *,
    hardware: Hardware | None = None,
    checkpoint: Path | None = None,
) -> Retriever:
    """Train a retriever from `config.seed`; the caller's random state is left alone.

    Validation says how many epochs are best and how much co-plays should weigh; with `refit` the towers then learn anew,
    for so many epochs, from the periods that end with `validation`. `metrics` are those before that. The catalogue is that of
    `validation`: `at` and `with_titles` bring it up to date.

    How far training has come is written to the file `checkpoint` after every epoch, and if that exists training goes
    on from there. Without `hardware` this process trains alone, on its processor.

    Raises:
        MalformedData: no training plays, or features of other widths than the signatures say.
        OtherRun, DamagedCheckpoint, Diverged: as `models.fitting.fit` says.
    """
    _check(train, validation, user_signature, title_signature)
    hardware = hardware or Hardware()
    signatures = (user_signature, title_signature)
    with torch.random.fork_rng(devices=hardware.gpus):
        some = _some_users(validation, config, np.random.default_rng(config.seed))
        judge = _Judge(some, *signatures)
        notebook = Notebook.at(checkpoint, config, hardware, signatures, list(train), validation)
        towers, best = _learn(train, validation.histories, config, judge, hardware, progress, notebook)
        towers, verdict = _boosted(towers, judge)
        if config.refit:
            again, pace = [*train[1:], validation], config.model_copy(update={"epochs": best.epoch})
            place = checkpoint and checkpoint.with_stem(f"{checkpoint.stem}-again")
            notebook = Notebook.at(place, pace, hardware, signatures, again)
            known = histories_after(validation)
            learnt, _ = _learn(again, known, pace, None, hardware, progress, notebook)
            towers = replace(learnt, boost=towers.boost)
    retriever = retriever_of(towers, validation, *signatures)
    return replace(retriever, metrics=verdict.metrics)


def _learn(
    periods: Sequence[RetrievalPeriod],
    known: Histories,
    config: RetrievalConfig,
    judge: Callable[[Towers], Verdict] | None,
    hardware: Hardware,
    progress: Progress,
    notebook: Notebook | None,
) -> tuple[Towers, Best]:
    """Towers that have learnt from `periods`, with co-plays as they are `known` when the towers are used."""
    torch.manual_seed(config.seed)
    towers = replace(new_towers(periods, config), coplays=known_coplays(known, config))
    network = nn.ModuleDict({"user": towers.user, "title": towers.title})
    return towers, fit(
        network, lesson_of(towers, periods, judge, hardware), config, hardware, progress, notebook
    )


def _boosted(towers: Towers, judge: _Judge) -> tuple[Towers, Verdict]:
    """With the weight of co-plays that validation likes best, by more than chance.

    The likelihood asks for the weight that gets each play's chance right; a list of the best k asks for more of it.
    """
    tried = [replace(towers, boost=boost) for boost in towers.config.coplay_boosts]
    chosen = tried[first_as_good([judge.recalls(one) for one in tried])]
    return chosen, judge(chosen)


def lesson_of(
    towers: Towers,
    train: Sequence[RetrievalPeriod],
    judge: Callable[[Towers], Verdict] | None,
    hardware: Hardware,
) -> Lesson[PlayBatch]:
    """Two-tower retrieval by the likelihood of each play among what was available then, in the loop of `models.fitting`.

    for each batch of users x of one period, with the plays y that followed its start:
      1. embed the titles, then the users        V = V(titles),  U = U(x, V[watched])
      2. score every user for every title        s_ij = u_i · v_j / τ + g_i b_j
      3. ask each user to pick what they played  L = -mean log softmax, against what they did not play
      4. ask each place in a history what was    L += w · -mean log softmax(u_place · v / τ + log q)
         watched next
    """
    config = towers.config
    periods = [
        hardware.moved(tensors_of(period, towers, known_coplays(period.histories, config)))
        for period in train
    ]

    def optimizer(network: nn.Module) -> torch.optim.Optimizer:
        weights, rate, decay = network.parameters(), config.learning_rate, config.weight_decay
        return torch.optim.AdamW(weights, lr=rate, weight_decay=decay, fused=True)

    def batches(rng: np.random.Generator, team: Team) -> Iterator[PlayBatch]:
        return (share_of(batch, team) for batch in play_batches(periods, config, rng))

    def loss(network: nn.Module, batch: PlayBatch) -> torch.Tensor:
        if not len(batch.users):  # fewer users in the batch than members of the team
            return batch.log_inclusion.new_zeros(())
        return batch_loss(_with(towers, network), batch)  # 1, 2, 3, 4

    said = None if judge is None else lambda network: judge(_with(towers, network))
    return Lesson(optimizer, batches, steps_in(periods, config), loss, said, config.averaging)


def _with(towers: Towers, network: nn.Module) -> Towers:
    user, title = network.get_submodule("user"), network.get_submodule("title")
    return replace(towers, user=cast("UserTower", user), title=cast("TitleTower", title))


def batch_loss(towers: Towers, batch: PlayBatch) -> torch.Tensor:
    """Steps 1 to 4 of the method for one batch: this member's part of its loss."""
    period, n_candidates, config = batch.period, len(batch.log_inclusion), towers.config
    vectors, popularity = towers.title(period.title_inputs[batch.titles], period.identity[batch.titles])  # 1
    seen = batch.watched >= 0
    reads = torch.cat([vectors, period.reads[batch.titles]], dim=1)
    keys = torch.cat([vectors, period.shows[batch.titles], popularity], dim=1)[:n_candidates]
    queries, following = towers.user(period.user_inputs[batch.users], reads[batch.watched.clamp(min=0)], seen)
    loss = catalogue_softmax_loss(
        queries @ keys.T,
        batch.hidden,
        batch.log_inclusion,
        batch.play_row,
        batch.play_column,
        batch.play_weight,
    )  # 2, 3
    if config.sequence_weight and len(batch.place_row):
        logits = following[batch.place_row, batch.place] @ vectors.T  # 4
        follows = next_title_loss(logits, batch.log_share, batch.place_next)
        loss = loss + batch.place_weight * config.sequence_weight * follows
    return loss


@dataclass(frozen=True)
class _Judge:
    """Validation by the recall of what was played, over the catalogue of the time."""

    period: RetrievalPeriod
    user: Signature
    title: Signature

    def __call__(self, towers: Towers) -> Verdict:
        k = towers.config.recall_at
        metrics = evaluate_candidates(self.retriever(towers), self.period, ks=(20, k))
        return Verdict(metrics[f"recall_at_{k}"], metrics)

    def recalls(self, towers: Towers) -> Floats:
        """The recall of each user (U,)."""
        k = towers.config.recall_at
        found = [one.title_ids for one in retrieved(self.retriever(towers), self.period, k)]
        scores = score_lists(found, judged(self.period).relevant, len(self.period.title_ids), (k,))
        return scores.of_users[f"recall_at_{k}"]

    def retriever(self, towers: Towers) -> Retriever:
        """The towers over the catalogue of the validation period."""
        return retriever_of(towers, self.period, self.user, self.title)


def retriever_of(towers: Towers, period: RetrievalPeriod, user: Signature, title: Signature) -> Retriever:
    """A retriever over what was available in `period`."""
    catalogue = towers.catalogue(period.title_ids, period.title_features)
    return Retriever(towers, catalogue, user, title)


def new_towers(train: Sequence[RetrievalPeriod], config: RetrievalConfig) -> Towers:
    """Towers before their first step, with the standardisation of these periods."""
    users = np.concatenate([period.user_features for period in train])
    titles = np.concatenate([period.title_features for period in train])
    user_inputs, title_inputs = (fit_standardiser(rows, tails=config.tails) for rows in (users, titles))
    played = np.unique(np.concatenate([period.title_ids[period.play_title] for period in train]))
    return Towers(
        UserTower(user_inputs.width, config),
        TitleTower(title_inputs.width, len(played), config),
        user_inputs,
        title_inputs,
        played,
        no_coplays(config.coplays),
        config,
    )


def histories_after(period: RetrievalPeriod) -> Histories:
    """What users had watched by the end of a period: their histories, then what they played in it."""
    owner = np.concatenate([period.histories.owners(), period.play_user])
    title = np.concatenate([period.histories.values, period.title_ids[period.play_title]])
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=len(period.user_ids)))
    return Histories(np.concatenate([np.zeros(1, np.int64), ends]), title[order])


def _some_users(
    period: RetrievalPeriod, config: RetrievalConfig, rng: np.random.Generator
) -> RetrievalPeriod:
    """The period with at most `config.validation_users` of its users who played, drawn at random."""
    active = np.unique(period.play_user)
    if len(active) > config.validation_users:
        active = np.sort(rng.choice(active, config.validation_users, replace=False))
    place = np.full(len(period.user_ids), -1, dtype=np.int64)
    place[active] = np.arange(len(active))
    plays = place[period.play_user] >= 0
    return replace(
        period,
        user_ids=period.user_ids[active],
        user_features=period.user_features[active],
        histories=histories_of(period.histories, active),
        play_user=place[period.play_user[plays]],
        play_title=period.play_title[plays],
    )


def _check(
    train: Sequence[RetrievalPeriod], validation: RetrievalPeriod, user: Signature, title: Signature
) -> None:
    if not any(len(period.play_user) for period in train):
        raise MalformedData(f"{len(train)} training periods hold no play to learn from.")
    if not len(validation.play_user):
        raise MalformedData("the validation period holds no play, so nothing says when to stop.")
    for period in (*train, validation):
        widths = period.user_features.shape[1], period.title_features.shape[1]
        if widths != (user.width, title.width):
            raise MalformedData(
                f"the period of {period.as_of} has {widths[0]} user and {widths[1]} title features; "
                f"the signatures name {user.width} and {title.width}."
            )
        if period is not validation and period.as_of >= validation.as_of:
            raise MalformedData(
                f"the training period of {period.as_of} does not precede validation at {validation.as_of}."
            )
