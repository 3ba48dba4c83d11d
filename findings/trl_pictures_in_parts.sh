#!/usr/bin/env bash
# trl 1.16.0, SFTTrainer with a vision-language model: pictures that stand in the messages' own parts, {"type": "image",
# "image": ...}, and in no column image or images, never reach the model. The dataset counts as text: the chat template
# reads the pictures, so the tokens hold a place for every patch, but the batch has no pixel_values, and the model is
# trained on the bare place tokens without an error or a warning.
#
# seen: picture in a column images: attention_mask, input_ids, labels, pixel_values; picture tokens 4; trained: True
# seen: picture in the message's part alone: attention_mask, input_ids, labels; picture tokens 4; trained: True
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile \
  trl==1.16.0 torch==2.14.1 torchvision==0.29.1 transformers==5.23.0 tokenizers==0.23.3 datasets==5.2.0 \
  accelerate==1.15.0 pillow==13.0.0

cat >"$folder/show.py" <<'PYTHON'
import math
import sys

import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as Image_
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from trl import SFTConfig, SFTTrainer

words = ["<pad>", "<unk>", "<s>", "</s>", "<image>", "user", "assistant", ":", "colour", "red"]
plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
    additional_special_tokens=["<image>"], model_input_names=["input_ids", "attention_mask"],
)
template = (
    "{% for m in messages %}{{ m['role'] }} : {% if m['content'] is string %}{{ m['content'] }} {% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<image> {% else %}{{ p['text'] }} {% endif %}{% endfor %}"
    "{% endif %}{% if m['role'] == 'assistant' %}</s> {% endif %}{% endfor %}"
)
processor = LlavaProcessor(
    image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
    tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    image_token="<image>", chat_template=template,
)
text = LlamaConfig(vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                   num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, bos_token_id=2, eos_token_id=3)
vision = CLIPVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                          image_size=16, patch_size=8)
config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, image_seq_length=4)
picture = Image.new("RGB", (16, 16), "red")


def first_batch(parts, column):
    """Keys of the first batch, how often it holds the picture's token, and whether a step of training has a finite loss."""
    torch.manual_seed(0)
    row = {"messages": [
        {"role": "user", "content": [*parts, {"type": "text", "text": "colour"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
    ]}
    part = {"type": Value("string"), "text": Value("string"), **({} if column else {"image": Image_()})}
    features = Features({"messages": List({"role": Value("string"), "content": List(part)})})
    if column:
        row["images"], features["images"] = [picture], List(Image_())
    trainer = SFTTrainer(
        model=LlavaForConditionalGeneration(config), processing_class=processor,
        train_dataset=Dataset.from_list([row, row], features=features),
        args=SFTConfig(output_dir="out", max_length=None, report_to=[], use_cpu=True, per_device_train_batch_size=1, max_steps=1, logging_steps=1),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    tokens = int((batch["input_ids"] == 4).sum())
    return sorted(batch), tokens, math.isfinite(trainer.train().training_loss)


placed = first_batch([{"type": "image"}], column=True)
inside = first_batch([{"type": "image", "image": picture}], column=False)
print(f"picture in a column images: {', '.join(placed[0])}; picture tokens {placed[1]}; trained: {placed[2]}")
print(f"picture in the message's part alone: {', '.join(inside[0])}; picture tokens {inside[1]}; trained: {inside[2]}")
held = "pixel_values" in placed[0] and "pixel_values" not in inside[0] and placed[1:] == inside[1:] == (4, True)
print("as stated" if held else "DIFFERENT from what is stated")
sys.exit(not held)
PYTHON
cd "$folder"
venv/bin/python show.py 2>"$folder/log" || { tail -n 20 "$folder/log" >&2; exit 1; }
