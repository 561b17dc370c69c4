"""Where boxes stand and arrows run: in columns, apart from one another, with few crossings."""

from itertools import combinations, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from registry.boxes import Box, Kind
from registry.layout import cells, crossings, laid_out, spread, wrapped

SLOWLY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def box(name, *before, kind=Kind.VERSIONS, label=""):
    return Box(name, kind, label or name, before)


@st.composite
def graphs(draw):
    """Up to five boxes of each of some kinds, with arrows from any before."""
    boxes = []
    for kind in draw(st.lists(st.sampled_from(list(Kind)), unique=True).map(sorted_by_chain)):
        earlier = [made.name for made in boxes]
        some = st.lists(st.sampled_from(earlier), unique=True, max_size=3) if earlier else st.just([])
        labels = draw(st.lists(st.text(max_size=90), min_size=1, max_size=5))
        boxes += [box(f"{kind} {n}", *draw(some), kind=kind, label=label) for n, label in enumerate(labels)]
    return boxes


def sorted_by_chain(kinds):
    return [kind for kind in Kind if kind in kinds]


@SLOWLY
@given(graphs())
def test_boxes_stand_in_the_column_of_their_kind_and_apart(boxes):
    layout = laid_out(boxes)
    assert [placed.box for placed in layout.boxes] == boxes
    column = {heading.kind: heading for heading in layout.headings}
    assert list(column) == [kind for kind in Kind if any(made.kind is kind for made in boxes)]
    for placed in layout.boxes:
        assert (placed.x, placed.width) == (column[placed.box.kind].x, column[placed.box.kind].width)
        assert 0 <= placed.x < placed.x + placed.width <= layout.width
        assert 0 <= placed.y < placed.y + placed.height <= layout.height
        assert max(map(cells, placed.lines)) * 12 * 0.6 + 10 < placed.width  # 12 px, of a face 0.6 em wide
    for one, other in combinations(layout.boxes, 2):
        beside = one.x + one.width + 50 < other.x or other.x + other.width + 50 < one.x
        apart = one.y + one.height + 10 < other.y or other.y + other.height + 10 < one.y
        assert beside or apart


@SLOWLY
@given(graphs())
def test_arrows_lead_from_edge_to_edge_and_pass_no_box(boxes):
    layout = laid_out(boxes)
    at = {placed.box.name: placed for placed in layout.boxes}
    assert {(arrow.before, arrow.behind) for arrow in layout.arrows} == {
        (before, made.name) for made in boxes for before in made.before
    }
    for arrow in layout.arrows:
        start, end = at[arrow.before], at[arrow.behind]
        assert arrow.points[0] == (start.x + start.width, start.y + start.height // 2)
        assert arrow.points[-1] == (end.x, end.y + end.height // 2)
        for (x, y), (to_x, to_y) in list(pairwise(arrow.points))[1::2]:  # the level stretches
            assert y == to_y
            inside = [
                o for o in layout.boxes if (o.x, o.x + o.width) == (x, to_x) and o.y <= y <= o.y + o.height
            ]
            assert not inside
        passed = [h.x for h in layout.headings if start.x < h.x < end.x]
        assert [x for x, _ in arrow.points[1:-1:2]] == passed


def test_a_kind_without_boxes_takes_no_room():
    a, c = box("a", kind=Kind.EVENTS), box("c", "a", kind=Kind.READOUTS)
    layout = laid_out([a, c])
    assert [heading.kind for heading in layout.headings] == [Kind.EVENTS, Kind.READOUTS]
    assert [len(arrow.points) for arrow in layout.arrows] == [2]
    assert laid_out([]).headings == ()


def test_a_head_counts_what_its_boxes_stand_for():
    many = Box("more", Kind.ARMS, "4,812 more", count=4812)
    assert [heading.count for heading in laid_out([box("a"), many, box("b", kind=Kind.ARMS)]).headings] == [
        1,
        4813,
    ]


def test_an_arrow_that_leads_back_is_refused():
    with pytest.raises(ValueError, match="from 'a' to 'b', which is not further along"):
        laid_out([box("a"), box("b", "a", kind=Kind.EVENTS)])
    for loop in ([box("a", "a")], [box("a", "b"), box("b", "a")]):
        with pytest.raises(ValueError, match="leads back to where it came from"):
            laid_out(loop)


def test_a_box_behind_another_of_its_kind_stands_in_a_column_further_on():
    boxes = [box("d", "a", "c"), box("a"), box("c", "b"), box("b", "a"), box("e", "d", kind=Kind.BENTOS)]
    layout = laid_out(boxes)
    assert [(heading.kind, heading.count) for heading in layout.headings] == [
        (boxes[0].kind, 1), (boxes[0].kind, 1), (boxes[0].kind, 1), (boxes[0].kind, 1), (Kind.BENTOS, 1),
    ]  # fmt: skip
    across = sorted(layout.boxes, key=lambda placed: placed.x)
    assert [placed.box.name for placed in across] == ["a", "b", "c", "d", "e"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), unique=True, max_size=20))
