"""Which documents are drawn together: by pictures shared, or by the prompt where there are none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from datasets import Dataset, Features, Image, List, Value

from coincide.ops.resample import resampling_units, standard_error
from eval.request import BenchmarkJob
from eval.units import KEY, attach, picture_keys, summary, unit_names
from tests.eval.hub import picture

TEXT = Value("string")


def documents(columns: dict[str, Any], rows: list[dict[str, Any]]) -> Dataset:
    return Dataset.from_dict({c: [row[c] for row in rows] for c in columns}, Features(columns))


def units(data: Dataset, prompts: list[str], unit: str | None = None) -> list[str]:
    task = SimpleNamespace(
        config=SimpleNamespace(test_split="test", validation_split=None), dataset={"test": data}
    )
    samples = [{"doc_id": i, "arguments": (text,)} for i, text in enumerate(prompts)]
    attach({"none": samples}, task, BenchmarkJob("b", "t", {}, "m", "", "", unit=unit))
    return [sample[KEY] for sample in samples]


def test_equal_bytes_are_one_picture_whatever_the_row() -> None:
    data = documents({"image": Image()}, [{"image": picture(i)} for i in (1, 2, 1)])
    first, second, third = units(data, ["a", "b", "c"])
    assert first == third != second


def test_a_column_that_names_the_picture_decides_where_the_data_has_it() -> None:
    rows = [{"image": picture(i), "image_id": i // 2} for i in range(4)]
    data = documents({"image": Image(), "image_id": Value("int64")}, rows)
    assert units(data, list("abcd"), "image_id") == ["0", "0", "1", "1"]
    assert len(set(units(data, list("abcd"), "absent"))) == 4, "by content where it lacks"


def test_documents_that_share_one_of_several_pictures_are_one_unit() -> None:
    rows = [{"images": [picture(j) for j in each]} for each in ([1, 2], [3], [2, 4], [4])]
    first, alone, second, third = units(documents({"images": List(Image())}, rows), list("abcd"))
    assert first == second == third != alone
    columns = {"image_1": Image(), "image_2": Image()}
    two = [{"image_1": picture(i), "image_2": None if i else picture(9)} for i in range(2)]
    assert [len(keys) for keys in picture_keys(documents(columns, two), None)] == [2, 1]


def test_without_a_picture_the_prompt_is_the_unit() -> None:
    rows = [{"image": None}, {"image": picture(1)}, {"image": None}, {"image": None}]
    found = units(documents({"image": Image()}, rows), ["same", "x", "same", "other"])
    assert found[0] == found[2] and len(set(found)) == 3
    of_texts = units(documents({"question": TEXT}, [{"question": "q"}] * 2), ["one", "two"])
    job = BenchmarkJob("b", "t", {}, "m", "", "")
    assert summary([{"unit": u, "score": 1.0} for u in of_texts], job) == {
        "unit": "question", "units": 2,
    }  # fmt: skip


def test_names_do_not_depend_on_the_order_of_the_keys() -> None:
    assert unit_names([["a"], ["b", "a"], ["c", "b"]]) == unit_names(
        [["a"], ["a", "b"], ["b", "c"]]
    )


def test_samples_of_before_units_were_recorded_stay_readable() -> None:
    rows = [{"doc_id": i, "score": float(i % 2)} for i in range(8)]
    assert resampling_units(rows).ids == tuple("01234567")
    together = [{**row, "unit": f"picture {row['doc_id'] // 4}"} for row in rows]
    assert standard_error(resampling_units(together)) == 0.0
