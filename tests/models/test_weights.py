"""Finding published weights: paths, the Hugging Face cache, what is missing, what keys hold."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coincide.models.weights import PretrainedCheckpoint, fetch, needed_files
from coincide.schema import UserError
from tests.mini.checkpoints import make_clip_tower, make_projector, make_siglip_tower, make_vicuna
from tests.mini.hub import COMMIT, cache_repository, served

PUBLISHED = [
    ".gitattributes", "README.md", "config.json", "generation_config.json", "evil.py",
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    "model.safetensors.index.json", "onnx/model.onnx", "onnx/config.json",
    "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin",
    "pytorch_model.bin.index.json", "tokenizer.json", "tokenizer.model", "training_args.bin",
    "chat_template.jinja", "flax_model.msgpack", "model.fp16.safetensors",
]  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_only_what_is_needed_is_fetched() -> None:
    small = ["chat_template.jinja", "config.json", "generation_config.json", "tokenizer.json"]
    safe = [name for name in PUBLISHED if "safetensors" in name and "fp16" not in name]
    assert needed_files(PUBLISHED) == sorted([*small, "tokenizer.model", *safe])


def test_pickles_where_there_is_nothing_else() -> None:
    names = needed_files(name for name in PUBLISHED if "safetensors" not in name)
    assert "pytorch_model-00002-of-00002.bin" in names
    assert "pytorch_model.bin.index.json" in names
    assert "training_args.bin" not in names and "evil.py" not in names


def test_a_path_that_exists_is_used(tmp_path: Path) -> None:
    folder = make_siglip_tower(tmp_path / "tower")
    checkpoint = PretrainedCheckpoint(str(folder))
    assert checkpoint.folder() == folder and checkpoint.name == "tower"
    assert checkpoint.requirement().met
    assert [path.name for path in checkpoint.paths()] == ["config.json", "model.safetensors"]


def test_a_path_relative_to_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_siglip_tower(tmp_path / "owner" / "tower")
    monkeypatch.chdir(tmp_path)
    assert PretrainedCheckpoint("owner/tower").requirement().met
    assert "content" in PretrainedCheckpoint("owner/tower").identity()


def test_the_cache_is_used(cache: Path, tmp_path: Path) -> None:
    folder = make_vicuna(tmp_path / "vicuna", layers=1)
    snapshot = cache_repository(cache, "lmsys/vicuna-7b-v1.5", folder)
    for name in ("lmsys/vicuna-7b-v1.5", f"lmsys/vicuna-7b-v1.5@{COMMIT}"):
        checkpoint = PretrainedCheckpoint(name)
        assert checkpoint.folder() == snapshot and checkpoint.requirement().met
        assert checkpoint.name == "vicuna-7b-v1.5"
        assert checkpoint.identity() == {"repo": "lmsys/vicuna-7b-v1.5", "commit": COMMIT}
    other = PretrainedCheckpoint("lmsys/vicuna-7b-v1.5", revision="v2")
    assert other.identity() == {"repo": "lmsys/vicuna-7b-v1.5", "revision": "v2"}
    assert not other.requirement().met


def test_a_commit_is_known_before_it_is_fetched(cache: Path) -> None:
    assert PretrainedCheckpoint(f"a/b@{COMMIT}").identity() == {"repo": "a/b", "commit": COMMIT}


def test_a_half_fetched_repository_is_not_met(cache: Path, tmp_path: Path) -> None:
    folder = make_vicuna(tmp_path / "vicuna", layers=1)
    snapshot = cache_repository(cache, "lmsys/vicuna-7b-v1.5", folder)
    (snapshot / "pytorch_model-00001-of-00002.bin").unlink()
    requirement = PretrainedCheckpoint("lmsys/vicuna-7b-v1.5").requirement()
    assert not requirement.met and "lacks pytorch_model-00001-of-00002.bin" in requirement.found
    assert requirement.fetch is not None


def test_a_missing_repository_says_how_to_get_it(cache: Path) -> None:
    requirement = PretrainedCheckpoint("lmsys/vicuna-7b-v1.5").requirement()
    assert not requirement.met and requirement.bytes == 13_500_000_000
    assert "python -m coincide.prefetch" in requirement.remedy
    assert "hf download lmsys/vicuna-7b-v1.5)" in requirement.remedy
    with pytest.raises(UserError, match=r"not on this machine\. python -m coincide\.prefetch"):
        PretrainedCheckpoint("lmsys/vicuna-7b-v1.5").paths()


def test_the_environment_of_a_compute_node(tmp_path: Path) -> None:
    """HF_HOME laid out by hand, no network: nothing but the cache is looked at."""
    folder = make_projector(tmp_path / "projector" / "mm_projector.bin").parent
    cache_repository(tmp_path / "home" / "hub", "liuhaotian/projector", folder)
    code = (
        "from coincide.models.weights import PretrainedCheckpoint\n"
        "import sys\n"
        "found = PretrainedCheckpoint('liuhaotian/projector', files=('mm_projector.bin',))\n"
        "print(found.requirement().met, found.identity()['commit'], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", COMMIT, "False"]


def test_content_decides_not_place_or_time(tmp_path: Path) -> None:
    first = PretrainedCheckpoint(str(make_siglip_tower(tmp_path / "a")))
    identity = first.identity()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "README.md").write_text("not read")
    assert PretrainedCheckpoint(str(tmp_path / "b")).identity() == identity
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-5}))
    assert PretrainedCheckpoint(str(tmp_path / "b")).identity() != identity


def test_a_digest_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coincide.models import weights

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint = PretrainedCheckpoint(str(make_siglip_tower(tmp_path / "a")))
    identity = checkpoint.identity()

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was hashed again")

    monkeypatch.setattr(weights, "sha256_file", refuse)
    assert checkpoint.identity() == identity
    os.utime(tmp_path / "a" / "config.json", (1, 1))
    with pytest.raises(AssertionError, match=r"config\.json was hashed again"):
        checkpoint.identity()


@pytest.mark.parametrize("repo", ["a/b/c", "what is this", "/no/such/folder", "./gone", "~/gone"])
def test_what_cannot_be_a_repository_is_a_path(repo: str, cache: Path) -> None:
    requirement = PretrainedCheckpoint(repo).requirement()
    assert requirement.found == "no such path" and requirement.fetch is None
    assert "a folder with a whole model as it was published" in requirement.remedy


def test_fetched_from_a_hub(tmp_path: Path) -> None:
    """What is missing is fetched, no more than is needed, and is found without a network."""
    folder = make_siglip_tower(tmp_path / "published")
    (folder / "evil.py").write_text("raise SystemExit")
    (folder / "README.md").write_text("# A tower")
    code = (
        "from coincide.models.weights import PretrainedCheckpoint\n"
        "tower = PretrainedCheckpoint('bczhou/tower')\n"
        "before = tower.requirement()\n"
        "before.fetch()\n"
        "after = tower.requirement()\n"
        "print(before.met, after.met, tower.identity()['commit'])"
    )
    with served(folder, "bczhou/tower") as (address, asked):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={
                **os.environ,
                "HF_HOME": str(tmp_path / "home"),
                "HF_ENDPOINT": address,
                "NO_PROXY": "*",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout.split() == ["False", "True", COMMIT], done.stderr
    assert sorted(asked) == ["config.json", "model.safetensors"]


def test_fetching_asks_for_the_files_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[Any] = []
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, revision: [*PUBLISHED])
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda repo, **options: asked.append((repo, options)),
    )
    fetch("a/b", "main", ())
    fetch("a/b", "v2", ("mm_projector.bin",))
    assert asked == [
        ("a/b", {"revision": "main", "allow_patterns": needed_files(PUBLISHED)}),
        ("a/b", {"revision": "v2", "allow_patterns": ["mm_projector.bin"]}),
    ]


def test_a_failed_fetch_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", offline)
    with pytest.raises(UserError, match="a/b could not be fetched: no route to host"):
        fetch("a/b", "main", ())


def test_a_folder_of_pickles_is_whole(tmp_path: Path) -> None:
    assert PretrainedCheckpoint(str(make_clip_tower(tmp_path / "clip"))).requirement().met
    (tmp_path / "clip" / "pytorch_model.bin").unlink()
    requirement = PretrainedCheckpoint(str(tmp_path / "clip")).requirement()
    assert "lacks model.safetensors or pytorch_model.bin" in requirement.found