def test_crossings_are_counted_as_one_would_by_hand(pairs):
    columns = [[(f"a{n}", 0) for n in range(7)], [(f"b{n}", 1) for n in range(7)]]
    links = [((f"a{a}", 0), (f"b{b}", 1)) for a, b in pairs]
    by_hand = sum((a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(pairs, 2))
    assert crossings(columns, links) == by_hand


def lines_crossed(layout):
    """Pairs of arrows between the same two columns that cross, from their ends."""
    ends = [(*arrow.points[0], *arrow.points[1]) for arrow in layout.arrows]
    return sum(a[0] == b[0] and (a[1] - b[1]) * (a[3] - b[3]) < 0 for a, b in combinations(ends, 2))


def test_arrows_that_need_not_cross_do_not():
    """Ten chains whose boxes are given upside down in every other column; as given, 2 · 45 pairs of arrows cross."""
    versions = [box(f"v{n}") for n in range(10)]
    arms = [box(f"a{n}", f"v{n}", kind=Kind.ARMS) for n in reversed(range(10))]
    readouts = [box(f"r{n}", f"a{n}", kind=Kind.READOUTS) for n in range(10)]
    assert lines_crossed(laid_out([*versions, *arms, *readouts])) == 0


def test_a_column_is_put_in_order_for_the_one_behind_it_too():
    """x comes from a and c, y from b: as given, an arrow to x crosses that to y wherever these stand."""
    a, b, c = (box(name) for name in "abc")
    x, y = box("x", "a", "c", kind=Kind.ARMS), box("y", "b", kind=Kind.ARMS)
    assert lines_crossed(laid_out([a, b, c, x, y])) == 0


def test_a_box_stands_level_with_the_middle_of_what_it_is_joined_with():
    origins = [box(name) for name in "abcde"]
    layout = laid_out([*origins, box("x", "c", "d", "e", kind=Kind.ARMS)])
    middle = {placed.box.name: placed.y + placed.height / 2 for placed in layout.boxes}
    assert middle["x"] == pytest.approx((middle["c"] + middle["d"] + middle["e"]) / 3, abs=2)


def test_a_bend_is_put_where_its_arrow_crosses_little():
    """Each version is in a Bento and in an arm: arrows to the arms pass the Bentos, and need cross none to them."""
    versions = [box(f"v{n}") for n in range(6)]
    bentos = [box(f"b{n}", f"v{n}", kind=Kind.BENTOS) for n in range(6)]
    arms = [box(f"a{n}", f"v{n}", kind=Kind.ARMS) for n in (3, 1, 5, 0, 2, 4)]
    layout = laid_out([*versions, *bentos, *arms])
    assert lines_crossed(layout) == 0
    order = {placed.box.name: placed.y for placed in layout.boxes}
    columns = ["".join(sorted((n for n in "012345"), key=lambda n, c=c: order[c + n])) for c in "vba"]
    assert columns[0] == columns[1] == columns[2]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 9)), min_size=1, max_size=12))
def test_places_are_the_nearest_by_least_squares_that_do_not_overlap(given):
    """SciPy's isotonic regression of what is wanted, less the room that those above need."""
    wanted = [float(want) for want, _ in given]
    closest = [float(sum(room for _, room in given[:n])) for n in range(len(given))]
    nearest = isotonic_regression([w - c for w, c in zip(wanted, closest, strict=True)]).x
    assert spread(wanted, closest) == pytest.approx([n + c for n, c in zip(nearest, closest, strict=True)])


@settings(deadline=None)
@given(st.text(max_size=300))
def test_a_label_is_broken_into_at_most_three_lines_of_at_most_26_letters(label):
    lines = wrapped(label)
    assert 1 <= len(lines) <= 3
    assert all(cells(line) <= 26 for line in lines)
    whole, shown = "".join(label.split()), "".join("".join(lines).split())
    if shown != whole:
        head, _, tail = shown.rpartition("…")
        assert len(lines) == 3
        assert whole.startswith(head)
        assert whole.endswith(tail)
        assert len(head) + len(tail) >= 26 // 2


@pytest.mark.parametrize(
    ("label", "lines"),
    [
        ("ranker/3 @champion", ("ranker/3 @champion",)),
        ("a" * 26, ("a" * 26,)),
        ("a" * 27, ("a" * 26, "a")),
        ("feature service ranking 1a2b3c4d", ("feature service ranking", "1a2b3c4d")),
        ("a" * 13 + " " + "b" * 12 + " c", ("a" * 13 + " " + "b" * 12, "c")),
        ("watch_minutes_sum_28d_of_evenings", ("watch_minutes_sum_28d_of_", "evenings")),
        ("x" * 100, ("x" * 26, "x" * 26, "…" + "x" * 25)),
        ("映" * 14, ("映" * 13, "映")),
        ("", ("",)),
    ],
)
def test_a_label_is_broken_at_spaces_then_at_marks_then_anywhere(label, lines):
    assert wrapped(label) == lines
