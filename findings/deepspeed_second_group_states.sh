#!/usr/bin/env bash
# deepspeed 0.19.8: with ZeRO 1 or 2 and several parameter groups, safe_get_full_optimizer_state knows Adam's moments
# of the first group alone. Parameters are tied to their states once, when the first group has been stepped, and then
# the states of the others do not exist yet. lazy_init_hp_params_optimizer_state, called again after the step, ties them.
#
# seen: after one step: group 0: exp_avg [4]; group 1: ValueError: exp_avg not found in optimizer state fragment
# seen: tied again: group 0: exp_avg [4]; group 1: exp_avg [4]
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile deepspeed==0.19.8 torch==2.14.1 setuptools

cat >"$folder/show.py" <<'PYTHON'
import sys

import deepspeed
import torch
from deepspeed.utils import lazy_init_hp_params_optimizer_state, safe_get_full_optimizer_state

deepspeed.init_distributed(dist_backend="gloo")
model = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(4)) for _ in range(2)])
groups = [{"params": [weight], "lr": 0.1} for weight in model]
config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True}
engine, optimizer, *_ = deepspeed.initialize(
    model=model, optimizer=torch.optim.AdamW(groups), config=config
)
engine.backward(sum((weight**2).sum() for weight in model))
engine.step()


def moments():
    """Adam's first moment of each group's parameter, or the error."""
    found = []
    for number, weight in enumerate(model):
        try:
            seen = f"exp_avg {list(safe_get_full_optimizer_state(weight, 'exp_avg').shape)}"
        except ValueError as error:
            seen = f"ValueError: {error}"
        found.append(f"group {number}: {seen}")
    return found


first = moments()
for weights, part in zip(optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups):
    lazy_init_hp_params_optimizer_state(weights, part, optimizer.optimizer.state)
second = moments()
print(f"after one step: {'; '.join(first)}")
print(f"tied again: {'; '.join(second)}")
held = "not found" not in first[0] and "not found" in first[1] and "not found" not in "".join(second)
print("as stated" if held else "DIFFERENT from what is stated")
sys.exit(not held)
PYTHON
cd "$folder"
export DS_ACCELERATOR=cpu RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29611
venv/bin/python show.py 2>"$folder/log" || { tail -n 20 "$folder/log" >&2; exit 1; }
