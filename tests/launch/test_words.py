"""Paths and names on the command line are taken as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

import run as program
from coincide.schema import UserError
from launch.words import literal_words, shell

ODD = (
    "数据/ann.json", "eq=1/ann.json", "a (1).json", "a,b.json", "a[1].json", "a{1}.json", "döner",
    "a#b", "a&b", "a;b", "it's", 'say "x"', "back\\slash", "back\\'", "end\\", "2017", "true",
    "1e3", "a b", " a", "a:b@c+d%e", "~a~b", "x=", "[a]", "100%", "$HOME", "a|b", "a<b>",
    "a!b", "`a`",
)  # fmt: skip


def read(word: str) -> object:
    (found,) = OverridesParser.create().parse_overrides([word])
    assert not found.is_sweep_override()
    return found.value()


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("key", ["data.annotations", "method.path", "target.repo", "paths.store"])
def test_a_path_is_taken_as_it_stands(key: str, value: str) -> None:
    (word,) = literal_words([f"{key}={value}"], multirun=False)
    assert read(word) == value


@pytest.mark.parametrize("value", ["演示", "org/set", "a=b", "é", "~x", "1,000"])
def test_a_name_too(value: str) -> None:
    (word,) = literal_words([f"data.name={value}"], multirun=False)
    assert read(word) == value


def test_what_is_quoted_null_or_a_reference_stays() -> None:
    words = ["data.images='a (1)'", 'method.path="a,b"', "paths.data=null", "data.images=${x}/y"]
    assert literal_words(words, multirun=False) == words
    assert literal_words(["budget=0.2", "stages=[select]"], multirun=False) == [
        "budget=0.2", "stages=[select]",
    ]  # fmt: skip


def test_the_home_is_put_in_for_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert literal_words(["data.images=~/x"], multirun=False) == ["data.images=/home/me/x"]


def test_in_a_sweep_a_comma_parts_values_unless_the_whole_is_there(tmp_path: Path) -> None:
    def values(word: str) -> list[str]:
        (ready,) = literal_words([word], multirun=True)
        batches = BasicSweeper.split_arguments(
            OverridesParser.create().parse_overrides([ready]), None
        )
        return [str(read(batch[0])) for batch in batches[0]]

    assert values("method.path=数/a.json,b (1).json") == ["数/a.json", "b (1).json"]
    (tmp_path / "a,b.json").write_text("[]")
    assert values(f"method.path={tmp_path}/a,b.json") == [f"{tmp_path}/a,b.json"]
    assert values("method.path=choice(a,b)") == ["a", "b"]


@pytest.mark.parametrize(("word", "said"), [
    ("seed=a(b", """'seed='"'"'a(b'"'"''"""),
    ("budget", "expected key=value"),
])  # fmt: skip
def test_other_words_that_cannot_be_read_are_shown_quoted(word: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        literal_words([word], multirun=False)
    assert said in str(caught.value)


def test_words_are_shown_as_a_shell_takes_them() -> None:
    assert shell(["budget=0.2", "data.images='a (1)'"]) == (
        """budget=0.2 'data.images='"'"'a (1)'"'"''"""
    )


def test_a_run_reads_data_from_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "数据 eq=1, a(b)"
    folder.mkdir()
    (folder / "ann.json").write_text('[{"conversations": [{"from": "human", "value": "a"}, '
                                     '{"from": "gpt", "value": "b"}]}]')  # fmt: skip
    words = [
        "data=llava_json", f"data.annotations={folder}/ann.json", f"data.images={folder}",
        "reference=tiny", "target=tiny", "train=demo", "eval=demo", "method=random", "budget=1",
        f"paths.store={tmp_path / 'st,ore'}", "stages=[select]", "data.name=演示/" + "x" * 260,
    ]  # fmt: skip
    (job,) = program.compose_all(words)
    program.executor(job).run(job)
    (subset,) = (tmp_path / "st,ore" / "subset").glob("*/manifest.json")
    assert "演示" in subset.read_text(encoding="utf-8"), "the name stays as typed"
    assert len(subset.parent.name) <= 128
    assert subset.parent.name.isascii()


@pytest.mark.parametrize("name", ["' '", "'a\tb'"])
def test_a_name_that_does_not_print_is_refused_at_once(name: str) -> None:
    with pytest.raises(UserError, match="the name of data is"):
        program.compose_all([f"data.name={name}"] if "a" not in name else ["data.name=a\tb"])
