#!/usr/bin/env bash
# hydra-core 1.3.8: a multirun reads and parses every file of the defaults list twice for each of its jobs, though the jobs
# differ in one value, and twice before the first. Nothing is kept from one composition to the next, in hydra.compose
# neither. With the 30 to 40 files of a training project a composition takes about half a second on a slow core, so a sweep of
# 60 runs takes half a minute before the first one can be checked.
#
# seen: a sweep of 1 run over 21 files: 84 files read
# seen: a sweep of 8 runs over 21 files: 378 files read
# seen: compose twice, one value differs: 42 files read
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile hydra-core==1.3.8 omegaconf==2.3.1

cat >"$folder/show.py" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

CONF, GROUPS = Path(__file__).parent / "conf", 20
read = 0


def heard(event, args):
    global read
    if event == "open" and str(args[0]).endswith(".yaml") and str(args[0]).startswith(str(CONF)):
        read += 1


def write():
    for i in range(GROUPS):
        (CONF / f"group{i}").mkdir(parents=True)
        (CONF / f"group{i}" / "one.yaml").write_text("value: 1\n")
    chosen = "\n".join(f"  - group{i}: one" for i in range(GROUPS))
    (CONF / "config.yaml").write_text(f"defaults:\n{chosen}\n  - _self_\nseed: 0\n")


def swept(runs):
    """Files read by ``--multirun seed=0,1,...`` of a program that does nothing."""
    seeds = ",".join(map(str, range(runs)))
    words = [sys.executable, __file__, "--multirun", f"seed={seeds}", f"hydra.sweep.dir={CONF.parent}/out{runs}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return int(done.stderr.split("READ")[1])


def composed():
    import hydra

    before = read
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for seed in (0, 1):
            hydra.compose("config", [f"seed={seed}"])
    return read - before


sys.addaudithook(heard)
if len(sys.argv) > 1:
    import hydra

    hydra.main(version_base="1.3", config_path="conf", config_name="config")(lambda cfg: None)()
    print("READ", read, file=sys.stderr)
    sys.exit()

write()
files = GROUPS + 1
one, eight, twice = swept(1), swept(8), composed()
print(f"a sweep of 1 run over {files} files: {one} files read")
print(f"a sweep of 8 runs over {files} files: {eight} files read")
print(f"compose twice, one value differs: {twice} files read")
held = (one, eight, twice) == (4 * files, 18 * files, 2 * files)
print("as stated" if held else "DIFFERENT from what is stated")
sys.exit(not held)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2>"$folder/log" || { tail -n 20 "$folder/log" >&2; exit 1; }
