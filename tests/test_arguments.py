"""Tests how command-line words are parsed to values: the accepted spellings, and what is refused."""

from __future__ import annotations

import pytest

from fastsam_core._arguments import UsageError, parse, parse_value


def values(line: str, **known: set[str]) -> dict[str, object]:
    return parse(line.split(), **known).values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("none", None),
        ("None", None),
        ("TRUE", True),
        ("false", False),
        ("3", 3),
        ("-0.5", -0.5),
        ("1e-3", 1e-3),
        ("[[900,370]]", [[900, 370]]),
        ("900,370", (900, 370)),
        ("'12'", "12"),
        ("", ""),
        ("sam_b.pt", "sam_b.pt"),
        ("007", "007"),
        ("a b.jpg", "a b.jpg"),
        ("cuda:0", "cuda:0"),
        ("[1].jpg", "[1].jpg"),
        ("__import__('os')", "__import__('os')"),
        ("rtsp://camera/1?a=b", "rtsp://camera/1?a=b"),
    ],
)
def test_parse_value(text: str, value: object) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize("text", ["[[1,2]", "[a,b]", "[1 2]", "[" * 500 + "]" * 500])
def test_broken_lists_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse([f"points={text}"])


@pytest.mark.parametrize(
    "line",
    [
        "conf=0.5 save=True",
        "conf= 0.5 save = True",
        "conf =0.5 --save",
        "--conf 0.5 --save True",
        "--conf=0.5 --save",
        "--save --conf 0.5",
        "save --conf 0.5",
        "conf=0.5, save=True,",
    ],
)
def test_spellings_of_a_pair(line: str) -> None:
    assert values(line, switches={"save"}) == {"conf": 0.5, "save": True}


def test_dashes_are_underscores() -> None:
    assert values("--points-stride 16") == {"points_stride": 16}


def test_switch_does_not_swallow_a_word() -> None:
    arguments = parse(["--save", "predict"], switches={"save"})
    assert (arguments.words, arguments.values) == (["predict"], {"save": True})


def test_negative_numbers_are_values() -> None:
    assert values("--conf -1 --labels [-1]") == {"conf": -1, "labels": [-1]}


def test_list_split_by_the_shell_is_joined() -> None:
    assert values("points=[[900, 370], [1, 2]] labels=[1, 0]") == {"points": [[900, 370], [1, 2]], "labels": [1, 0]}
    assert values("--points [[900, 370]] --labels [1]") == {"points": [[900, 370]], "labels": [1]}
    assert values("points = [ 900, 370 ]") == {"points": [900, 370]}


def test_texts_stay_text() -> None:
    assert values("name=2024 conf=1", texts={"name"}) == {"name": "2024", "conf": 1}
    assert values("name=none", texts={"name"}) == {"name": None}


def test_empty_value_is_an_empty_text() -> None:
    assert values("device= save=True") == {"device": "", "save": True}


def test_value_may_contain_an_equals_sign() -> None:
    assert values("source=http://host/a?b=c") == {"source": "http://host/a?b=c"}


def test_key_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="conf is given twice"):
        values("conf=1 --conf 2")


def test_bracket_in_quotes_is_text() -> None:
    line = ['texts=["a :("]', "source=x.jpg"]
    assert parse(line, lists={"texts"}).values == {"texts": ["a :("], "source": "x.jpg"}


def test_unclosed_bracket_is_refused() -> None:
    with pytest.raises(UsageError, match="never closed"):
        values("points=[[1, 2] labels=[1]")


@pytest.mark.parametrize("line", ["--source", "--source --verbose", "--source conf=1"])
def test_missing_value_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="--source needs a value"):
        values(line)


def test_names_are_a_list_or_a_file() -> None:
    for given, read in (
        ("[a,b c]", ["a", "b c"]),
        ("['a','b']", ["a", "b"]),
        ("data.yaml", "data.yaml"),
        ("{0: 'a'}", {0: "a"}),
    ):
        assert parse([f"names={given}"], names={"names"}).values == {"names": read}
