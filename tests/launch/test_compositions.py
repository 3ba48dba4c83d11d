"""What is composed once for many runs is what Hydra composes for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import hydra
import pytest
from omegaconf import DictConfig, OmegaConf

import run as program
from coincide.schema import UserError
from launch.compositions import Compositions

WORDS = {
    "plain values": ["method=coincide", "data=lab", "budget=0.1", "method.temperature=0.2"],
    "texts of every kind": ["budget='0.3'", "data.name='a b: c'", "paths.store=/a/b"],
    "none, truth, interpolation": ["train.seed=null", "dry_run=true", "train.lr=${budget}"],
    "twice": ["seed=1", "seed=2"],
    "added and removed": ["+train.more=1", "~eval.benchmarks.presence", "seed=1"],
    "set before its whole": ["train.rank=2", "train={rank:3}", "train.lr=1e-3"],
    "set where it was added": ["+eval.benchmarks.presence.more={b:1}", "seed=1",
                               "eval.benchmarks.presence.more.b=2"],
    "a list": ["stages=[select]", "method=full", "train.max_steps=5"],
    "an experiment": ["experiment=demo_ablation_parts", "+ablation=uniform", "seed=2"],
    "of another folder": ["hydra.searchpath=[file:///usr]", "seed=2"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _folder() -> Iterator[None]:
    with hydra.initialize_config_dir(str(program.CONF), version_base="1.3"):
        yield


def written(cfg: DictConfig) -> object:
    return OmegaConf.to_container(cfg, resolve=False)


@pytest.mark.parametrize("case", WORDS)
def test_a_configuration_is_the_one_that_hydra_composes(case: str) -> None:
    words = WORDS[case]
    known = Compositions(program._compose, program.CONF)
    for _ in range(2):
        assert written(known.configuration(words)) == written(hydra.compose("config", words))


def test_runs_that_differ_in_values_are_composed_once_and_share_nothing() -> None:
    asked: list[Sequence[str]] = []

    def compose(words: Sequence[str]) -> DictConfig:
        asked.append(words)
        return program._compose(words)

    known = Compositions(compose, program.CONF)
    known.hydra([])
    batches = [[f"method={m}", f"seed={s}"] for m in ("full", "random") for s in range(3)]
    found = [known.configuration(batch) for batch in batches]
    found[0].train.rank = 99
    assert [cfg.seed for cfg in found] == [0, 1, 2] * 2
    assert found[1].train.rank != 99
    assert [tuple(words) for words in asked] == [(), ("method=full",), ("method=random",)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seed=0", "budgett=1"], "unknown key 'budgett'; the choices here .* Did you mean budget"),
        (["seed=many"], "many"),
        (["method=full", "method.temperature=1"], "unknown key 'method.temperature'"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_hydras_words(
    words: list[str], expected: str
) -> None:
    with pytest.raises(UserError, match=expected) as ours:
        Compositions(program._compose, program.CONF).configuration(words)
    with pytest.raises(UserError) as theirs:
        program._compose(words)
    assert str(ours.value) == str(theirs.value)
