"""Metrics in YAML: what they may say, and that what experiments say by name is written out."""

import pytest

from experiments.definitions import DefinedMetric
from experiments.reading import SHIPPED, InvalidConfig, load

MINUTES = {"source": "plays", "sum": "watch_minutes"}
MEAN = {"name": "m", "kind": "mean", "of": MINUTES, "window_days": 7}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param({"of": {"source": "play"}}, "no event table 'play'. Did you mean 'plays'?", id="table"),
        pytest.param({"of": {"source": "titles"}}, "no event table 'titles'", id="a table without users"),
        pytest.param({"of": {"source": "plays", "sum": "minutes"}}, "Did you mean 'watch_minutes'?", id="column"),
        pytest.param({"of": {"source": "plays", "sum": "device"}}, "only numbers and flags are added up", id="text"),
        pytest.param({"of": {"source": "plays", "where": {"devise": ["tv"]}}}, "Did you mean 'device'?", id="where"),
        pytest.param({"of": {"source": "plays", "where": {"device": []}}}, "allows no value of device", id="nothing"),
        pytest.param({"from_day": 7}, r"days \[7, 7\) hold no day", id="empty window"),
        pytest.param({"kind": "ratio"}, "a ratio, and nothing else, has a measure `per`", id="ratio without per"),
        pytest.param({"per": MINUTES}, "a ratio, and nothing else", id="per without ratio"),
        pytest.param({"kind": "quantile"}, "says which `quantile`", id="quantile without one"),
        pytest.param({"quantile": 0.5}, "kind quantile, and no other", id="mean of a quantile"),
        pytest.param({"kind": "retention"}, "from which day on", id="retention without horizon"),
        pytest.param({"cap": 5, "winsorise": 0.99}, "not at both", id="cut twice"),
        pytest.param({"kind": "conversion", "cap": 1}, "no long tail", id="a flag is not cut"),
        pytest.param({"kind": "quantile", "quantile": 0.5, "covariate_days": 7}, "no covariate", id="quantile, CUPED"),
    ],
)  # fmt: skip
def test_a_definition_that_means_nothing_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        DefinedMetric.model_validate(MEAN | fields)


def test_a_guardrail_takes_the_margin_given_or_its_metrics_own():
    own = DefinedMetric.model_validate(MEAN | {"margin": 0.03})
    assert (own.guardrail().margin, own.guardrail(0.01).margin) == (0.03, 0.01)
    with pytest.raises(ValueError, match="'m' has no margin"):
        DefinedMetric.model_validate(MEAN).guardrail()


BY_NAME = """\
name: by-name
layer: ranking
owner: me
hypothesis: names are enough
start: 2026-01-01
end: 2026-03-01
arms: {control: {share: 0.5}, treatment: {share: 0.5}}
metrics:
  primary: minutes_7d
  guardrails:
    - renewals_28d
    - metric: plays_7d
      margin: 0.1
"""


@pytest.fixture
def named(folder):
    (folder("metrics.yaml", (SHIPPED / "metrics.yaml").read_text()))
    return lambda old="", new="": folder("by-name.yaml", BY_NAME.replace(old, new) if old else BY_NAME)


def test_named_metrics_are_written_out_with_their_definitions(named):
    book = load(named())
    metrics = book.experiments["by-name"].metrics
    assert metrics.primary == book.metrics["minutes_7d"].metric()
    assert [(g.name, g.margin) for g in metrics.guardrails] == [("renewals_28d", 0.01), ("plays_7d", 0.1)]
    assert metrics.guardrails[0].columns == ("renewals_28d", "renewals_28d__per")
    assert metrics.primary.columns == ("minutes_7d", "minutes_7d__before")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("primary: minutes_7d", "primary: minutes_7", "by-name.yaml:9: metrics.primary: there is no metric 'minutes_7'. Did you mean 'minutes_7d'?"),
        ("metric: plays_7d", "metric: zzz", "by-name.yaml:12: metrics.guardrails.1.metric: there is no metric 'zzz'. metrics.yaml has: any_play_1d"),
        ("margin: 0.1", "margn: 0.1", "by-name.yaml:13: metrics.guardrails.1.margn: there is no such field"),
    ],
)  # fmt: skip
def test_a_name_nobody_defined_is_said_with_its_line(named, old, new, said):
    with pytest.raises(InvalidConfig) as wrong:
        load(named(old, new))
    assert said in str(wrong.value)


def test_a_wrong_definition_is_said_with_its_line(named, folder):
    text = (SHIPPED / "metrics.yaml").read_text().replace("window_days: 1\n", "window_days: 0\n")
    path = folder("metrics.yaml", text)
    line = text.splitlines().index("    window_days: 0") + 1
    with pytest.raises(InvalidConfig, match=rf"metrics\.yaml:{line}: metrics\.any_play_1d\.window_days"):
        load(path)
