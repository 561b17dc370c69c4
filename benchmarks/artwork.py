"""The choice of artwork against its bars: real tests replayed, a simulated world, propensities, off-policy values, cold start.

Peers (mabwiser, Vowpal Wabbit, obp) run in the same process on the same data. What is simulated says so: the packages of
Upworthy's tests and their observed click rates are real, the impressions of the replay are Bernoulli draws from them.
One thread; a few minutes, `--quick` about one.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from artwork_measures import contextual, logs, peers, propensities, upworthy
from artwork_measures.upworthy import Floats, Packages

from models.artwork_cold_start import Saved, Traffic
from models.artwork_settings import ArtworkConfig

BUDGETS = (1_000, 3_000, 10_000, 30_000)
CLAIMED = 0.9
VALIDITY = 0.4
CONFIG = ArtworkConfig()
Curve = Callable[[Traffic, int], Floats]


@dataclass(frozen=True)
class Bar:
    """What was asked for, what was measured, and whether that is enough."""

    name: str
    asked: str
    measured: float
    met: bool


@dataclass(frozen=True)
class Taught:
    """What past titles teach without a score, and of the score from headlines' words."""

    blank: upworthy.Learned
    text: upworthy.Learned


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    titles: int
    seeds: int
    budgets: tuple[int, ...]
    mabwiser_titles: int
    vw_titles: int
    vw_budgets: tuple[int, ...]
    worlds: int
    histories: tuple[int, ...]
    propensity_titles: int
    repetitions: int


FULL = Sizes(1_152, 1, BUDGETS, 60, 30, (3_000, 10_000), 2, (12_000, 30_000), 100, 1_000)
QUICK = Sizes(200, 1, (3_000, 10_000), 20, 10, (3_000,), 1, (12_000,), 30, 200)


