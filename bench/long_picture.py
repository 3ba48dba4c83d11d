"""Print the peak memory of a whole feature pass with one long picture, and without it.

    python -m bench.long_picture                    # about a minute on two cores
    python -m bench.long_picture --picture 690 12000 --plain

The pass is ``python run.py stages=[features]`` with a LLaVA that pads to a square: the tiny model's
weights, its image processor with ``do_pad`` as LLaVA-1.5's has it. What is printed is the peak of
resident memory of the largest process of the run, by the kernel's own count. ``--plain`` pads by
the image processor alone, as the product did before pictures were shrunk in strips.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
ROWS = 8
SHORT = (690, 518)
RUN = "import sys, run; sys.exit(run.main())"
PLAIN = f"from coincide.models import encode; encode.bounded = lambda image, _: image; {RUN}"


def model(folder: Path) -> Path:
    """A LLaVA folder whose processor pads to a square and shrinks that to the model's side."""
    from transformers import LlavaImageProcessorPil

    from coincide.models.tiny import load_shipped, make_processor

    processor = make_processor()
    tiny = load_shipped("tiny", processor)
    own = tiny.config.vision_config.image_size
    processor.image_processor = LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": own},
        crop_size={"height": own, "width": own},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    tiny.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def data(folder: Path, picture: tuple[int, int]) -> Path:
    """``ROWS`` rows, the first of which has the picture of that size."""
    folder.mkdir()
    rows = []
    for number in range(ROWS):
        size = picture if number == 0 else SHORT
        Image.effect_noise(size, 50).convert("RGB").save(folder / f"{number}.png")
        said = [("human", f"<image>\nwhat {number}"), ("gpt", "red")]
        turns = [{"from": role, "value": text} for role, text in said]
        rows.append({"image": f"{number}.png", "conversations": turns})
    (folder / "ann.json").write_text(json.dumps(rows))
    return folder


def peak(folder: Path, made: Path, *, plain: bool) -> float:
    """MB that the largest process of the feature pass over ``folder`` held at most."""
    words = [
        "data=llava_json", f"data.annotations={folder / 'ann.json'}", f"data.images={folder}",
        "reference=hub", f"reference.repo={made}", "reference.template=tiny",
        "reference.max_length=512", "reference.dtype=float32", "target=tiny", "train=demo",
        "eval=demo", "method=el2n", "stages=[features]", f"paths.store={folder / 'store'}",
    ]  # fmt: skip
    watched = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=2);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done.returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", watched, sys.executable, "-c", PLAIN if plain else RUN, *words],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    return int(done.stdout) * 1024 / 1e6


def main() -> None:
    """Both passes, and the difference."""
    parser = argparse.ArgumentParser(prog="python -m bench.long_picture", description=__doc__)
    parser.add_argument("--picture", type=int, nargs=2, default=(690, 12000), metavar=("W", "H"))
    parser.add_argument("--plain", action="store_true", help="pad by the processor alone")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = model(folder / "model")
        short = peak(data(folder / "short", SHORT), made, plain=given.plain)
        long = peak(data(folder / "long", tuple(given.picture)), made, plain=given.plain)
    width, height = given.picture
    print(f"{ROWS} pictures of {SHORT[0]} x {SHORT[1]}: {short:,.0f} MB")
    print(f"one of them {width} x {height}: {long:,.0f} MB, {long - short:+,.0f} MB")
    print(f"of which the decoded picture itself: {width * height * 3 / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
