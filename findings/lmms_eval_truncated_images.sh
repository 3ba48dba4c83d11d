#!/usr/bin/env bash
# lmms-eval 0.7.3 with Pillow 13.0.0: importing its tasks (lmms_eval.tasks, hence also its evaluator) sets Pillow's
# ImageFile.LOAD_TRUNCATED_IMAGES for the whole process. From then on a picture whose file was cut short decodes
# without an error, grey where data are missing, in every other library of the process too; before, it raised OSError.
#
# seen: before the import: LOAD_TRUNCATED_IMAGES=False; half a file: OSError: image file is truncated (6 bytes not processed)
# seen: after the import: LOAD_TRUNCATED_IMAGES=True; half a file: grey share of its lower half 1.0
# seen: the whole file: grey share of its lower half 0.0078125
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile \
  lmms-eval==0.7.3 pillow==13.0.0 torch==2.14.1 torchvision==0.29.1 transformers==5.23.0 datasets==5.2.0

cat >"$folder/show.py" <<'PYTHON'
import io
import sys

from PIL import Image, ImageFile


def decoded(content):
    """Share of pure grey pixels in the lower half of a JPEG file, or the error that Pillow raises."""
    try:
        pixels = Image.open(io.BytesIO(content)).convert("RGB").crop((0, 128, 256, 256)).tobytes()
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    triples = [pixels[at : at + 3] for at in range(0, len(pixels), 3)]
    return triples.count(b"\x80\x80\x80") / len(triples)


file = io.BytesIO()
Image.linear_gradient("L").convert("RGB").save(file, "JPEG", quality=90)
whole = file.getvalue()
half = whole[: len(whole) // 2]

flag_before, before = ImageFile.LOAD_TRUNCATED_IMAGES, decoded(half)
import lmms_eval.tasks

flag_after, after = ImageFile.LOAD_TRUNCATED_IMAGES, decoded(half)
print(f"before the import: LOAD_TRUNCATED_IMAGES={flag_before}; half a file: {before}")
print(f"after the import: LOAD_TRUNCATED_IMAGES={flag_after}; half a file: grey share of its lower half {after}")
print(f"the whole file: grey share of its lower half {decoded(whole)}")
held = (
    flag_before is False
    and str(before).startswith("OSError: ")
    and flag_after is True
    and isinstance(after, float)
    and after > 0.5
    and decoded(whole) < 0.1
)
print("as stated" if held else "DIFFERENT from what is stated")
sys.exit(not held)
PYTHON
cd "$folder"
venv/bin/python show.py 2>"$folder/log" || { tail -n 20 "$folder/log" >&2; exit 1; }
