"""Fast tokenizers from the vocabulary files of older checkpoints: SentencePiece and tiktoken.

The label mask needs character offsets, which only fast tokenizers give. Token ids equal those of
the tokenizers that the checkpoints were trained with (tests/assets).
"""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coincide.schema import UserError

IMAGE, PAD = "<image>", "<pad>"
ADDED = (IMAGE, PAD)
"""Tokens added to Llama's vocabulary, in this order, as in the converted LLaVA checkpoints."""
SPACE = "▁"
ARCADE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Arcade100k, the vocabulary of StableLM-2, splits text before bytes are merged."""
ARCADE_SPECIAL = (
    "<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<gh_stars>", "<filename>", "<issue_start>", "<issue_comment>", "<issue_closed>",
    "<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<empty_output>",
    "<commit_before>", "<commit_msg>", "<commit_after>", "<reponame>", "<|endofprompt|>",
    "<|im_start|>", "<|im_end|>", "<|pause|>", *(f"<|reg{i}|>" for i in range(8)), "<|extra0|>",
)  # fmt: skip
"""Its special tokens in the order of their ids, which follow the last rank."""


def merges(pieces: Mapping[str, int]) -> list[tuple[str, str]]:
    """All pairs of ``pieces`` (text -> rank) that join to a third piece, best rank first.

    SentencePiece and tiktoken both merge the neighbours whose joint piece ranks best, however it
    could also be formed.
    """
    found = []
    for piece, rank in pieces.items():
        for cut in range(1, len(piece)):
            left, right = pieces.get(piece[:cut]), pieces.get(piece[cut:])
            if left is not None and right is not None:
                found.append((rank, left, right, cut, piece))
    return [(piece[:cut], piece[cut:]) for *_, cut, piece in sorted(found)]


def llama_tokenizer(folder: Path) -> Any:
    """Llama's tokenizer from ``tokenizer.model``, with ``<image>`` and ``<pad>`` appended.

    ``legacy`` in ``tokenizer_config.json`` says whether text after a special token gets a leading
    space, like the start of a text.
    Raises UserError if there is no ``tokenizer.model``.
    """
    from sentencepiece import SentencePieceProcessor
    from tokenizers import AddedToken, Tokenizer, decoders, models

    if not (folder / "tokenizer.model").is_file():
        raise UserError(
            f"{folder} has no tokenizer.model, Llama's vocabulary. It lies beside the weights as "
            "they were published: fetch that as it is."
        )
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    names = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    start, end, unknown = (names[i] for i in (pieces.bos_id(), pieces.eos_id(), pieces.unk_id()))
    core = Tokenizer(
        models.BPE(
            vocab={name: i for i, name in enumerate(names)},
            merges=merges(_ranks(pieces)),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    _prefix(core, legacy=_setting(folder, "legacy", True))
    spaces = decoders.Replace(SPACE, " "), decoders.Strip(" ", 1, 0)
    core.decoder = decoders.Sequence(
        [spaces[0], decoders.ByteFallback(), decoders.Fuse(), spaces[1]]
    )
    core.add_special_tokens([AddedToken(name, normalized=False) for name in (unknown, start, end)])
    return _finish(core, ADDED, bos=start, eos=end, unknown=unknown, pad=PAD)


def _ranks(pieces: Any) -> dict[str, int]:
    """SentencePiece's mergeable pieces with their rank, best score first."""
    ids = [
        i
        for i in range(pieces.get_piece_size())
        if not (pieces.is_byte(i) or pieces.is_control(i) or pieces.is_unknown(i))
    ]
    ids.sort(key=lambda i: (-pieces.get_score(i), i))
    return {pieces.id_to_piece(i): rank for rank, i in enumerate(ids)}


def _prefix(core: Any, *, legacy: bool) -> None:
    """Add SentencePiece's leading space at the start of a text or (legacy) also after special
    tokens.

    Without legacy, a text that contains a literal special token followed by a space gets one more
    space there than in the original.
    """
    from tokenizers import Regex, normalizers, pre_tokenizers

    if legacy:
        steps = [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
        core.normalizer = normalizers.Sequence(steps)
    else:  # Metaspace adds nothing to a text that starts with a space; SentencePiece does
        core.normalizer = normalizers.Replace(Regex(r"\A "), f"{SPACE} ")
        core.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False)


def _setting(folder: Path, name: str, default: Any) -> Any:
    """A field of ``tokenizer_config.json``, or ``default``."""
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return default
    return json.loads(file.read_text(encoding="utf-8")).get(name, default)


def arcade_tokenizer(file: Path) -> Any:
    """StableLM-2's tokenizer from its tiktoken file, with ``<image>`` appended; no BOS."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
    from tokenizers import pre_tokenizers as cutters

    letters = _letters()
    ranks: dict[str, int] = {}
    for line in file.read_bytes().splitlines():
        if line:
            token, rank = line.split()
            ranks["".join(letters[byte] for byte in base64.b64decode(token))] = int(rank)
    # one id is left out between the ranks and the special tokens
    after = {f"<|unused{len(ranks)}|>": len(ranks)}
    after |= {token: len(ranks) + 1 + i for i, token in enumerate(ARCADE_SPECIAL)}
    core = Tokenizer(models.BPE(vocab={**ranks, **after}, merges=merges(ranks), ignore_merges=True))
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = cutters.Sequence(
        [
            cutters.Split(Regex(ARCADE), "isolated"),
            cutters.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(name, normalized=False) for name in ARCADE_SPECIAL])
    return _finish(core, [IMAGE], bos=None, eos=ARCADE_SPECIAL[0], pad=ARCADE_SPECIAL[0])


def _finish(
    core: Any,
    added: Sequence[str],
    *,
    bos: str | None,
    eos: str,
    pad: str,
    unknown: str | None = None,
) -> Any:
    """The transformers tokenizer, with ``bos`` in front of every text."""
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    core.add_special_tokens([AddedToken(name, normalized=False) for name in added])
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos,
        eos_token=eos,
        unk_token=unknown,
        pad_token=pad,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def _letters() -> list[str]:
    """GPT-2's visible character for each byte: the byte itself if printable, else from U+0100
    on.
    """
    shown = [byte for byte in range(256) if unicodedata.category(chr(byte))[0] not in "CZ"]
    hidden = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(hidden)) for byte in range(256)]
