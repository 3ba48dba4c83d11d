"""Costs of a run before it starts, from the sizes that the YAMLs give."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import run as program
from coincide.checks.estimate import StageEstimate, chosen_of, costs
from coincide.checks.flops import device_name, gpu_hours, peak_flops
from coincide.experiment import Experiment

STAGES = ("features", "select", "train", "evaluate", "report")


@dataclass
class Sized:
    name: str = "x"
    scale: dict[str, Any] = field(default_factory=dict)
    benchmarks: dict[str, Any] = field(default_factory=dict)

    def step(self) -> Any:
        from coincide.schema import UserError

        raise UserError("its files are not here")


def experiment(*words: str, **parts: Any) -> Experiment:
    (job,) = program.compose_all(list(words))
    made = job.experiment
    made.source = Sized("llava", {"rows": 665_298, "text_tokens": 174})
    made.models = {
        **made.models,
        "reference": Sized("ref", {"parameters": 2 * 10**9, "hidden": 2048, "image_tokens": 729}),
        "clip": Sized("clip", {"parameters": 4 * 10**8, "hidden": 768, "image_tokens": 576}),
    }
    made.target = Sized("target", {"parameters": 7 * 10**9, "hidden": 4096, "image_tokens": 576})
    made.suite = Sized(benchmarks={"a": SimpleNamespace(asked=1000)})
    for name, part in parts.items():
        if name in made.models:
            made.models = {**made.models, name: part}
        else:
            setattr(made, name, part)
    return made


def by_stage(found: list[StageEstimate]) -> dict[str, StageEstimate]:
    return {cost.stage: cost for cost in found}


def test_coincide_on_llava() -> None:
    words = ("method=coincide", "method.clusters=10000", "method.layers=[3,7,11,15,19]")
    found = by_stage(costs(experiment(*words), STAGES))
    tokens = 665_298 * (729 + 174)
    assert found["features"].hours == pytest.approx(gpu_hours(2 * 2e9 * tokens))
    assert found["features"].disk == 665_298 * 20_480 * 2
    products = 2.0 * 665_298 * 10_000 * 20_480 * 50
    assert found["select"].hours == pytest.approx(gpu_hours(products))
    assert "A100" in found["train"].basis
    full = by_stage(costs(experiment("method=full"), STAGES))
    assert set(full) == {"train", "evaluate"}
    assert full["train"].hours is not None
    assert found["train"].hours == pytest.approx(0.2 * full["train"].hours, rel=1e-3)


def test_a_picture_that_rows_share_is_read_once() -> None:
    """By models that can: towers, and references that say so; not if sharing is off."""
    scale = {"rows": 665_298, "text_tokens": 174, "pictures": 378_797}
    reference = Sized("ref", {"parameters": 2 * 10**9, "hidden": 2048, "image_tokens": 729})
    for shares, off, pictures in (
        (True, False, 378_797),
        (False, False, 665_298),
        (True, True, 665_298),
    ):
        reference.scale["pictures_once"] = shares
        words = ("method=coincide", *(["features.share_prefixes=false"] if off else []))
        made = experiment(*words, reference=reference, source=Sized("llava", scale))
        found = by_stage(costs(made, STAGES))["features"]
        tokens = pictures * 729 + 665_298 * 174
        assert found.hours == pytest.approx(gpu_hours(2 * 2e9 * tokens))
        assert ("378,797 pictures once" in found.basis) == (pictures == 378_797)


def test_what_matched_and_presel_build_of_others_is_counted() -> None:
    """A control pays for its method's selection; PreSel for pictures, and a finetuning on 5 %."""
    same = by_stage(costs(experiment("method=coincide"), STAGES))
    control = by_stage(costs(experiment("method=matched"), STAGES))
    for stage in ("features", "select"):
        assert control[stage].hours == pytest.approx(same[stage].hours)
    tower = Sized("dino", {"parameters": 9 * 10**7, "hidden": 768, "image_tokens": 257})
    made = experiment("method=presel", "budget=0.15", vision=tower)
    found = by_stage(costs(made, STAGES))
    pixels = 2 * 9e7 * 665_298 * 257
    assert found["features"].hours == pytest.approx(gpu_hours(pixels))
    part, trained = 99_794 // 3, by_stage(costs(made, STAGES))["train"].hours
    assert trained is not None
    first = trained * part / 99_794 + gpu_hours(2 * 7e9 * part * (576 + 2 * 174))
    assert found["select"].hours == pytest.approx(first, rel=1e-3)
    assert f"finetuning on {part:,} rows first" in found["select"].basis


def test_a_text_encoder_reads_the_questions_and_no_picture() -> None:
    encoder = Sized("minilm", {"parameters": 2 * 10**7, "hidden": 384, "image_tokens": 0})
    words = ("method=visnec", "method.questions=sentence")
    found = by_stage(costs(experiment(*words, sentence=encoder), STAGES))
    reads = 665_298 * (729 + 2 * 174)
    hours = gpu_hours(2 * 2e9 * reads) + gpu_hours(2 * 2e7 * 665_298 * 174)
    assert found["features"].hours == pytest.approx(hours)


def test_a_faster_device_takes_fewer_hours() -> None:
    slow, fast = (
        by_stage(costs(experiment("method=el2n"), STAGES, device))["features"].hours
        for device in ("NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3")
    )
    assert slow is not None
    assert fast == pytest.approx(slow * peak_flops("A100")[1] / peak_flops("H100")[1])


def test_self_filters_stage_is_charged_to_its_selection() -> None:
    found = by_stage(costs(experiment("method=self_filter"), STAGES))
    full = by_stage(costs(experiment("method=full"), STAGES))
    assert found["select"].hours == pytest.approx(full["train"].hours)
    fifth = by_stage(costs(experiment("method=coido"), STAGES))["select"]
    assert fifth.hours == pytest.approx(full["train"].hours / 5, rel=1e-4)
    assert "stage 1 of coido on 20% of the rows" in fifth.basis


def test_what_is_not_known_is_not_zero() -> None:
    found = by_stage(
        costs(experiment("method=coincide", reference=Sized(), target=Sized()), STAGES)
    )
    assert {cost.hours for cost in found.values()} == {None}
    assert all("not known" in cost.basis for cost in found.values())


def test_a_count_needs_no_rows() -> None:
    unknown = Sized(scale={"text_tokens": 174})
    a_count = experiment("method=random", "budget=1000", source=unknown)
    assert by_stage(costs(a_count, STAGES))["train"].hours
    a_fraction = experiment("method=random", "budget=0.2", source=unknown)
    assert by_stage(costs(a_fraction, STAGES))["train"].hours is None


def test_the_gpu_is_named_without_torch(tmp_path: Path) -> None:
    assert device_name(tmp_path) == ""
    (tmp_path / "0000:01:00.0").mkdir()
    text = "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 47\n"
    (tmp_path / "0000:01:00.0" / "information").write_text(text)
    assert device_name(tmp_path) == "NVIDIA H100 80GB HBM3"


def test_a_budget_is_counted_as_it_will_be_selected() -> None:
    """``int(0.29 * 100)`` is 28."""
    small = Sized("small", {"rows": 100, "text_tokens": 10})
    assert chosen_of(experiment("method=random", "budget=0.29", source=small)) == 29
