"""Parser that splits the words of a command line into commands and `key=value` pairs.

Accepted forms of a pair: `key=value`, `key= value`, `key =value`, `key = value`, `--key=value`, `--key value`, and
`key` or `--key` alone for a switch. A list that the shell has split (`points=[1, 2]`) is joined again.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_PAIR = re.compile(r"(-{0,2})([A-Za-z_][A-Za-z0-9_-]*)=(.*)", re.DOTALL)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_WORDS = {"none": None, "null": None, "true": True, "false": False}
_CLOSING = {"[": "]", "(": ")", "{": "}"}


class UsageError(ValueError):
    """Error for an invalid command line, raised before anything is run."""


@dataclass
class Arguments:
    """A parsed command line: bare words in order, and values by key."""

    words: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)


def parse_value(text: str) -> Any:
    """Parse a value: `none`, `true` and `false` in any case, a Python literal, or else the text itself.

    Raises UsageError for text in brackets that is not a Python literal.
    """
    text = text.strip()
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if text[:1] in _CLOSING and text.endswith(_CLOSING[text[0]]):
            raise UsageError(f"cannot read the list {text!r}; write numbers, e.g. points=[[900,370]]") from None
        return text


def parse_words(text: str) -> Any:
    """Parse a list of texts, `[a, b c]` or `a,b c`; quotes are optional, and `none` gives None."""
    text = text.strip()
    if text.lower() in ("none", "null"):
        return None
    try:
        value = ast.literal_eval(text)
        if isinstance(value, list | tuple) and all(isinstance(word, str) for word in value):
            return list(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    inner = text[1:-1] if text[:1] in ("[", "(") and text.endswith(_CLOSING[text[0]]) else text
    return [word.strip().strip("'\"") for word in inner.split(",") if word.strip()]


def parse(
    argv: Sequence[str],
    *,
    switches: Collection[str] = (),
    texts: Collection[str] = (),
    lists: Collection[str] = (),
    names: Collection[str] = (),
) -> Arguments:
    """Parse `argv`.

    switches: boolean keys, so that `key` alone means True and `--key word` doesn't consume the word.
    texts: keys whose value stays text even if it looks like a number (names of files and folders).
    lists: keys whose value is a list of texts. names: keys whose value is such a list if it stands in brackets.
    Raises UsageError for a key given twice or without its value, and for a malformed list.
    """
    result = Arguments()
    tokens = _join_tokens(list(argv))
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        pair = _PAIR.fullmatch(token)
        if pair:
            key, value = pair[2], pair[3]
        elif token.startswith("--") and _KEY.fullmatch(token[2:]):
            key = token[2:]
            following = tokens[position] if position < len(tokens) else "--"
            is_switch = key.replace("-", "_") in switches and following.lower() not in ("true", "false", "none")
            if is_switch:
                value = "true"
            elif _starts_pair(following):
                raise UsageError(f"--{key} needs a value")
            else:
                value = following
                position += 1
        elif token in switches:
            key, value = token, "true"
        else:
            result.words.append(token)
            continue
        key = key.replace("-", "_")
        if key in result.values:
            raise UsageError(f"{key} is given twice")
        # Drop a trailing comma, which pasted arguments of a Python call have.
        value = value[:-1] if value.endswith(",") else value
        if key in lists or (key in names and value.strip()[:1] in ("[", "(")):
            result.values[key] = parse_words(value)
        elif key in texts and value.lower() != "none":
            result.values[key] = value.strip()
        else:
            result.values[key] = parse_value(value)
    return result


def check_keys(values: Collection[str], accepted: Sequence[str], command: str) -> None:
    """Raise UsageError for a key that `command` doesn't accept; the message suggests the most similar key, or all."""
    for key in values:
        if key not in accepted:
            similar = difflib.get_close_matches(key, accepted, n=1)
            hint = f"did you mean {similar[0]}?" if similar else f"accepted: {', '.join(accepted)}"
            raise UsageError(f"unknown option {key!r} of {command}; {hint}")


def _starts_pair(token: str) -> bool:
    return bool(_PAIR.fullmatch(token)) or token.startswith("--")


def _join_tokens(tokens: list[str]) -> list[str]:
    """Join `key = value` and lists that the shell split at spaces."""
    joined: list[str] = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        is_key = _KEY.fullmatch(token.lstrip("-")) is not None
        if is_key and position < len(tokens) and tokens[position].startswith("="):
            token += tokens[position]
            position += 1
        pair = _PAIR.fullmatch(token)
        if pair and not pair[3] and position < len(tokens) and not _starts_pair(tokens[position]):
            token += tokens[position]
            position += 1
        start = token[token.index("=") + 1 :] if "=" in token and pair else token
        if start[:1] in _CLOSING:
            while _bracket_depth(token) > 0:
                if position == len(tokens):
                    raise UsageError(f"a bracket is never closed in {token!r}")
                token += " " + tokens[position]
                position += 1
        joined.append(token)
    return joined


def _bracket_depth(text: str) -> int:
    """Return how many brackets are open at the end of `text`, not counting those in quotes."""
    text = _QUOTED.sub("", text)
    return sum(text.count(opening) - text.count(closing) for opening, closing in _CLOSING.items())
