#!/usr/bin/env bash
# transformers 5.23.0, FastVLM with timm 1.0.31: the vision tower has batch normalisations, and model.train(), which a
# trainer calls, switches them to the statistics of the batch, although every parameter of the tower is frozen. A
# picture's features then depend on the pictures it is batched with, and each forward pass, also without gradients,
# moves the running means, which belong to no adapter and are lost when only LoRA weights are saved.
#
# seen: batch normalisations in the frozen tower: 5
# seen: eval(): features depend on the other picture: False; running means changed: False
# seen: train(): features depend on the other picture: True; running means changed: True
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile \
  transformers==5.23.0 timm==1.0.31 torch==2.14.1 torchvision==0.29.1 pillow==13.0.0

cat >"$folder/show.py" <<'PYTHON'
import sys

import torch
from transformers import FastVlmConfig, FastVlmForConditionalGeneration

torch.manual_seed(0)
tower = {
    "model_type": "timm_wrapper", "architecture": "fastvit_mci3", "do_pooling": True, "global_pool": "avg",
    "hidden_size": 64,
    "model_args": {
        "inference_mode": True, "layers": [1] * 5, "embed_dims": [8, 8, 16, 16, 32], "mlp_ratios": [1] * 5,
        "se_downsamples": [False] * 5, "pos_embs": [None] * 5, "downsamples": [False, True, True, True, True],
        "token_mixers": ["repmixer"] * 5, "lkc_use_act": True, "stem_use_scale_branch": False,
    },
}
text = {
    "model_type": "qwen2", "vocab_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2,
}
config = FastVlmConfig(vision_config=tower, text_config=text, image_token_id=5)
model = FastVlmForConditionalGeneration(config)
for parameter in model.model.vision_tower.parameters():
    parameter.requires_grad_(False)
    if parameter.dim() > 1:
        torch.nn.init.normal_(parameter, std=0.3)
norms = [m for m in model.model.vision_tower.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
one, other = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64) * 5


def features(pictures):
    with torch.no_grad():
        found = model.get_image_features(pixel_values=pictures)
    found = getattr(found, "pooler_output", found)
    return torch.stack(list(found))[0] if isinstance(found, (list, tuple)) else found[0]


def apart():
    """Largest difference of one picture's features beside two others, relative to their size."""
    alone = features(torch.cat([one, one]))
    return float((alone - features(torch.cat([one, other]))).abs().max() / alone.abs().max())


def statistics():
    return torch.cat([norm.running_mean for norm in norms]).clone()


model.eval()
before, still = statistics(), apart()
moved_eval = not torch.equal(before, statistics())
model.train()
trained = apart()
moved_train = not torch.equal(before, statistics())
print(f"batch normalisations in the frozen tower: {len(norms)}")
print(f"eval(): features depend on the other picture: {still > 1e-5}; running means changed: {moved_eval}")
print(f"train(): features depend on the other picture: {trained > 1e-2}; running means changed: {moved_train}")
held = bool(norms) and still < 1e-5 and not moved_eval and trained > 1e-2 and moved_train
print("as stated" if held else "DIFFERENT from what is stated")
sys.exit(not held)
PYTHON
cd "$folder"
venv/bin/python show.py 2>"$folder/log" || { tail -n 20 "$folder/log" >&2; exit 1; }
