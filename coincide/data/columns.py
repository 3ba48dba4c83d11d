"""What is asked of all rows at once, as arrays: read off the table of rows where there is one.

Anything that looks at every row of a pool uses these instead of its examples, of which each has to
be made. They take any sequence of examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from coincide.data.blocks import TEXT, as_bytes, as_text, has_answer
from coincide.data.table import Labels, Rows, Shown
from coincide.schema import Example, UserError


def sources(examples: Sequence[Example]) -> Labels:
    """The source of each row."""
    return examples.sources if isinstance(examples, Rows) else _labels(e.source for e in examples)


def check_sources(setting: str, named: Sequence[str], examples: Sequence[Example]) -> None:
    """Raise UserError, with the choices, for a source among ``named`` that no row has."""
    found = sources(examples).names
    if unknown := sorted(set(named) - set(found)):
        raise UserError(f"{setting}: got {unknown}; choices: {sorted(found)}")


def ids(examples: Sequence[Example]) -> Iterator[str]:
    """The id of each row."""
    return examples.ids() if isinstance(examples, Rows) else (e.id for e in examples)


def pictured(examples: Sequence[Example]) -> np.ndarray:
    """bool [N]: rows with a picture."""
    if isinstance(examples, Rows):
        return examples.pictured
    return np.fromiter((bool(e.images) for e in examples), bool, len(examples))


def answered(examples: Sequence[Example]) -> np.ndarray:
    """bool [N]: rows of which an answer has text to learn."""
    if isinstance(examples, Rows):
        return examples.column("answered")
    return np.fromiter(map(has_answer, examples), bool, len(examples))


def shown(examples: Sequence[Example]) -> Shown:
    """The pictures of all rows."""
    if isinstance(examples, Rows):
        return examples.shown()
    found = _labels(name for example in examples for name in example.images)
    ends = np.cumsum([0, *(len(example.images) for example in examples)])
    return Shown(pa.array(map(as_bytes, found.names), TEXT), found.codes, ends)


def id_strings(examples: Sequence[Example], part: slice = slice(None)) -> pa.Array:
    """The ids of ``part`` of the rows as Arrow strings; lone surrogates, which those do not hold,
    as escapes.
    """
    if not isinstance(examples, Rows):
        return pa.array([_without_surrogates(e.id) for e in examples[part]], pa.string())
    begin, end, _ = part.indices(len(examples))
    found = examples.arrow("id").slice(begin, end - begin)
    try:
        texts = found.cast(pa.large_string())
    except pa.ArrowInvalid:
        told = (_without_surrogates(as_text(name)) for name in found.to_pylist())
        texts = pa.chunked_array([pa.array(told, pa.large_string())])
    examples.give_back()
    return pa.concat_arrays([*texts.chunks, pa.array([], pa.large_string())]).cast(pa.string())


def source_strings(examples: Sequence[Example], part: slice = slice(None)) -> pa.Array:
    """The sources of ``part`` of the rows, likewise."""
    found = sources(examples)
    return strings(tuple(map(_without_surrogates, found.names)), found.codes[part])


def strings(names: Sequence[str], codes: np.ndarray) -> pa.Array:
    """The Arrow strings that ``codes`` [n] stand for; null for -1."""
    return pa.array(names, pa.string()).take(pa.array(codes, mask=codes < 0))


def _without_surrogates(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _labels(values: Iterable[str]) -> Labels:
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(value, len(numbers)) for value in values]
    return Labels(tuple(numbers), np.array(codes, np.int32))
