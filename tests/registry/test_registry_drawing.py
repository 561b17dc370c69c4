"""A lineage as a picture and as a flow chart: all of it, once, legible, and folded where there is very much."""

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.boxes import MOST_BOXES, Kind, arrows
from registry.drawing import DARK, LIGHT, to_svg
from registry.layout import cells
from registry.lineage import (
    ArmNode,
    BentoNode,
    FeatureNode,
    Lineage,
    ReadoutNode,
    ServiceNode,
    TrainingSetNode,
    VersionNode,
)

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
SVG = "{http://www.w3.org/2000/svg}"


def version(ref, service=None, made=None, aliases=(), upstream=()):
    return VersionNode(ref, "d", made, (service,) if service else (), tuple(upstream), tuple(aliases))


def training_set(digest, service=None, source="world"):
    return TrainingSetNode(
        digest, source, NEW_YEAR - timedelta(days=7), NEW_YEAR, 1000, {}, (service,) if service else ()
    )


def arm(run, name, ref, state="stopped", experiment=None):
    return ArmNode(run, experiment or f"e{run}", name, state, "ranker", ref)


def lineage(**parts):
    kinds = ("features", "services", "training_sets", "versions", "bentos", "arms", "readouts")
    return Lineage(
        parts.pop("target", "ranker@champion"), **{kind: tuple(parts.get(kind, ())) for kind in kinds}
    )


def chain():
    """Two features in a service, a training set, two versions, a Bento of both, a run of two arms, a read-out."""
    return lineage(
        features=[FeatureNode("f1", "plays_7d", "user", "FLOAT"), FeatureNode("f2", "year", "title", "FLOAT")],
        services=[ServiceNode("5e21ce00ff", "ranking", ("f1", "f2"))],
        training_sets=[training_set("7a11", "5e21ce00ff")],
        versions=[version("ranker/1", "5e21ce00ff", "7a11"), version("ranker/2", "5e21ce00ff", "7a11", ["champion", "b"])],
        bentos=[BentoNode("home:a", "d", NEW_YEAR, ("ranker/1", "ranker/2"))],
        arms=[arm(1, "control", "ranker/1"), arm(1, "new", "ranker/2")],
        readouts=[ReadoutNode(9, 1, "e1", NEW_YEAR, {})],
    )  # fmt: skip


CHAIN = {
    "feature f1": "user: plays_7d",
    "feature f2": "title: year",
    "service 5e21ce00ff": "feature service ranking 5e21ce00",
    "events world [2025-12-25 00:00, 2026-01-01 00:00)": "events world [2025-12-25 00:00, 2026-01-01 00:00)",
    "training set 7a11": "training set 7a11: 1,000 rows",
    "version ranker/1": "ranker/1",
    "version ranker/2": "ranker/2 @champion @b",
    "bento home:a": "Bento home:a",
    "arm 1 control": "arm e1/control (stopped)",
    "arm 1 new": "arm e1/new (stopped)",
    "readout 9": "read-out 9 of e1",
}


@dataclass(frozen=True)
class Drawn:
    """A box as it is in a picture, from the upper left corner of the document."""

    classes: tuple[str, ...]
    title: str
    shown: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Picture:
    """What is in a picture."""

    width: float
    height: float
    boxes: dict[str, Drawn]
    paths: list[tuple[str, str, tuple[float, ...], tuple[float, ...]]]  # before, behind, start, end
    heads: list[str]


def read(svg):
    """A picture from its text; every box has a name of its own."""
    root = ET.fromstring(svg)
    left, top, width, height = map(float, root.get("viewBox").split())
    assert (left, top) == (0, 0)
    x, y = map(float, re.findall(r"\d+", root.find(f"{SVG}g").get("transform")))
    found = [_drawn(group, x, y) for group in root.iter(f"{SVG}g") if group.get("data-name") is not None]
    paths = [_path(path, x, y) for path in root.iter(f"{SVG}path")]
    heads = ["".join(t.itertext()) for t in root.iter(f"{SVG}text") if t.get("class", "").startswith("head")]
    boxes = dict(found)
    assert len(boxes) == len(found)
    return Picture(width, height, boxes, paths, heads)


def _drawn(group, x, y):
    rect = group.find(f"{SVG}rect")
    left, top = x + float(rect.get("x")), y + float(rect.get("y"))
    right, bottom = left + float(rect.get("width")), top + float(rect.get("height"))
    shown = " ".join(text.text or "" for text in group.iter(f"{SVG}text"))
    title = group.find(f"{SVG}title").text or ""
    return group.get("data-name"), Drawn(
        tuple(group.get("class").split()), title, shown, left, top, right, bottom
    )


