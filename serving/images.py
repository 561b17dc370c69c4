"""One image for each title of a page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from models.data import Int64
from serving.live import Live
from serving.plan import Plan
from serving.samples import Given

_DAY_ZERO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Images:
    """One image a title and the probability with which it was drawn; None where there is, or was, none."""

    artwork_ids: tuple[int | None, ...]
    propensities: tuple[float | None, ...]
    given: tuple[Given, ...] = ()  # what the policy was given of the user
    drawn: bool = True  # by a policy, as far as there are images; else by the editors


def choose_images(live: Live, plan: Plan, user_id: int, title_ids: Int64, now: datetime) -> Images:
    """Let the artwork policy draw an image for each title that has any; stable for the user and the day."""
    if plan.versions.artwork is None:  # this source's artwork is not learnt
        return editorial_images(live, title_ids)
    policy = live.artwork(plan)
    arms = [live.reader.catalogue.artworks(title_id) for title_id in title_ids.tolist()]
    places = [place for place, images in enumerate(arms) if len(images)]
    artwork_ids: list[int | None] = [None] * len(title_ids)
    propensities: list[float | None] = [None] * len(title_ids)
    given: tuple[Given, ...] = ()
    if places:
        context = live.reader.vector("artwork_context", user_id)
        given = (Given.of_user("artwork_context", context),)
        offered, epoch = [arms[place] for place in places], day_of(now)
        choice = policy.choose(context, title_ids[places], offered, user_id, epoch, plan.artwork_policy)
        drawn = zip(places, choice.artwork_ids.tolist(), choice.propensities.tolist(), strict=True)
        for place, artwork_id, propensity in drawn:
            artwork_ids[place], propensities[place] = artwork_id, propensity
    return Images(tuple(artwork_ids), tuple(propensities), given)


def editorial_images(live: Live, title_ids: Int64) -> Images:
    """Each title's first image: what is shown when nothing is drawn, so without propensities."""
    arms = [live.reader.catalogue.artworks(title_id) for title_id in title_ids.tolist()]
    first = tuple(int(images[0]) if len(images) else None for images in arms)
    return Images(first, (None,) * len(first), drawn=False)


def day_of(now: datetime) -> int:
    """Whole days since 1970 in UTC: the epoch during which a user keeps seeing the same image of a title."""
    return (now - _DAY_ZERO).days