def main() -> None:
    """Measure, print, and end with RESULT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer titles, seeds, worlds and repetitions")
    sizes = QUICK if parser.parse_args().quick else FULL
    told: dict[str, object] = {"quick": sizes is QUICK}
    bars: list[Bar] = []
    for measure in (replay, simulated_worlds, propensity_errors, off_policy_values):
        figures, more = measure(sizes)
        sys.stdout.flush()
        told[measure.__name__] = figures
        bars += more
    if sizes is QUICK:
        print("\na quick run: too few titles for the bars on real tests to mean much")
    print(f"\n{'bar':66} {'asked':>12} {'measured':>10}")
    for bar in bars:
        print(f"{bar.name:66} {bar.asked:>12} {bar.measured:>10.4g}  {'met' if bar.met else 'MISSED'}")
    told["bars"] = [asdict(bar) for bar in bars]
    print("RESULT " + json.dumps(told))


def at_least(name: str, measured: float, bound: float) -> Bar:
    """A bar from below."""
    return Bar(name, f">= {bound:g}", measured, bool(measured >= bound))


def at_most(name: str, measured: float, bound: float) -> Bar:
    """A bar from above."""
    return Bar(name, f"<= {bound:g}", measured, bool(measured <= bound))


def within(name: str, measured: float, low: float, high: float) -> Bar:
    """A bar from both sides."""
    return Bar(name, f"{low:g}..{high:g}", measured, bool(low <= measured <= high))


# Real tests, replayed


def replay(sizes: Sizes) -> tuple[dict[str, object], list[Bar]]:
    """Lift over uniform by policy and budget, peers on some of the titles, and weeks saved on new ones."""
    every = upworthy.packages()
    rows = np.arange(len(every.text))
    past, new = every.take(rows[::2]), every.take(rows[1::2][: sizes.titles])
    taught = Taught(upworthy.learned(past, None, CONFIG, 0), upworthy.learned(past, past.text, CONFIG, 0))
    policies, facts = contenders(taught, past, new)
    print(
        f"\nUpworthy: {len(past.text)} past titles, {len(new.text)} new ones; real packages, simulated impressions, "
        f"{upworthy.DAYS} daily batches\n" + "; ".join(f"{name} {value:.3f}" for name, value in facts.items())
    )
    lifts = {name: lifts_of(curve, new, sizes.budgets, sizes.seeds) for name, curve in policies.items()}
    print_lifts("clicks over uniform choice, %", lifts, sizes.budgets)
    beside = {}
    for count, names, budgets in (
        (sizes.mabwiser_titles, ("mabwiser TS", "mabwiser UCB1"), sizes.budgets),
        (sizes.vw_titles, ("Vowpal Wabbit",), sizes.vw_budgets),
    ):
        few, found = peers_of(taught.blank, new, count, names, budgets)
        print_lifts(f"the same on {few} of the titles", found, budgets)
        beside[str(few)] = found
    saved = weeks_saved(taught, past, new)
    return {"lifts": lifts, "peers": beside, "facts": facts, "weeks_saved": saved}, replay_bars(lifts)


def contenders(taught: Taught, past: Packages, new: Packages) -> tuple[dict[str, Curve], dict[str, float]]:
    """Each policy, and what was learnt from past titles."""
    blank, text = taught.blank, taught.text
    policies: dict[str, Curve] = {
        "A/B 25 %, then ship": lambda t, s: upworthy.replayed(new, upworthy.ab_then_ship(new, t), t, s),
        "plain Thompson sampling": lambda t, s: upworthy.bandit(
            new, blank, 0, blank.sd, None, t, CONFIG.model_copy(update={"temper": 1.0}), s
        ),
        "ours, no score": lambda t, s: upworthy.bandit(new, blank, 0, blank.sd, None, t, CONFIG, s),
    }
    facts = {"sd of effects": blank.sd}
    for name, validity, scale, seed in (
        ("honest", VALIDITY, 1, 1),
        ("over-confident", VALIDITY, 5, 3),
        ("worthless", 0.0, 5, 5),
    ):
        found, score = drafted(past, new, validity, scale, seed)
        prior = found.policy.prior
        if prior.gain > 0:  # else it is ignored, and what there is without a score is what there is
            policies[f"ours, {name} score"] = scored(new, found, prior.gain, prior.quality_sd, score)
        assert found.quality is not None
        facts[f"{name}: measured validity"] = found.quality.validity.rho
        facts[f"{name}: its lower bound"] = found.quality.validity.low
        facts[f"{name}: weight in the prior"] = prior.gain
        if name == "over-confident":
            gain, rest = CLAIMED * found.sd, found.sd * np.sqrt(1 - CLAIMED**2)
            policies[f"the same, its claim of {CLAIMED} believed"] = scored(new, found, gain, rest, score)
    prior, score = text.policy.prior, upworthy.scored(text, new, new.text)
    policies["ours, score from the headline's words"] = scored(new, text, prior.gain, prior.quality_sd, score)
    assert text.quality is not None
    facts["words: measured validity"] = text.quality.validity.rho
    facts["words: correlation on the new titles"] = upworthy.correlation(score, new)
    return policies, facts


def drafted(
    past: Packages, new: Packages, validity: float, scale: float, seed: int
) -> tuple[upworthy.Learned, Floats]:
    """What past titles teach of a drafted score, and that score of the new titles' packages."""
    seen, unseen = (upworthy.draft_score(half, validity, seed + i) for i, half in enumerate((past, new)))
    found = upworthy.learned(past, scale * seen[..., None], CONFIG, 0)
    return found, upworthy.scored(found, new, scale * unseen[..., None])


def scored(new: Packages, found: upworthy.Learned, gain: float, rest: float, score: Floats) -> Curve:
    """Our policy with a prior mean of gain × score."""
    return lambda t, s: upworthy.bandit(new, found, gain, float(rest), score, t, CONFIG, s)


