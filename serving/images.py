"""One image for each title of a page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from models.data import Int64
from serving.answers import ArtworkDraw
from serving.live import Live
from serving.plan import Plan
from serving.samples import Given

if TYPE_CHECKING:
    from models.artwork import ArtworkChoice

_DAY_ZERO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Image:
    """What stands for one title. It was drawn with `propensity` from the images of which `arm_set` is the digest.

    All three are None where the title has no image; propensity and arm set are where none was drawn.
    """

    artwork_id: int | None = None
    propensity: float | None = None
    arm_set: str | None = None


@dataclass(frozen=True)
class Images:
    """An image for each title, in their order, and what they were drawn with; None where nothing was."""

    images: tuple[Image, ...]
    draw: ArtworkDraw | None = None
    given: tuple[Given, ...] = ()  # what the policy was given of the user
    drawn: bool = True  # by a policy, as far as there are images; else by the editors


def choose_images(live: Live, plan: Plan, user_id: int, title_ids: Int64, now: datetime) -> Images:
    """Let the artwork policy draw an image for each title that has any; stable for the user and the day."""
    if plan.versions.artwork is None:  # this source's artwork is not learnt
        return editorial_images(live, title_ids)
    policy = live.artwork(plan)
    arms = [live.reader.catalogue.artworks(title_id) for title_id in title_ids.tolist()]
    places = [place for place, offered in enumerate(arms) if len(offered)]
    images = [Image()] * len(title_ids)
    if not places:
        return Images(tuple(images))
    context = live.reader.vector("artwork_context", user_id)
    offered, epoch = [arms[place] for place in places], day_of(now)
    choice = policy.choose(context, title_ids[places], offered, user_id, epoch, plan.artwork_policy)
    for place, image in zip(places, _drawn(choice), strict=True):
        images[place] = image
    return Images(tuple(images), _draw(choice), (Given.of_user("artwork_context", context),))


def _drawn(choice: ArtworkChoice) -> list[Image]:
    columns = choice.artwork_ids.tolist(), choice.propensities.tolist(), choice.decision.arm_sets
    return [Image(*row) for row in zip(*columns, strict=True)]


def _draw(choice: ArtworkChoice) -> ArtworkDraw:
    made = choice.decision
    return ArtworkDraw(
        policy=made.policy, belief=made.belief, temper=made.temper, floor=made.floor, context=made.context
    )


def editorial_images(live: Live, title_ids: Int64) -> Images:
    """Each title's first image: what is shown when nothing is drawn, so without propensities."""
    arms = [live.reader.catalogue.artworks(title_id) for title_id in title_ids.tolist()]
    images = tuple(Image(int(offered[0])) if len(offered) else Image() for offered in arms)
    return Images(images, drawn=False)


def day_of(now: datetime) -> int:
    """Whole days since 1970 in UTC: the epoch during which a user keeps seeing the same image of a title."""
    return (now - _DAY_ZERO).days
