"""The part of YAML that data set files use: text, lists of text, mappings to text, under keys of the top level."""

from __future__ import annotations

import ast
import json
import re

# Keys under which data set files of Ultralytics have images.
SPLITS = ("train", "val", "test")

_LIST_ENTRY = re.compile(r"-(\s|$)")
_TOKEN = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^,:\[\]{}"']+|[,:])""")


def read_entry(lines: list[str], key: str) -> str | list[str] | dict[str, str]:
    """Return the value of a key: text, `[a, b]` or `- a` lines, `{0: a}` or `0: a` lines; [] if there is none.

    ValueError if it is written in another way.
    """
    place = entry_lines(lines, key)
    if not place:
        return []
    inline, *block = (_strip_comment(lines[index]).strip() for index in place)
    inline = inline.split(":", 1)[1].strip()
    block = [line for line in block if line]
    if inline[:1] in ("[", "{"):
        return _parse_flow(" ".join([inline, *block]))
    if inline:
        if block:
            raise ValueError(f"unexpected {block[0][:60]!r}")
        return [] if inline in ("~", "null") else _parse_scalar(inline)
    if all(map(_LIST_ENTRY.match, block)):
        return [_parse_scalar(line[1:]) for line in block]
    values = {}
    for line in block:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"no colon in {line[:60]!r}")
        values[name] = _parse_scalar(value)
    return values


def entry_lines(lines: list[str], key: str) -> range:
    """Return the indices of the lines of an entry; empty, at the end, if there is none."""
    start_of_entry = re.compile(rf"""({key}|"{key}"|'{key}')\s*:""")
    start = next((i for i, line in enumerate(lines) if start_of_entry.match(line)), len(lines))
    stop = min(start + 1, len(lines))
    for index in range(stop, len(lines)):
        line = _strip_comment(lines[index])
        # Entries of a list may be unindented.
        if line and not (line[0].isspace() or line[0] in "]}" or _LIST_ENTRY.match(line)):
            break
        if line.strip():
            stop = index + 1
    return range(start, stop)


def _parse_flow(text: str) -> list[str] | dict[str, str]:
    """Parse `[a, "b"]` or `{0: a, 1: 'b'}`."""
    opening, body = text[0], text[1:-1].rstrip().removesuffix(",")
    if opening + text[-1] not in ("[]", "{}"):
        raise ValueError(f"{text[:60]!r} is neither a list nor a mapping")
    entries: list[list[str]] = [[]]
    position = 0
    while position < len(body):
        token = _TOKEN.match(body, position)
        if token is None:
            raise ValueError(f"unexpected {body[position : position + 20]!r}")
        position = token.end()
        if token[1] == ",":
            entries.append([])
        else:
            entries[-1].append(token[1].strip())
    values: list[str] = []
    mapping: dict[str, str] = {}
    for entry in entries if body.strip() else []:
        if opening == "[" and len(entry) == 1:
            values.append(_parse_scalar(entry[0]))
        elif opening == "{" and len(entry) == 3 and entry[1] == ":":
            mapping[entry[0]] = _parse_scalar(entry[2])
        else:
            raise ValueError(f"unexpected {' '.join(entry)[:60]!r}")
    return values if opening == "[" else mapping


def _parse_scalar(text: str) -> str:
    text = text.strip()
    if text[:1] == "'" and text[-1:] == "'" and len(text) > 1:
        return text[1:-1].replace("''", "'")
    if text[:1] == '"' and text[-1:] == '"' and len(text) > 1:
        try:
            # Nearly all escapes are those of JSON; Python's literals cover \x and similar.
            return str(json.loads(text))
        except ValueError:
            try:
                return str(ast.literal_eval(text))
            except SyntaxError as error:
                raise ValueError(f"{text[:60]} is not quoted text: {error.msg}") from None
    return text


def _strip_comment(line: str) -> str:
    """Remove a comment, which starts with a `#` at the start or after a space, outside quotes."""
    quote, escaped = "", False
    for index, character in enumerate(line):
        if escaped:
            escaped = False
        elif quote:
            escaped = line[index : index + 2] == "''" if quote == "'" else character == "\\"
            quote = "" if character == quote and not escaped else quote
        elif character in "\"'" and (not line[:index].strip() or line[index - 1] in " [{,:-"):
            quote = character
        elif character == "#" and (index == 0 or line[index - 1].isspace()):
            return line[:index].rstrip()
    return line.rstrip()
