"""Tests the help of the command line `fastsam`: its commands, their options, and commands that don't exist."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from fastsam_core.annotate.command import OPTIONS as ANNOTATE
from fastsam_core.cli import main
from fastsam_core.config import EVERYTHING_OPTIONS, FIELDS, PROMPT_KEYS
from fastsam_core.evaluate.command import OPTIONS as VAL
from fastsam_core.formats.convert import WRITERS, _option_names
from fastsam_core.tiles.command import OPTIONS as TILES


@pytest.mark.parametrize("line", ["", "help", "-h", "--help"])
def test_help_names_every_command(capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert main(line.split()) == 0
    said = capsys.readouterr().out
    for command in ("predict", "annotate", "tiles", "convert", "val", "info", "doctor", "version"):
        assert f"fastsam {command}" in said


@pytest.mark.parametrize("line", ["help predict", "predict --help", "predict -h", "predict help model=x.pt"])
def test_help_of_predict_names_every_option(capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert main(line.split()) == 0
    said = capsys.readouterr().out
    options = {key for key, field in FIELDS.items() if not field.metadata.get("ignored")}
    for key in (options - {"mode", "task", "retina_masks", "rect"}) | {*PROMPT_KEYS, "source"}:
        assert f"  {key}=" in said, key
    assert "merge_iou" not in said


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("annotate", ANNOTATE),
        ("tiles", {*TILES, *EVERYTHING_OPTIONS & FIELDS.keys()}),
        ("val", VAL),
        ("info", {"model", "detailed"}),
        ("convert", {"data", "output", "from", "to"}.union(*map(_option_names, WRITERS.values()))),
    ],
)
def test_help_of_a_command_names_every_option(
    capsys: pytest.CaptureFixture[str], command: str, options: Iterable[str]
) -> None:
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"fastsam {command}")
    for key in options:
        assert f"\n  {key}=" in said, key


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("help nosuch", "'nosuch' is not a command; the commands are predict, annotate, "),
        ("help predit", "'predit' is not a command; did you mean predict? The commands are predict, annotate, "),
        ("nosuch --help", "'nosuch' is not a command; the commands are predict, annotate, "),
    ],
)
def test_help_of_an_unknown_command_exits_with_2(capsys: pytest.CaptureFixture[str], line: str, said: str) -> None:
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"fastsam: error: {said}") and not captured.out
