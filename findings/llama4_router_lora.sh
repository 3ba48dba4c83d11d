#!/usr/bin/env bash
# peft 0.21.2 with transformers 5.23.0: LoRA with target_modules="all-linear" is put on the router of Llama 4's mixture
# of experts, since the router is a subclass of nn.Linear; but the router returns a pair (scores and logits), and the
# first forward pass of the adapted model ends in an AttributeError. On the attention's linears alone it trains.
#
# seen: target_modules='all-linear' is put on down_proj, gate_proj, k_proj, o_proj, q_proj, router, up_proj, v_proj:
# seen:   AttributeError: 'tuple' object has no attribute 'dtype'
# seen: on k_proj, o_proj, q_proj, v_proj: trains
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile \
  peft==0.21.2 transformers==5.23.0 torch==2.14.1 torchvision==0.29.1

cat >"$folder/show.py" <<'PYTHON'
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import Llama4ForCausalLM, Llama4TextConfig

torch.manual_seed(0)
config = Llama4TextConfig(
    vocab_size=64, hidden_size=32, intermediate_size=32, intermediate_size_mlp=64, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2, head_dim=16, num_local_experts=2, num_experts_per_tok=1,
    interleave_moe_layer_step=1, attention_chunk_size=64, max_position_embeddings=64,
)


def trained(targets):
    """Which modules LoRA is put on, and a forward and backward pass, or the error."""
    model = get_peft_model(Llama4ForCausalLM(config), LoraConfig(r=2, target_modules=targets))
    on = sorted({n.split(".lora_A")[0].rsplit(".", 1)[1] for n, _ in model.named_parameters() if ".lora_A" in n})
    ids = torch.arange(8)[None]
    try:
        model(input_ids=ids, labels=ids).loss.backward()
        seen = "trains"
    except Exception as error:
        seen = f"{type(error).__name__}: {error}"
    return on, seen


every, without = trained("all-linear"), trained(["q_proj", "k_proj", "v_proj", "o_proj"])
print(f"target_modules='all-linear' is put on {', '.join(every[0])}: {every[1]}")
print(f"on {', '.join(without[0])}: {without[1]}")
held = "router" in every[0] and every[1] != "trains" and without[1] == "trains"
print("as stated" if held else "DIFFERENT from what is stated")
sys.exit(not held)
PYTHON
cd "$folder"
venv/bin/python show.py 2>"$folder/log" || { tail -n 20 "$folder/log" >&2; exit 1; }
