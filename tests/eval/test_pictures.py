"""A picture is the same tensor in training and in evaluation, whatever file and whatever task."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coincide.data.images import CorruptImage
from coincide.models.encode import encode, encode_prompt
from coincide.models.load import load_processor
from coincide.models.template import TEMPLATES
from coincide.schema import Dataset, Example, Turn
from eval import made as small
from eval.loading import load_tasks
from eval.messages import turns_and_pictures
from tests.eval import hub
from tests.eval.hub import DatasetSplit
from tests.eval.real import benchmark, job
from tests.tiny_llava import make_tiny_llava

RAMP = np.arange(24 * 20, dtype=np.uint16).reshape(20, 24) * 130
COLOURS = np.random.default_rng(0).integers(0, 255, (20, 24, 4), dtype=np.uint8)


def _palette(*, transparent: bytes | int) -> tuple[Image.Image, dict[str, Any]]:
    return Image.fromarray(COLOURS[..., :3]).quantize(8), {"transparency": transparent}


def _exif() -> tuple[Image.Image, dict[str, Any]]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return Image.fromarray(COLOURS[..., :3]), {"exif": exif}


FILES: dict[str, tuple[str, Image.Image, dict[str, Any]]] = {
    "1": ("PNG", Image.fromarray(RAMP > 30000), {}),
    "L": ("PNG", Image.fromarray((RAMP // 256).astype(np.uint8)), {}),
    "P": ("PNG", *_palette(transparent=0)),
    "P, alpha in bytes": ("PNG", *_palette(transparent=bytes(range(0, 80, 10)))),
    "LA": ("PNG", Image.fromarray(COLOURS[..., :2], "LA"), {}),
    "PA": ("TIFF", Image.fromarray(COLOURS[..., 2:], "LA").convert("PA"), {}),
    "RGBA": ("PNG", Image.fromarray(COLOURS), {}),
    "RGBA, WebP": ("WEBP", Image.fromarray(COLOURS), {"lossless": True, "exact": True}),
    "RGB, colour key": ("PNG", Image.fromarray(COLOURS[..., :3]), {"transparency": (1, 2, 3)}),
    "CMYK": ("TIFF", Image.fromarray(COLOURS, "CMYK"), {}),
    "YCbCr": ("TIFF", Image.fromarray(COLOURS[..., :3], "YCbCr"), {}),
    "I;16": ("PNG", Image.fromarray(RAMP), {}),
    "I;16, TIFF": ("TIFF", Image.fromarray(RAMP), {}),
    "I": ("TIFF", Image.fromarray(RAMP.astype(np.int32)), {}),
    "F": ("TIFF", Image.fromarray(RAMP.astype(np.float32) / 300), {}),
    "EXIF": ("JPEG", *_exif()),
    "animated": ("GIF", Image.fromarray(COLOURS[..., 0]), {
        "save_all": True, "append_images": [Image.fromarray(COLOURS[..., 1])]}),
}  # fmt: skip


def content(kind: str) -> bytes:
    form, picture, options = FILES[kind]
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def _mirror(root: Path) -> Path:
    """POPE, SEED (lists of pictures) and MMMU (several columns) with these pictures."""
    shown = [{"bytes": content(kind), "path": None} for kind in FILES]
    [pope], [seed], [mmmu] = small.pope(), small.seedbench(), small.mmmu()
    several = {
        "POPE": [(pope, [{**pope.rows[0], "image": p} for p in shown])],
        "SEED-Bench": [(seed, [{**seed.rows[0], "image": [p]} for p in shown])],
        "MMMU": [(mmmu, [{**mmmu.rows[0], "image_1": p, "image_2": p} for p in shown])],
    }
    for name, tables in several.items():
        made = [DatasetSplit(t.split, t.columns, rows, t.config) for t, rows in tables]
        hub.write(root, name, made)
    return root


NAMES = ["pope", "seed", "mmmu"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    root = tmp_path_factory.mktemp("pictures")
    mirror = _mirror(root / "mirror")
    with hub.offline(root / "cache"), pytest.MonkeyPatch.context() as patch:
        patch.chdir(mirror)
        jobs = [job(benchmark(name), root / name) for name in NAMES]
        yield load_tasks(jobs, root / "tasks")[1]


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_processor(make_tiny_llava(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("kind", FILES)
def test_training_and_evaluation_see_the_same(
    kind: str, tasks: dict[str, Any], processor: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.picture").write_bytes(content(kind))
    turns = (Turn("human", "<image>\nwhat"), Turn("gpt", "red"))
    example = Example(0, "0", ("a.picture",), turns, "a")
    dataset = Dataset("a", tmp_path / "a.json", tmp_path, [example])
    trained = encode(example, dataset, processor, TEMPLATES["tiny"], 128).pixel_values
    assert trained is not None
    row = list(FILES).index(kind)
    for name, task in tasks.items():
        asked, pictures = turns_and_pictures(task.doc_to_messages(task.eval_docs[row]))
        seen = encode_prompt(asked, pictures, processor, TEMPLATES["tiny"]).pixel_values
        assert seen is not None
        assert all(torch.equal(each, trained[0]) for each in seen), name


def test_the_rule_is_llavas_but_for_orientation_and_deep_grey(tmp_path: Path) -> None:
    """``convert("RGB")``, which clips 16-bit grey to white."""
    from coincide.data.images import load_image

    for kind in FILES:
        (tmp_path / "a.picture").write_bytes(content(kind))
        ours = np.asarray(load_image(tmp_path, "a.picture"))
        with Image.open(tmp_path / "a.picture") as picture:
            theirs = np.asarray(picture.convert("RGB"))
        same = ours.shape == theirs.shape and bool((ours == theirs).all())
        assert same == (kind not in ("EXIF", "I;16", "I;16, TIFF", "I")), kind


def test_a_picture_cut_off_is_refused_as_in_training(tasks: dict[str, Any]) -> None:
    """lmms-eval has Pillow fill it with grey."""
    import datasets

    for broken in (content("L")[:60], b"<html>", b""):
        with pytest.raises(CorruptImage, match="does not decode"):
            datasets.Image().decode_example({"bytes": broken, "path": "a.png"})
