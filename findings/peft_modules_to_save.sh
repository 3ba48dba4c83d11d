#!/usr/bin/env bash
# peft 0.21.2: names in modules_to_save are matched as ends of a module's name, with no dot before them, while names in
# target_modules have to be whole parts of it: "projector" adapts `projector` alone, but to save it also copies and
# trains `text_projector`. And in a bfloat16 model LoRA's weights become float32 (autocast_adapter_dtype, the default),
# the copies of modules_to_save do not: two precisions are trained side by side.
#
# seen: target_modules: ['projector']
# seen: modules_to_save: ['projector', 'text_projector']
# seen: lora float32, saved bfloat16
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile peft==0.21.2 torch==2.14.1 transformers==5.23.0

cat >"$folder/show.py" <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn


class Model(nn.Module):
    """A linear and two projectors."""

    def __init__(self):
        super().__init__()
        self.linear, self.projector, self.text_projector = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        return self.text_projector(self.projector(self.linear(x)))


def trained(**names):
    """Name -> dtype of the parameters that would be trained in a bfloat16 model."""
    adapted = get_peft_model(Model().to(torch.bfloat16), LoraConfig(**names))
    parameters = dict(adapted.named_parameters())
    return {name.removeprefix("base_model.model."): str(p.dtype) for name, p in parameters.items() if p.requires_grad}


def modules(found):
    return sorted({name.split(".")[0] for name in found})


print(f"target_modules: {modules(trained(target_modules=['projector']))}")
found = trained(target_modules=["linear"], modules_to_save=["projector"])
print(f"modules_to_save: {modules(name for name in found if 'modules_to_save' in name)}")
lora, saved = ({d for n, d in found.items() if (part in n)} for part in ("lora_", "modules_to_save"))
print(f"lora {', '.join(lora)}, saved {', '.join(saved)}".replace("torch.", ""))
PYTHON

seen=$("$folder/venv/bin/python" "$folder/show.py" 2>"$folder/log" || true)
wanted=$(sed -n 's/^# seen: //p' "$0")
if [ "$seen" != "$wanted" ]; then
    printf 'changed:\n%s\n' "$seen"
    tail -5 "$folder/log"
    exit 1
fi
echo "as stated"