def lifts_of(curve: Curve, titles: Packages, budgets: Sequence[int], seeds: int) -> dict[int, float]:
    """Mean lift over seeds, by budget."""
    return {
        budget: float(
            np.mean(
                [
                    upworthy.lift(curve(Traffic(budget // upworthy.DAYS, upworthy.DAYS), s), titles)
                    for s in range(seeds)
                ]
            )
        )
        for budget in budgets
    }


def peers_of(
    blank: upworthy.Learned, new: Packages, count: int, names: Sequence[peers.Bandit], budgets: Sequence[int]
) -> tuple[int, dict[str, dict[int, float]]]:
    """Peers on every so-manieth of the new titles, ours without a score and the A/B test on the same."""
    few = new.take(np.arange(0, len(new.text), max(1, len(new.text) // count))[:count])
    found = {
        "A/B 25 %, then ship": lifts_of(
            lambda t, s: upworthy.replayed(few, upworthy.ab_then_ship(few, t), t, s), few, budgets, 5
        ),
        "ours, no score": lifts_of(
            lambda t, s: upworthy.bandit(few, blank, 0, blank.sd, None, t, CONFIG, s), few, budgets, 5
        ),
    }
    for name in names:
        found[name] = lifts_of(
            lambda t, s, name=name: upworthy.replayed(few, peers.peer(name, few, s), t, s), few, budgets, 1
        )
    return len(few.text), found


def print_lifts(title: str, lifts: dict[str, dict[int, float]], budgets: Sequence[int]) -> None:
    """A row for each policy, a column for each budget."""
    print(f"\n{title:44}" + "".join(f"{budget:>9,}" for budget in budgets) + "   impressions a title")
    for name, found in lifts.items():
        print(f"  {name:42}" + "".join(f"{100 * found[budget]:>9.2f}" for budget in budgets))


def replay_bars(lifts: dict[str, dict[int, float]]) -> list[Bar]:
    """The bars on real tests, in percent and points."""
    none, honest = lifts["ours, no score"], lifts["ours, honest score"]
    over, ab = lifts["ours, over-confident score"], lifts["A/B 25 %, then ship"]
    from_3000 = [budget for budget in none if budget >= 3_000]
    return [
        at_least("Upworthy, 10,000 a title, no score: % over uniform", 100 * none[10_000], 13),
        at_least("Upworthy, 10,000 a title, score of validity .4", 100 * honest[10_000], 15),
        at_least("least lead on A/B then ship from 3,000 on, points", min(100 * (none[b] - ab[b]) for b in from_3000), 0),
        at_most("most an over-confident score costs from 3,000 on, points", max(100 * (honest[b] - over[b]) for b in from_3000), 1),
    ]  # fmt: skip


def weeks_saved(taught: Taught, past: Packages, new: Packages) -> list[dict[str, object]]:
    """Until 80 % of the lift of four weeks, by score and traffic; titles are real and new, impressions simulated."""
    blank, text = taught.blank, taught.text
    scores = {"headline's words": (text, upworthy.scored(text, new, new.text))}
    for validity in (VALIDITY, 0.8):
        scores[f"drafted, validity {validity}"] = drafted(past, new, validity, 1, 11)
    told: list[dict[str, object]] = []
    print(
        f"\n{'weeks until 80 % of the lift of 4 weeks':44} without    with   saved   impressions a title saved"
    )
    for a_day in (100, 500):
        traffic = Traffic(a_day, 28)
        without = upworthy.bandit(new, blank, 0, blank.sd, None, traffic, CONFIG, 1)
        for name, (found, score) in scores.items():
            prior = found.policy.prior
            with_it = scored(new, found, prior.gain, prior.quality_sd, score)(traffic, 1)
            saved: Saved = upworthy.weeks_saved(with_it, without, new, a_day)
            print(f"  {name + f', {7 * a_day:,} a week':42} {saved.uninformed_weeks:>7.2f} {saved.informed_weeks:>7.2f}"
                  f" {saved.weeks:>7.2f} {saved.impressions:>8,.0f}")  # fmt: skip
            told.append({"score": name, "a_week": 7 * a_day, "weeks": saved.weeks, **asdict(saved)})
    return told


# A simulated world with contexts


def simulated_worlds(sizes: Sizes) -> tuple[dict[str, object], list[Bar]]:
    """Lift over uniform on fresh visits after the same uniform history; peers at their best settings."""
    print(
        f"\nsimulated worlds: 150 titles of 6 images; lift over uniform, %, mean of {sizes.worlds}; 12,000 impressions are 80 a "
        "title, as the built-in world has"
    )
    told: dict[str, object] = {}
    bars: list[Bar] = []
    for rows in sizes.histories:
        found: dict[str, list[float]] = {}
        for seed in range(sizes.worlds):
            for name, value in world_lifts(seed, rows):
                found.setdefault(name, []).append(value)
        mean = {name: float(np.mean(values)) for name, values in found.items()}
        print(
            f"  {rows:,} impressions in the history: "
            + "; ".join(f"{n} {100 * v:.1f}" for n, v in mean.items())
        )
        told[str(rows)] = mean
        bars += [
            at_least(f"{rows:,} rows: ours / mabwiser LinTS, its best alpha", mean["ours"] / best_of(mean, "LinTS"), 1.5),
            at_least(f"{rows:,} rows: ours / Vowpal Wabbit as it comes", mean["ours"] / mean["VW"], 1.25),
            at_least(f"{rows:,} rows: ours / Vowpal Wabbit, its best setting", mean["ours"] / best_of(mean, "VW"), 1.25),
        ]  # fmt: skip
    return told, bars


def world_lifts(seed: int, rows: int) -> Iterator[tuple[str, float]]:
    """Every policy on one world."""
    world = contextual.World.drawn(seed)
    history = contextual.History.drawn(world, rows, seed)
    yield "oracle", contextual.lift(world, contextual.best(world), seed)
    yield "ours", contextual.lift(world, contextual.ours(world, history), seed)
    yield "ours, no score", contextual.lift(world, contextual.ours(world, history, with_score=False), seed)
    for alpha in contextual.ALPHAS:
        yield (
            f"LinTS alpha {alpha}",
            contextual.lift(world, contextual.lin_ts(world, history, alpha, seed), seed),
        )
    for rate in contextual.VW_RATES:
        yield (
            f"VW {rate}".strip(),
            contextual.lift(world, contextual.vowpal_wabbit(world, history, rate), seed),
        )


def best_of(mean: dict[str, float], prefix: str) -> float:
    """The best lift of the policies whose names begin alike."""
    return max(value for name, value in mean.items() if name.startswith(prefix))


# Propensities and off-policy values


def propensity_errors(sizes: Sizes) -> tuple[dict[str, object], list[Bar]]:
    """Against adaptive quadrature, beside what others do."""
    found = propensities.errors(sizes.propensity_titles)
    print(f"\npropensities of {found.titles} titles against slow quadrature, largest errors: common grid {found.ours:.1e}, "
          f"Monte Carlo of 1,000 {found.monte_carlo:.3f} ({100 * found.zeroed:.0f} % of cells at 0), "
          f"Gauss-Hermite of 32 {found.gauss_hermite:.3f}")  # fmt: skip
    return asdict(found), [
        at_most("propensity error", found.ours, 1e-5),
        at_most("|sum p - 1|", found.sums, 1e-9),
        at_most("p below the floor by", found.below_floor, 1e-12),
    ]


def off_policy_values(sizes: Sizes) -> tuple[dict[str, object], list[Bar]]:
    """The estimators of obp on its logs, and how often intervals hold the truth."""
    found, held = logs.open_bandit(), logs.coverage(sizes.repetitions)
    value = found.ours
    assert value.dr is not None
    print(f"\nOpen Bandit, ZOZO's Thompson sampling valued on {value.rows:,} uniform rows: IPS {value.ips:.5f}, SNIPS "
          f"{value.snips:.5f} ({value.low:.5f}..{value.high:.5f}), DR {value.dr.value:.5f} ({value.dr.low:.5f}..{value.dr.high:.5f}), "
          f"effective sample size {value.effective_sample_size:,.0f}; it earned {found.on_policy:.5f} on its own log\n"
          f"95 % intervals over {held.repetitions:,} simulated logs hold the truth: SNIPS {held.snips:.3f}, DR {held.dr:.3f}, "
          f"direct method {held.direct:.3f}")  # fmt: skip
    told = {
        "open_bandit": asdict(value),
        "furthest_from_obp": float(found.furthest),
        "coverage": asdict(held),
    }
    return told, [
        at_most("furthest of IPS, SNIPS and DR from obp's", float(found.furthest), 1e-12),
        within("SNIPS intervals hold the truth, share", held.snips, 0.93, 0.97),
        within("DR intervals hold the truth, share", held.dr, 0.93, 0.97),
    ]


if __name__ == "__main__":
    main()
