"""A subset over a pool of shards is exported with its own pictures, as files or inside Parquet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from coincide import export
from coincide.data.images import load_image
from coincide.data.pool import ParquetPool
from coincide.data.subset import write_subset
from coincide.schema import Dataset
from coincide.store import Store
from tests.pools.made import the_cauldron


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    root = tmp_path_factory.mktemp("pool")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        the_cauldron(root / "shards")
        data = ParquetPool(str(root / "shards"))
        dataset = data.open(Store(root / "store").ensure(data.step()).path)
        (root / "subset").mkdir()
        write_subset(root / "subset", dataset, [1, 2, 7], {})
        return dataset, root


def exported(root: Path, form: str, out: Path, *words: str) -> int:
    given = ["--image-root", str(root / "shards"), *words]
    return export.main([str(root / "subset"), "--as", form, "--out", str(out), *given])


@pytest.mark.parametrize("form", ["llamafactory", "swift", "trl", "llava"])
def test_pictures_of_the_subset_alone_are_written_as_files(
    form: str, pool: tuple[Dataset, Path], tmp_path: Path
) -> None:
    dataset, root = pool
    assert exported(root, form, tmp_path / "x.json") == 0
    records = json.loads((tmp_path / "x.json").read_text())
    for record, row in zip(records, (1, 2, 7), strict=True):
        names = record.get("images", record.get("image"))
        names = names if isinstance(names, list) else [names]
        shown = dataset.examples[row].images
        assert len(names) == len(shown)
        for name, cell in zip(names, shown, strict=True):
            inside = np.asarray(load_image(dataset.image_root, cell))
            assert np.array_equal(np.asarray(load_image(tmp_path, name)), inside)
    written = {p for p in (tmp_path / "images").rglob("*") if p.is_file()}
    assert len(written) == len({name for row in (1, 2, 7) for name in dataset.examples[row].images})
    assert {p.suffix for p in written} <= {".png", ".jpg"}


def test_names_that_no_reader_opens_are_refused(
    pool: tuple[Dataset, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(pool[1], "swift", tmp_path / "x.json", "--images", "relative") == 2
    assert "--images copy writes those of the subset as files" in capsys.readouterr().err


def test_a_parquet_subset_comes_back_as_a_pool(
    pool: tuple[Dataset, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dataset, root = pool
    assert exported(root, "parquet", tmp_path / "x.parquet") == 0
    data = ParquetPool(str(tmp_path / "x.parquet"))
    back = data.open(Store(tmp_path / "store").ensure(data.step()).path).examples
    wanted = [dataset.examples[row] for row in (1, 2, 7)]
    assert [(e.id, e.source, e.turns) for e in back] == [(e.id, e.source, e.turns) for e in wanted]
    for mine, its in zip(back, wanted, strict=True):
        pixels = [load_image(tmp_path, name).tobytes() for name in mine.images]
        assert pixels == [load_image(dataset.image_root, name).tobytes() for name in its.images]
