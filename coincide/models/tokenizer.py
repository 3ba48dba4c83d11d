"""The tiny models' tokenizer: byte-level, so it reads any text; each demo word is one token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SPECIAL = ("<pad>", "<s>", "</s>", "<image>")


def make_tokenizer(words: Iterable[str]) -> Any:
    """A fast tokenizer that adds ``<s>`` in front and has a token `` word`` for each of ``words``.

    Byte-level BPE with merges made from the words in their order: the same words give the same ids
    on every machine.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    merges: list[tuple[str, str]] = []
    for word in words:
        for form in ("Ġ" + word, word):
            left = form[0]
            for char in form[1:]:
                if left + char not in vocab:
                    vocab[left + char] = len(vocab)
                    merges.append((left, char))
                left += char
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocab["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
