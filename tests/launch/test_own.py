"""A target on the command line brings its recipe and suite, unless words or experiment choose."""

from __future__ import annotations

import hydra
import pytest
from omegaconf import OmegaConf

import run as program
from launch.own import with_own

OWN = OmegaConf.to_container(OmegaConf.load(program.CONF / "own.yaml"))
CASES = {
    ("target=qwen2_5_vl_3b",): (64, "today"),
    ("target=qwen2_5_vl_3b", "data=llava"): (64, "today"),
    ("target=qwen2_5_vl_3b", "data=llava", "train=lora"): (128, "today"),
    ("target=smolvlm2_2b", "data=the_cauldron", "eval=fast"): (32, "fast"),
    ("target=llava_1_5_13b", "data=llava"): (128, "paper"),
    ("data=llava_onevision",): (64, "today"),
    ("data=cambrian_7m",): (128, "paper"),
    (): (16, "demo"),
}


@pytest.mark.parametrize("words", CASES)
def test_recipe_and_suite_follow_the_target(words: tuple[str, ...]) -> None:
    with hydra.initialize_config_dir(str(program.CONF), version_base="1.3"):
        cfg = program.compose_run(words)
    assert (cfg.train.rank, cfg.eval.name) == CASES[words]


def test_every_target_there_is_a_file_and_so_is_what_it_brings() -> None:
    assert isinstance(OWN, dict)
    for target, brought in OWN.items():
        for group, name in {"target": target, **brought}.items():
            assert (program.CONF / group / f"{name}.yaml").is_file()


def test_an_experiment_that_chooses_a_group_keeps_it() -> None:
    words = ["target=qwen2_5_vl_3b", "experiment=reference_vision_flan"]
    brought = set(with_own(words, program.CONF)) - set(words)
    text = (program.CONF / "experiment" / "reference_vision_flan.yaml").read_text()
    chosen = {group for group in ("train", "eval") if f"override /{group}" in text}
    assert brought == {
        f"{g}={n}" for g, n in (("train", "lora_qwen_vl"), ("eval", "today")) if g not in chosen
    }
