"""Find a checkpoint: a path, a file in `FASTSAM_HOME`, or an official name, which is downloaded."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .._files import cache_folder, write_text
from .._log import logger
from .checksums import published_checksum
from .download import download, sha256_of


def find_checkpoint(model: str | os.PathLike[str], official: Mapping[str, Sequence[str]]) -> Path:
    """Return the path of the file that `model` stands for.

    model: a path; else a name within `FASTSAM_HOME`; else a key of `official`.
    official: the addresses of each official file, in the order in which to try them. Raises FileNotFoundError for
    anything else, suggesting the closest name; ValueError for a folder or a special file; ConnectionError and
    ValueError as `download_official` does.
    """
    text = as_text(model)
    for candidate in (as_path(text), cache_folder() / text):
        if os.path.isfile(candidate):
            return candidate
    if text in official:
        return download_official(text, official[text])
    if os.path.exists(as_path(text)):
        raise not_a_file_error(text)
    raise not_found_error(text, official)


def as_text(model: str | os.PathLike[str]) -> str:
    """Return a name or path as text. TypeError for other types, ValueError for an empty string."""
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(f"model is a path or a name such as 'sam_b.pt', not a {type(model).__name__}")
    text = os.fspath(model)
    if not text.strip():
        raise ValueError("model is an empty string; give a path or a name such as 'sam_b.pt'")
    return text


def as_path(text: str) -> Path:
    """Return the path with `~` expanded. An unknown user's `~name` stays, for which `Path.expanduser` would raise."""
    return Path(os.path.expanduser(text))


def download_official(name: str, urls: Sequence[str]) -> Path:
    """Download an official file into `FASTSAM_HOME` as `name`, from the first address that can be reached.

    Size and sha256 must be the published ones. If none are published, the sha256 of the first download is stored beside
    the file as `<name>.sha256`, and later downloads must match it; delete that file to accept another one.

    Raises ConnectionError if no address can be reached, ValueError if the content is wrong.
    """
    target, failures = cache_folder() / name, []
    checksum_file = target.with_name(f"{name}.sha256")
    for url in urls:
        checksum = published_checksum(url)
        expected = checksum.sha256 or _read_checksum_file(checksum_file)
        try:
            path = download(url, target, sha256=expected, size=checksum.size)
        except ConnectionError as error:
            logger.warning("%s", error)
            failures.append(str(error))
            continue
        except ValueError as error:
            if checksum.sha256 or not expected:
                raise
            raise ValueError(
                f"{error} ({checksum_file} has it from an earlier download; delete it to accept the new file)"
            ) from None
        if not expected:
            write_text(checksum_file, f"{sha256_of(path)}  {name}\n")
        return path
    raise ConnectionError(f"{name} is neither in the current folder nor in {cache_folder()}: " + " | ".join(failures))


def _read_checksum_file(checksum_file: Path) -> str | None:
    """Return the sha256 stored in such a file, or None if there is no valid one."""
    try:
        words = checksum_file.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return None
    return words[0] if words and len(words[0]) == 64 else None


def not_a_file_error(text: str) -> ValueError:
    """Return the error for a path that is a folder, a pipe or a device."""
    if os.path.isdir(as_path(text)):
        return ValueError(f"model {text!r} is not a file but a folder; give the checkpoint within it")
    return ValueError(f"model {text!r} is not a regular file; save the checkpoint as one first")


def not_found_error(text: str, official: Iterable[str]) -> FileNotFoundError:
    """Return the error for a path or name that doesn't exist, suggesting what may have been meant."""
    names = list(official)
    path = as_path(text)
    if path.name != text:  # with an explicit folder, suggesting an official file would be a guess
        hint = f"; {path.name!r} without the folder stands for the official file" if path.name in names else ""
        if not os.path.isdir(path.parent):
            if re.fullmatch(r"[\w-]+/[\w-]+", text):  # as in facebook/sam-vit-base
                hint = "; of a model on the Hugging Face hub, give the path of its downloaded model.safetensors"
            return FileNotFoundError(f"no checkpoint {text}: the folder {path.parent} does not exist{hint}")
        matches = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
        hint = f"; did you mean {path.parent / matches[0]}?" if matches else hint
        return FileNotFoundError(f"no checkpoint {path.name} in {path.parent}{hint}")
    longer = [name for name in names if name.startswith(path.stem)]  # sam_vit_b.pth: sam_vit_b_01ec64.pth
    close = longer or difflib.get_close_matches(text, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return FileNotFoundError(
        f"no checkpoint {text!r} in {os.getcwd()} or {cache_folder()}, and no official model of that name "
        f"({', '.join(names)}){hint}"
    )
