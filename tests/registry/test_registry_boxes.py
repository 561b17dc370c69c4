"""Which boxes are drawn one by one, and which are folded into one that counts them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.boxes import MOST_ARROWS, MOST_BOXES, Box, Kind, arrows, drawable, folded, shortened, united


def numbered(count, **rest):
    return [Box(f"v{n}", Kind.VERSIONS, f"v{n}", **rest) for n in range(count)]


@pytest.mark.parametrize(("count", "shown", "gone"), [(24, 24, 0), (25, 25, 0), (26, 24, 2), (1000, 24, 976)])
def test_boxes_are_folded_where_there_are_more_than_the_most_and_never_one_alone(count, shown, gone):
    assert MOST_BOXES == 24
    boxes = drawable(numbered(count))
    assert [box.label for box in boxes if box.name[0] == "v"] == [
        f"v{n}" for n in range(count - shown, count)
    ]
    assert [box.count for box in boxes if box.count > 1] == [gone] * (gone > 0)


def test_what_is_live_or_asked_about_is_not_folded_and_takes_no_place_of_others():
    boxes = [replace(box, live=n < 40, asked=n == 50) for n, box in enumerate(numbered(100))]
    names = [box.name for box in folded(boxes, 5)]
    newest = [f"v{n}" for n in range(95, 100)]
    assert names == [*(f"v{n}" for n in range(40)), "v50", *newest, "more model versions"]


def test_the_newest_of_every_family_stay():
    boxes = [
        Box(f"{family}/{n}", Kind.VERSIONS, "", family=family)
        for family, many in [("a", 50), ("b", 3), ("c", 50)] for n in range(many)
    ]  # fmt: skip
    *newest, more = folded(boxes, 7)
    assert [box.name for box in newest] == ["a/48", "a/49", "b/1", "b/2", "c/47", "c/48", "c/49"]
    assert more.label == "96 more model versions"


def test_a_box_for_several_folds_as_that_many():
    boxes = [Box(f"view {n}", Kind.FEATURES, "", family="user", count=10) for n in range(30)]
    more = folded(boxes, 4)[-1]
    assert (more.label, more.count) == ("user: 260 more features", 260)


def test_folding_goes_on_until_few_enough_arrows_are_left():
    """Every one of 24 Bentos packs every one of 24 versions: 576 arrows; at 12 and one for the rest there are 13²."""
    versions = numbered(24)
    bentos = [Box(f"b{n}", Kind.BENTOS, "", tuple(box.name for box in versions)) for n in range(24)]
    assert MOST_ARROWS < 24 * 24
    assert len(arrows(drawable([*versions, *bentos]))) == 13 * 13
    live = [replace(box, live=True) for box in numbered(120)]
    bentos = [replace(box, before=tuple(box.name for box in live)) for box in bentos]
    assert len(arrows(drawable([*live, *bentos]))) == 120 * 2  # one Bento, and one for the rest
    assert {box.name for box in live} < {box.name for box in drawable([*live, *bentos])}
    everything = [replace(box, live=True) for box in [*live, *bentos]]
    assert drawable(everything) == tuple(everything)


def test_boxes_of_one_name_are_one_with_the_arrows_of_all():
    a, b = Box("a", Kind.FEATURES, "A"), Box("b", Kind.FEATURES, "B")
    arm_of = [Box("x", Kind.ARMS, "X", ("a",)), Box("x", Kind.ARMS, "X", ("b", "a", "gone"))]
    assert united([a, arm_of[0], b, arm_of[1]]) == (a, Box("x", Kind.ARMS, "X", ("a", "b")), b)


@given(st.text(), st.integers(1, 40))
def test_a_shortened_label_keeps_both_ends(label, most):
    short = shortened(label, most)
    if len(label) <= most:
        assert short == label
        return
    tail = (most - 1) // 2
    assert (len(short), short[most - 1 - tail]) == (most, "…")
    assert label.startswith(short[: most - 1 - tail])
    assert label.endswith(short[most - tail :])
