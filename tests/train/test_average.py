"""The adapter is the mean over the last steps, also of a run that was stopped between them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch

from train.average import TailAverage


def trained(tail: TailAverage, layer: torch.nn.Linear, steps: range, total: int = 10) -> None:
    """Steps after each of which all weights equal the step's number."""
    for step in steps:
        with torch.no_grad():
            layer.weight.fill_(float(step))
        tail.on_step_end(None, SimpleNamespace(global_step=step, max_steps=total), None)


def test_the_last_share_of_the_steps_is_averaged_over_stops(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 1, bias=False)
    whole = TailAverage(layer, 0.35)
    trained(whole, layer, range(1, 11))
    assert whole.steps == 4 and whole.state()["weight"].unique().tolist() == [8.5]
    stopped = TailAverage(layer, 0.35)
    trained(stopped, layer, range(1, 9))
    folder = tmp_path / "checkpoint-8"
    folder.mkdir()
    state = SimpleNamespace(global_step=8, is_world_process_zero=True)
    stopped.on_save(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    resumed = TailAverage(layer, 0.35, str(folder))
    assert resumed.steps == 2
    trained(resumed, layer, range(9, 11))
    assert torch.equal(resumed.state()["weight"], whole.state()["weight"])


def test_before_the_first_of_them_the_weights_are_the_last(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 1, bias=False)
    tail = TailAverage(layer, 0.1)
    trained(tail, layer, range(1, 6))
    assert tail.steps == 0 and tail.state()["weight"].unique().tolist() == [5.0]
    assert TailAverage(layer, 0.1, str(tmp_path)).steps == 0, "a checkpoint from before them"
