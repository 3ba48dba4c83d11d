"""``data=llava``: the 665,298 examples of LLaVA-1.5's finetuning, with sources inferred from
content.

The published file has no field with a row's source. Outside COCO the image folder names the source;
within COCO the form of the question does (Liu et al. 2023, arXiv 2310.03744, table 7: each block
has its own response-format prompt).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from coincide.data.llava_json import LlavaJson, folder_source
from coincide.data.parse import IMAGE
from coincide.data.report import DataReport
from coincide.schema import UserError
from coincide.terminal.inert import inert

BLOCKS: Mapping[str, int] = {
    "llava_conversation": 57_669,
    "llava_detail": 23_240,
    "llava_reasoning": 76_803,
    "vqav2": 82_783,
    "okvqa": 8_998,
    "aokvqa": 66_160,
    "refcoco": 48_447,
    "vg": 86_417,
    "gqa": 72_140,
    "ocr_vqa": 80_000,
    "textcaps": 21_953,
    "sharegpt": 40_688,
}
"""Source -> number of rows in the published file, in file order; 665,298 in total."""
FOLDERS = {"vg": "vg", "gqa": "gqa", "ocr_vqa": "ocr_vqa", "textvqa": "textcaps"}
COCO = ("llava_conversation", "llava_detail", "llava_reasoning", "vqav2", "okvqa", "aokvqa",
        "refcoco")  # fmt: skip
"""Sources with images of COCO, distinguished by the form of the question."""
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
REGIONS = (
    "Please provide a short description for this region:",
    "Please provide the bounding box coordinate of the region this sentence describes:",
)
DETAIL = frozenset(
    {
        "Analyze the image in a comprehensive and detailed manner.",
        "Can you describe the main features of this image for me?",
        "Can you elaborate on the elements of the picture provided?",
        "Describe the following image.",
        "Explain the visual content of the image in great detail.",
        "What do you see happening in this image?",
        "What do you think is going on in this snapshot?",
        "What is this photo about'?",
        "What's happening in the scene?",
        "Write a detailed description of the given image.",
    }
)
"""The instructions of LLaVA's detailed descriptions, as in the published file."""
OKVQA_MOST = 2
"""OK-VQA asks 9,009 questions about 8,998 images; VQAv2 at least three about each of its own."""


def source_of(value: Mapping[str, Any]) -> str:
    """The source of a raw row: a key of :data:`BLOCKS`, or the first folder of an unknown image."""
    if not value.get("image"):
        return "sharegpt"
    folder = folder_source(dict(value))
    if folder != "coco":
        return FOLDERS.get(folder, folder)
    turns = value.get("conversations")
    questions = [str(t.get("value", "")) for t in turns or () if isinstance(t, dict)][::2]
    first = questions[0].replace(IMAGE, "").strip() if questions else ""
    return _coco_block(first, len(questions))


def _coco_block(first: str, questions: int) -> str:
    if first.startswith(REGIONS):
        return "refcoco"
    if first.endswith(LETTER):
        return "aokvqa"
    if first.endswith(SHORT):
        return "okvqa" if questions <= OKVQA_MOST else "vqav2"
    if questions > 1:
        return "llava_conversation"
    return "llava_detail" if first in DETAIL else "llava_reasoning"


@dataclass(frozen=True)
class Llava(LlavaJson):
    """The LLaVA-665K mixture.

    ``expect``: ``published`` refuses a file whose rows differ from the published one's; ``any``
    accepts a fork, an extract or a miniature.
    """

    sources: ClassVar[int] = 1
    """Version of :func:`source_of`."""

    name: str = "llava"
    clusters: int = 10_000
    expect: str = "published"
    on_media_tag: str = "text"
    """Its media are pictures only; what looks like another tag in a text is plain text."""

    def source_of(self, value: dict[str, Any]) -> str:
        """The source of a raw row."""
        return source_of(value)

    def sources_rule(self) -> dict[str, Any]:
        """How sources are inferred, for the key."""
        return {"sources": f"llava665k-{self.sources}"}

    def accept(self, report: DataReport) -> None:
        """Also compare the number of rows of each source with the published one.

        UserError if they differ by image folder: it is another file. If only sources within COCO
        differ, the rule that tells their questions apart may be to blame; that is printed.
        """
        if self.expect == "published" and report.sources != BLOCKS:
            if _by_folder(report.sources) != _by_folder(BLOCKS):
                raise UserError(
                    f"{self.annotations} is not the published LLaVA-665K: rows by source\n"
                    f"{_compared(report.sources)}\nFetch it again, or set data.expect=any for a "
                    "file of your own."
                )
            print(f"{self.name}: rows by source differ within COCO\n{_compared(report.sources)}")
        super().accept(report)


def _by_folder(sources: Mapping[str, int]) -> dict[str, int]:
    """Source -> number of rows, with all of COCO's sources as one."""
    found: Counter[str] = Counter()
    for source, count in sources.items():
        found["coco" if source in COCO else source] += count
    return dict(found)


def _compared(sources: Mapping[str, int]) -> str:
    """A line per source: rows found, rows expected, and a mark if they differ."""
    lines = [f"  {'source':<20}{'got':>10}{'expected':>10}"]
    for source in (*BLOCKS, *sorted(sources.keys() - BLOCKS.keys())):
        got, expected = sources.get(source, 0), BLOCKS.get(source, 0)
        mark = "" if got == expected else "  <-"
        lines.append(f"  {inert(source):<20}{got:>10,}{expected:>10,}{mark}")
    lines.append(f"  {'together':<20}{sum(sources.values()):>10,}{sum(BLOCKS.values()):>10,}")
    return "\n".join(lines)
