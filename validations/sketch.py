"""A small picture of each column's distribution, read off a bounded number of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from validations.drift import has_numbers

ROWS = 10_000
"""Rows a picture is drawn from, evenly spaced over the table: enough for 16 bars, whatever the table's size."""

BINS = 16
WIDTH, HEIGHT = 96, 20  # pixels


def sketches(table: pa.Table, columns: Sequence[str]) -> dict[str, str]:
    """Column → SVG of its histogram, for the columns that are numbers and have at least one."""
    rows = np.unique(np.linspace(0, max(table.num_rows - 1, 0), ROWS).astype(np.int64))
    few = table.take(pa.array(rows)) if table.num_rows > ROWS else table
    drawn = ((name, histogram(few[name])) for name in columns if has_numbers(few, name))
    return {name: svg(bars) for name, bars in drawn if bars}


def histogram(column: pa.ChunkedArray) -> tuple[int, ...]:
    """The finite values counted in `BINS` bins of equal width from the least to the greatest; () without any."""
    values = column.drop_null().to_numpy().astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return ()
    low, high = values.min(), values.max()
    # Scaled before the difference is taken: high − low of two doubles can be infinite.
    spread = high / 2 - low / 2
    place = np.zeros(len(values)) if spread == 0 else (values / 2 - low / 2) / spread
    bins = np.minimum((place * BINS).astype(np.int64), BINS - 1)
    return tuple(np.bincount(bins, minlength=BINS).tolist())


def svg(bars: Sequence[int]) -> str:
    """Bars as tall as their counts; a bin that holds anything shows at least a pixel."""
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{" ".join(map(str, bars))}">'
        f'<path d="{"".join(_bars(bars))}"/></svg>'
    )


def _bars(bars: Sequence[int]) -> Iterator[str]:
    wide, most = WIDTH // len(bars), max(bars)
    for i, count in enumerate(bars):
        if count:
            tall = max(1, round(HEIGHT * count / most))
            yield f"M{i * wide} {HEIGHT}v-{tall}h{wide - 1}v{tall}z"
