"""A folder of many experiments, generated: what checks, overlaps and assignment are measured on."""

from __future__ import annotations

from pathlib import Path

_EXPERIMENT = """\
name: {name}
layer: {layer}
owner: generated
hypothesis: Generated, to see how many can run at once.
slot: [{low}, {high}]
rollout: {rollout}
effect: 0.05
planned_units: 20000
start: 2026-01-01
end: 2026-04-01
arms:
  control: {{share: 0.5, parameters: {{{parameter}: 0.25}}}}
  treatment: {{share: 0.5, parameters: {{{parameter}: 0.75}}}}
metrics:
  primary: minutes_7d
  guardrails:
    - plays_7d
    - {{metric: back_in_week_2, margin: 0.02}}
"""
_METRICS = """\
metrics:
  minutes_7d: {kind: mean, of: {source: plays, sum: watch_minutes}, window_days: 7, covariate_days: 28}
  plays_7d: {kind: mean, of: {source: plays}, window_days: 7, margin: 0.05}
  back_in_week_2: {kind: retention, of: {source: plays}, from_day: 7, window_days: 14}
"""


def write_folder(folder: Path, experiments: int = 250, layers: int = 25) -> None:
    """`experiments` declarations over `layers` layers, each with a slot of its own, and a parameter for each layer."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"layer_{i}" for i in range(layers)]
    declared = "".join(f"  {name}: {{description: generated}}\n" for name in names)
    parameters = "".join(
        f"  p{i}: {{layer: {name}, kind: number, default: 0, bounds: [0, 1], description: generated}}\n"
        for i, name in enumerate(names)
    )
    (folder / "parameters.yaml").write_text(f"layers:\n{declared}parameters:\n{parameters}", encoding="utf-8")
    (folder / "metrics.yaml").write_text(_METRICS, encoding="utf-8")
    slots = -(-experiments // layers)
    for number in range(experiments):
        layer, slot = number % layers, number // layers
        text = _EXPERIMENT.format(
            name=f"e{layer}-{slot}", layer=f"layer_{layer}", parameter=f"p{layer}", rollout=0.5 + 0.5 * slot / slots,
            low=round(slot / slots, 4), high=round((slot + 1) / slots, 4),
        )  # fmt: skip
        (folder / f"e{layer}-{slot}.yaml").write_text(text, encoding="utf-8")
