"""Training of the two towers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from models.coplays import Coplays, fit_coplays, no_coplays
from models.data import Histories, MalformedData, RetrievalPeriod
from models.determinism import deterministic
from models.evaluate import evaluate_retrieval, histories_of
from models.inputs import fit_standardiser
from models.losses import catalogue_softmax_loss, next_title_loss
from models.play_batches import PlayBatch, play_batches, steps_in, tensors_of
from models.progress import Epoch, Progress
from models.retrieval import Retriever, Towers
from models.settings import RetrievalConfig
from models.signature import Signature
from models.towers import TitleTower, UserTower


@deterministic()
def train_retrieval(
    train: Sequence[RetrievalPeriod],
    validation: RetrievalPeriod,
    config: RetrievalConfig,
    user_signature: Signature,
    title_signature: Signature,
    progress: Progress = lambda _: None,
) -> Retriever:
    """Train a retriever from `config.seed`; the caller's random state is left alone.

    It returns the weights with the best validation recall, over the catalogue of `validation`;
    `with_titles` brings that up to date.

    Raises:
        MalformedData: no training plays, or features of other widths than the signatures say.
    """
    _check(train, validation, user_signature, title_signature)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        rng = np.random.default_rng(config.seed)
        towers = _new_towers(train, config)
        towers = replace(towers, coplays=known_coplays(validation.histories, config))
        judge = _Judge(_some_users(validation, config, rng), user_signature, title_signature)
        _fit(towers, train, judge, rng, progress)
    return judge.best()


def _fit(
    towers: Towers,
    train: Sequence[RetrievalPeriod],
    judge: _Judge,
    rng: np.random.Generator,
    progress: Progress,
) -> None:
    """Two-tower retrieval by the likelihood of each play among what was available then.

    for each batch of users x of one period, with the plays y that followed its start:
      1. embed the titles, then the users        V = V(titles),  U = U(x, V[watched])
      2. score every user for every title        s_ij = u_i · v_j / τ + g_i b_j
      3. ask each user to pick what they played  L = -mean log softmax, against what they did not play
      4. step on the clipped gradient            θ ← AdamW(θ, clip(∇L))
    until validation recall has not risen for `patience` epochs.
    """
    config = towers.config
    periods = [tensors_of(period, towers, known_coplays(period.histories, config)) for period in train]
    weights = [*towers.user.parameters(), *towers.title.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, config.epochs * steps_in(periods, config)
    )
    for number in range(1, config.epochs + 1):
        losses = []
        towers.user.train()
        towers.title.train()
        for batch in play_batches(periods, config, rng):
            loss = batch_loss(towers, batch)  # 1, 2, 3
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, config.max_grad_norm)  # 4
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        metrics = judge.judge(towers)
        progress(Epoch(number, config.epochs, float(np.mean(losses)), metrics))
        if judge.epochs_since_best >= config.patience:
            break


def batch_loss(towers: Towers, batch: PlayBatch) -> torch.Tensor:
    """Steps 1 to 4 of the method for one batch."""
    period, n_candidates, config = batch.period, len(batch.log_inclusion), towers.config
    vectors, popularity = towers.title(period.title_inputs[batch.titles], period.identity[batch.titles])  # 1
    seen = batch.watched >= 0
    reads = torch.cat([vectors, period.reads[batch.titles]], dim=1)
    keys = torch.cat([vectors, period.shows[batch.titles], popularity], dim=1)[:n_candidates]
    queries, following = towers.user(period.user_inputs[batch.users], reads[batch.watched.clamp(min=0)], seen)
    loss = catalogue_softmax_loss(
        queries @ keys.T, batch.hidden, batch.log_inclusion, batch.play_row, batch.play_column
    )  # 2, 3
    if config.sequence_weight and len(batch.place_row):
        logits = following[batch.place_row, batch.place] @ vectors.T  # 4
        loss = loss + config.sequence_weight * next_title_loss(logits, batch.log_share, batch.place_next)
    return loss


class _Judge:
    """Keeps the towers with the best validation recall so far."""

    def __init__(self, validation: RetrievalPeriod, user: Signature, title: Signature) -> None:
        self.validation = validation
        self.signatures = (user, title)
        self.best_recall = -1.0
        self.epochs_since_best = 0
        self._best: Retriever | None = None

    def judge(self, towers: Towers) -> dict[str, float]:
        """Validation metrics of the towers as they are now."""
        towers.user.eval()
        towers.title.eval()
        k = towers.config.recall_at
        period = self.validation
        retriever = retriever_of(towers, period, *self.signatures)
        metrics = evaluate_retrieval(retriever, period, ks=(20, k))
        self.epochs_since_best += 1
        if metrics[f"recall_at_{k}"] > self.best_recall:
            self.best_recall, self.epochs_since_best = metrics[f"recall_at_{k}"], 0
            frozen = replace(towers, user=copy.deepcopy(towers.user), title=copy.deepcopy(towers.title))
            self._best = replace(retriever, towers=frozen, metrics=metrics)
        return metrics

    def best(self) -> Retriever:
        """The best retriever so far."""
        if self._best is None:
            raise RuntimeError("no epoch was judged.")
        return self._best


def retriever_of(towers: Towers, period: RetrievalPeriod, user: Signature, title: Signature) -> Retriever:
    """A retriever over what was available in `period`."""
    catalogue = towers.catalogue(period.title_ids, period.title_features)
    return Retriever(towers, catalogue, user, title)


def _new_towers(train: Sequence[RetrievalPeriod], config: RetrievalConfig) -> Towers:
    user_inputs = fit_standardiser(np.concatenate([period.user_features for period in train]))
    title_inputs = fit_standardiser(np.concatenate([period.title_features for period in train]))
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


def known_coplays(histories: Histories, config: RetrievalConfig) -> Coplays:
    """Co-plays of what was watched, as `config` wants them."""
    return fit_coplays(
        histories,
        rank=config.coplays,
        ridge=config.coplay_ridge,
        max_titles=config.coplay_titles,
        rng=np.random.default_rng(config.seed),
    )


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
