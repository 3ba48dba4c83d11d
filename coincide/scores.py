"""``python -m coincide.scores store/scores/el2n-demo-...``: a plot and a table of scores.

Writes ``<folder name>.svg`` (histogram of the scores by source) and ``<folder name>.csv`` (row, id,
source, score) into the folder ``--out``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from coincide.schema import UserError
from coincide.store import check_path
from coincide.terminal.inert import guard_terminal

if TYPE_CHECKING:
    import pandas as pd

BINS = 40
MOST = 12
"""Sources with a histogram of their own; the smaller ones share one."""


def read(folder: Path) -> pd.DataFrame:
    """The table of a scores artifact: row, id, source, score (NaN: no score).

    Raises UserError if ``folder`` is none.
    """
    import pandas as pd

    path = folder / "scores.parquet"
    if not path.is_file():
        found = sorted(p.name for p in folder.glob("*")) if folder.is_dir() else []
        raise UserError(
            f"{folder}: expected a scores artifact (store/scores/<name>) with scores.parquet; "
            f"{'it holds ' + ', '.join(found) if found else 'there is no such folder'}."
        )
    check_path(path)
    return pd.read_parquet(path)


def plot(table: pd.DataFrame, path: Path) -> None:
    """Write a histogram of the scores for each source, with a common axis, as SVG to ``path``."""
    import numpy as np
    from matplotlib.figure import Figure

    judged = table.dropna(subset="score")
    largest = judged["source"].value_counts().index[:MOST]
    names = judged["source"].where(judged["source"].isin(largest), "other sources")
    groups = list(judged.groupby(names, sort=False))
    groups.sort(key=lambda group: -len(group[1]))
    edges = np.histogram_bin_edges(judged["score"], BINS)
    rows = -(-len(groups) // 3)
    figure = Figure(figsize=(9, 1.7 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, 3, sharex=True, squeeze=False).ravel()
    for panel, (name, group) in zip(panels, groups, strict=False):
        panel.hist(group["score"], edges, color="#0072b2")
        panel.set_title(f"{name} ({len(group):,})", fontsize=9, parse_math=False)
        panel.tick_params(labelsize=7)
    for panel in panels[len(groups) :]:
        panel.set_axis_off()
    unjudged = len(table) - len(judged)
    figure.supxlabel(f"score; {len(judged):,} examples, {unjudged:,} not judged", fontsize=9)
    figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> int:
    """Run the command: read the artifact, write both files, print their paths."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="a scores artifact: store/scores/<name>")
    parser.add_argument("--out", type=Path, default=Path(), help="where the files go")
    options = parser.parse_args()
    try:
        table = read(options.folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    name = options.folder.resolve().name
    plot(table, options.out / f"{name}.svg")
    table.to_csv(options.out / f"{name}.csv", index=False)
    print(f"{options.out / name}.svg and .csv")
    return 0


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