def _path(path, x, y):
    numbers = [float(number) for number in re.findall(r"-?\d+", path.get("d"))]
    assert re.fullmatch(r"M[^A-Z]+(C[^A-Z]+H[^A-Z]+)*C[^A-Z]+", path.get("d"))
    start, end = (numbers[0] + x, numbers[1] + y), (numbers[-2] + x, numbers[-1] + y)
    return path.get("data-before"), path.get("data-behind"), start, end


def names():
    """Anything a database can hold as text."""
    return st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


def some(strategy, most):
    """Up to `most` of these, numbered, so that each can have a name of its own."""
    return st.lists(strategy, max_size=most).map(lambda found: list(enumerate(found)))


@st.composite
def lineages(draw):
    """Lineages with any names, in which what is joined with what is drawn at random."""
    named = st.tuples(names(), names())
    features = [FeatureNode(f"f{n}{name}", name, view, "FLOAT") for n, (name, view) in draw(some(named, 9))]
    members = st.lists(st.sampled_from([f.digest for f in features] or [""]), unique=True, min_size=1)
    services = (
        [ServiceNode(f"s{n}", draw(names()), tuple(held)) for n, held in draw(some(members, 2))]
        if features
        else []
    )
    service = st.sampled_from([None, *(made.digest for made in services)])
    made = [training_set(f"t{n}", draw(service), f"{n}{source}") for n, source in draw(some(names(), 3))]
    learned = st.sampled_from([None, *(one.digest for one in made)])
    aliases = st.lists(names(), max_size=2)
    versions = [
        version(f"{name}/{n}", draw(service), draw(learned), draw(aliases))
        for n, name in draw(some(names(), 6))
    ]
    refs = st.sampled_from([one.ref for one in versions] or ["gone/1"])
    packed = st.lists(refs, unique=True)
    bentos = [
        BentoNode(f"{name}:{n}", "d", NEW_YEAR, tuple(draw(packed))) for n, name in draw(some(names(), 3))
    ]
    states = st.sampled_from(["running", "stopped"])
    arms = [
        arm(n // 2, f"{n}{name}", draw(refs), draw(states), experiment)
        for n, (name, experiment) in draw(some(named, 5))
    ]
    readouts = [
        ReadoutNode(n, draw(st.integers(0, 2)), name, NEW_YEAR, {}) for n, name in draw(some(names(), 3))
    ]
    return lineage(target=draw(names()), features=features, services=services, training_sets=made, versions=versions,
                   bentos=bentos, arms=arms, readouts=readouts)  # fmt: skip


ANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
UNWRITABLE = {*range(32)} - {9, 10, 13} | {0xFFFE, 0xFFFF}  # XML 1.0 has no way to write these


def written(text):
    return "".join("\ufffd" if ord(letter) in UNWRITABLE else letter for letter in text)


def test_everything_is_in_the_picture_once_with_its_whole_name():
    live = {"version ranker/2"}
    boxes = read(to_svg(chain())).boxes
    assert {name: drawn.title for name, drawn in boxes.items()} == {
        name: label + " (in use now)" * (name in live) for name, label in CHAIN.items()
    }
    assert {name: drawn.shown for name, drawn in boxes.items()} == CHAIN


def test_columns_are_headed_in_the_order_of_the_chain_with_how_many_there_are():
    assert read(to_svg(chain())).heads == [
        "raw events 1", "features 2", "feature services 1", "training sets 1", "model versions 2", "Bentos 1", "arms 2",
        "read-outs 1",
    ]  # fmt: skip
    assert read(to_svg(lineage(versions=[version("ranker/1")]))).heads == ["model versions 1"]


@ANY
@given(lineages())
def test_whatever_names_are_like_they_are_in_the_picture_as_they_are(made):
    picture, boxes = read(to_svg(made)), made.boxes()
    assert [*picture.boxes] == [written(box.name) for box in boxes]
    for box in boxes:
        drawn = picture.boxes[written(box.name)]
        assert drawn.title == written(box.label) + " (in use now)" * box.live
        if cells(label := " ".join(box.label.split())) <= 26:
            assert drawn.shown == written(label)
    assert ET.fromstring(to_svg(made)).find(f"{SVG}title").text == written(f"Lineage of {made.target}")


@ANY
@given(lineages())
def test_boxes_and_text_lie_inside_the_picture(made):
    svg = to_svg(made)
    picture = read(svg)
    for drawn in picture.boxes.values():
        assert 0 < drawn.left < drawn.right < picture.width
        assert 0 < drawn.top < drawn.bottom < picture.height
    for text in re.finditer(r'<text class="(?:legend|name)" x="(\d+)" y="\d+">([^<]*)<', svg):
        assert int(text[1]) + len(text[2]) * 12 * 0.6 < picture.width


@ANY
@given(lineages())
def test_every_arrow_joins_the_boxes_it_should(made):
    picture = read(to_svg(made))
    wanted = Counter((written(origin), written(behind)) for origin, behind in arrows(made.boxes()))
    assert Counter((before, behind) for before, behind, *_ in picture.paths) == wanted
    for before, behind, start, end in picture.paths:
        one, other = picture.boxes[before], picture.boxes[behind]
        assert start == (one.right, (one.top + one.bottom) / 2)
        assert end == (other.left, (other.top + other.bottom) / 2)


def test_the_arrows_of_the_chain():
    served = [("version ranker/1", "arm 1 control"), ("version ranker/2", "arm 1 new")]
    assert sorted(arrows(chain().boxes())) == sorted([
        ("feature f1", "service 5e21ce00ff"),
        ("feature f2", "service 5e21ce00ff"),
        ("service 5e21ce00ff", "training set 7a11"),
        ("events world [2025-12-25 00:00, 2026-01-01 00:00)", "training set 7a11"),
        *((origin, f"version ranker/{n}") for origin in ("service 5e21ce00ff", "training set 7a11") for n in (1, 2)),
        *((f"version ranker/{n}", "bento home:a") for n in (1, 2)),
        *served,
        *((name, "readout 9") for _, name in served),
    ])  # fmt: skip


def flow_chart(mermaid):
    """The labels of a flow chart in order, and its arrows as places in that order."""
    head, *lines = mermaid.split("\n")
    assert head == "flowchart LR"
    boxes = [match for line in lines if (match := re.fullmatch(r'  (n\d+)\["([^"<>`&%]*)"\]', line))]
    pairs = [match for line in lines if (match := re.fullmatch(r"  (n\d+) --> (n\d+)", line))]
    assert len(boxes) + len(pairs) == len(lines)
    place = {box[1]: at for at, box in enumerate(boxes)}
    return [box[2] for box in boxes], [(place[a], place[b]) for a, b in (pair.groups() for pair in pairs)]


@ANY
@given(lineages())
def test_the_flow_chart_has_the_boxes_and_arrows_of_the_picture(made):
    picture = read(to_svg(made))
    place = {name: at for at, name in enumerate(picture.boxes)}
    labels, pairs = flow_chart(made.to_mermaid())
    assert len(labels) == len(place)
    assert Counter(pairs) == Counter((place[before], place[behind]) for before, behind, *_ in picture.paths)


def test_a_label_cannot_end_dress_up_or_direct_a_flow_chart():
    name = 'a"]\n%%{init: {}}%% <b>&lt;`#'
    labels, _ = flow_chart(lineage(features=[FeatureNode("f", name, "user", "FLOAT")]).to_mermaid())
    assert labels == ["user: a#quot;] #37;#37;{init: {}}#37;#37; #lt;b#gt;#amp;lt;#96;#35;"]


def test_a_picture_is_text_shapes_and_rules_and_nothing_from_elsewhere():
    svg = to_svg(big(2, 2))
    root = ET.fromstring(svg)
    kinds = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert kinds <= {"svg", "title", "style", "rect", "circle", "path", "g", "text", "tspan"}
    attributes = {name for element in root.iter() for name in element.attrib}
    assert attributes <= {"class", "viewBox", "width", "height", "role", "transform", "data-name", "data-before", "data-behind",
                          "x", "y", "rx", "cx", "cy", "r", "d"}  # fmt: skip
    assert "url(" not in svg
    assert "@import" not in svg
    assert svg.count("://") == 1  # the name of SVG's own vocabulary


PROGRAM = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("drawing_tests", sys.argv[1])
sys.modules["drawing_tests"] = tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
sys.stdout.buffer.write(tests.to_svg(tests.big(60, 60)).encode())
"""


def test_equal_lineages_are_drawn_in_equal_bytes_in_any_process():
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, __file__], capture_output=True, check=True, env=environment
    )
    assert done.stdout == to_svg(big(60, 60)).encode() == to_svg(big(60, 60)).encode()


def test_what_is_live_is_marked_and_what_is_not_is_not():
    running = [arm(1, "control", "ranker/1", "running"), arm(2, "control", "ranker/2")]
    made = lineage(
        versions=[version("ranker/1"), version("ranker/2"), version("ranker/3", aliases=["b"])], arms=running
    )
    boxes = read(to_svg(made)).boxes
    assert {name for name, drawn in boxes.items() if "live" in drawn.classes} == {
        "version ranker/1", "version ranker/3", "arm 1 control",
    }  # fmt: skip
    assert to_svg(made).count('<circle class="dot"') == 3 + 1  # and one in the legend
    assert "in use now" not in to_svg(lineage(versions=[version("ranker/1")]))


def test_a_feature_in_no_service_is_drawn_alone():
    boxes = read(to_svg(lineage(features=[FeatureNode("f", "unused", "user", "FLOAT")]))).boxes
    assert [drawn.title for drawn in boxes.values()] == ["user: unused"]


@pytest.mark.parametrize(("features", "boxes"), [(6, 6), (7, 1)])
def test_more_than_six_features_of_a_view_in_a_service_share_a_box(features, boxes):
    nodes = [FeatureNode(f"f{n}", f"plays_{n}d", "user", "FLOAT") for n in range(features)]
    made = lineage(
        features=nodes, services=[ServiceNode("s", "ranking", tuple(node.digest for node in nodes))]
    )
    picture = read(to_svg(made))
    assert len(picture.boxes) == boxes + 1
    assert picture.heads[0] == f"features {features}"
    assert ["folded" in drawn.classes for drawn in picture.boxes.values()] == [boxes == 1] * boxes + [False]


def test_where_there_is_nothing_to_draw_the_picture_says_so():
    svg = to_svg(lineage(target="experiment rows"))
    assert read(svg).boxes == {}
    assert "Lineage of experiment rows" in svg
    assert "Nothing hangs on it" in svg


def luminance(colour):
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def test_a_reader_whose_system_is_dark_gets_dark_paper():
    style = ET.fromstring(to_svg(chain())).find(f"{SVG}style").text
    light, dark = style.split("@media (prefers-color-scheme:dark)")
    assert f".paper{{fill:{LIGHT.paper}}}" in light
    assert f".paper{{fill:{DARK.paper}}}" in dark


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_can_be_read_on_their_paper(palette):
    """WCAG 2.2: text 4.5 to 1 (AA), what one must see to understand 3 to 1."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert set(palette.kinds) == set(Kind)
    for inside, outline in palette.kinds.values():
        assert contrast(palette.ink, inside) >= 4.5
        assert contrast(outline, palette.paper) >= 4.5
        assert contrast(outline, inside) >= 3
    assert contrast(palette.ink, palette.paper) >= 4.5
    assert contrast(palette.arrow, palette.paper) >= 3
    assert contrast(palette.live, palette.paper) >= 3


# --- folding ---------------------------------------------------------------------------------------------------


def big(versions, experiments, *, live=()):
    """So many versions of one model from one training set, and runs of two arms with a read-out each."""
    return lineage(
        target="training_set t",
        training_sets=[training_set("t")],
        versions=[version(f"ranker/{n}", None, "t", ["x"] * (n in live)) for n in range(1, versions + 1)],
        bentos=[BentoNode(f"home:{n}", "d", NEW_YEAR, (f"ranker/{n}",)) for n in range(1, versions + 1)],
        arms=[
            arm(run, name, f"ranker/{run}", "running" if run in live else "stopped")
            for run in range(1, experiments + 1) for name in ("a", "b")
        ],
        readouts=[ReadoutNode(run, run, f"e{run}", NEW_YEAR, {}) for run in range(1, experiments + 1)],
    )  # fmt: skip


def test_of_thousands_the_newest_and_the_live_are_drawn_and_the_rest_are_one_box_that_counts_them():
    boxes = read(to_svg(big(5000, 2000, live={7, 1234}))).boxes
    shown = [name.removeprefix("version ") for name in boxes if name.startswith("version ")]
    assert shown == [f"ranker/{n}" for n in (7, 1234, *range(5000 - 23, 5001))]
    assert boxes["more model versions"].title == "ranker: 4,974 more model versions"  # 5,000 − 24 − 2
    assert boxes["more arms"].title == "3,972 more arms"  # 4,000 − 24 − 4
    assert boxes["more Bentos"].title == "home: 4,976 more Bentos"
    assert {"arm 7 a", "arm 7 b", "arm 1234 a", "arm 1234 b"} <= set(boxes)
    assert "folded" in boxes["more arms"].classes


def test_what_is_folded_is_said_to_be_of_its_source_service_or_experiment_where_that_is_one():
    made = [training_set(f"t{n}")._replace(interval_start=NEW_YEAR - timedelta(days=n)) for n in range(1, 31)]
    services = [ServiceNode(f"s{n}", "ranking", ("f",)) for n in range(30)]
    arms = [arm(n, "a", "ranker/1", experiment="rows") for n in range(30)]
    readouts = [ReadoutNode(n, n, "rows", NEW_YEAR, {}) for n in range(30)]
    features = [FeatureNode("f", "plays_7d", "user", "FLOAT")]
    boxes = read(
        to_svg(
            lineage(features=features, services=services, training_sets=made, arms=arms, readouts=readouts)
        )
    ).boxes
    assert [drawn.title for name, drawn in boxes.items() if name.startswith("more")] == [
        "world: 6 more raw events", "ranking: 6 more feature services", "world: 6 more training sets", "rows: 6 more arms",
        "rows: 6 more read-outs",
    ]  # fmt: skip


def test_a_box_that_stands_for_several_is_dashed_and_the_legend_says_so():
    classes = {name: drawn.classes for name, drawn in read(to_svg(big(26, 0))).boxes.items()}
    assert {name for name, marks in classes.items() if "folded" in marks} == {
        "more model versions",
        "more Bentos",
    }
    assert "stands for several" in to_svg(big(26, 0))
    assert "stands for several" not in to_svg(big(25, 0))


def test_what_was_folded_is_still_counted_joined_and_in_the_json():
    made = big(5000, 2000)
    picture = read(to_svg(made))
    assert picture.heads[1:] == [
        "training sets 1",
        "model versions 5,000",
        "Bentos 5,000",
        "arms 4,000",
        "read-outs 2,000",
    ]
    joined = {(before, behind) for before, behind, *_ in picture.paths}
    assert {("training set t", "more model versions"), ("more model versions", "more Bentos"),
            ("more model versions", "more arms"), ("more arms", "more read-outs")} <= joined  # fmt: skip
    assert [node["ref"] for node in made.to_dict()["versions"]] == [f"ranker/{n}" for n in range(1, 5001)]


def test_a_flow_chart_of_thousands_stays_within_what_mermaid_draws():
    """Its defaults: `maxEdges` 500, `maxTextSize` 50,000."""
    long = "n" * 200
    made = big(5000, 2000, live=range(0, 5000, 500))
    made = replace(made, versions=tuple(node._replace(ref=f"{long}{node.ref}") for node in made.versions))
    labels, pairs = flow_chart(made.to_mermaid())
    assert len(pairs) <= 500
    assert len(made.to_mermaid()) <= 50_000
    assert len([label for label in labels if label.startswith("nnn")]) > MOST_BOXES
    assert max(map(len, labels)) == 120


def test_a_version_is_drawn_behind_those_it_was_trained_behind_even_when_most_are_folded():
    pair = lineage(versions=[version("artwork/1", upstream=["ranker/1"]), version("ranker/1", upstream=["retriever/1"]),
                             version("retriever/1")])  # fmt: skip
    picture = read(to_svg(pair))
    assert picture.heads == ["model versions 1"] * 3
    assert {(before, behind) for before, behind, *_ in picture.paths} == {
        ("version retriever/1", "version ranker/1"), ("version ranker/1", "version artwork/1"),
    }  # fmt: skip
    many = [version(f"ranker/{n}", upstream=[f"ranker/{n - 1}"] if n > 1 else ()) for n in range(1, 101)]
    joined = {(before, behind) for before, behind, *_ in read(to_svg(lineage(versions=many))).paths}
    assert joined == {(f"version ranker/{n - 1}", f"version ranker/{n}") for n in range(78, 101)}


def test_the_arm_and_the_readout_that_were_asked_about_stay():
    made = big(100, 100)
    for target, name in [("e3/a", "arm 3 a"), ("arm e3/b", "arm 3 b"), ("experiment e4", "arm 4 a"),
                         ("readout 5", "readout 5"), ("6", "readout 6")]:  # fmt: skip
        assert name in read(to_svg(replace(made, target=target))).boxes
        assert name not in read(to_svg(made)).boxes
