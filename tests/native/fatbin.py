"""Lists the kernels that a compiled file contains for each GPU architecture, using only the standard library.

nvcc embeds a "fat binary" for every source file: a header, and for each architecture an image, which is an ELF file
(machine code) or PTX text.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from pathlib import Path

MAGIC = struct.pack("<I", 0xBA55ED50)
PTX, ELF = 1, 2
COMPRESSED = 0x2000 | 0x8000
OF_ONE_CHIP = 0x100000  # the "a" of sm_90a
FUNCTION, ENTRY = 2, 0x10  # a symbol's type, and the flag of functions that the host can launch


def kernels(path: Path) -> dict[str, set[str]]:
    """Return the mangled names of the kernels by image: "sm_80", "sm_90a", "compute_80".

    Raises ValueError if an image is compressed.
    """
    data = path.read_bytes()
    found: dict[str, set[str]] = defaultdict(set)
    at = data.find(MAGIC)
    while at >= 0:
        header, size = struct.unpack_from("<HQ", data, at + 6)
        image, end = at + header, at + header + size
        while image < end:
            image = _read(data, image, found)
        at = data.find(MAGIC, end)
    return dict(found)


def _read(data: bytes, at: int, found: dict[str, set[str]]) -> int:
    """Add the kernels of the image at offset `at` to `found`; return the offset of the next image."""
    kind, _, header, size = struct.unpack_from("<HHIQ", data, at)
    (architecture,) = struct.unpack_from("<I", data, at + 28)
    (flags,) = struct.unpack_from("<Q", data, at + 40)
    if flags & COMPRESSED:
        raise ValueError("a fat binary is compressed; build with nvcc's -no-compress to read it")
    content = data[at + header : at + header + size]
    if kind in (PTX, ELF):
        name = f"{'sm' if kind == ELF else 'compute'}_{architecture}{'a' if flags & OF_ONE_CHIP else ''}"
        found[name] |= _entries_of_elf(content) if kind == ELF else _entries_of_ptx(content)
    return at + header + size


def _entries_of_ptx(content: bytes) -> set[str]:
    return {name.decode() for name in re.findall(rb"^\s*(?:\.visible\s+)?\.entry\s+(\w+)", content, re.MULTILINE)}


def _entries_of_elf(content: bytes) -> set[str]:
    (sections,) = struct.unpack_from("<Q", content, 40)
    each, count = struct.unpack_from("<HH", content, 58)
    table = [struct.unpack_from("<IIQQQQIIQQ", content, sections + i * each) for i in range(count)]
    names = set()
    for _, kind, _, _, offset, size, link, *_ in table:
        if kind != 2:  # SHT_SYMTAB
            continue
        strings = table[link][4]
        for symbol in range(offset, offset + size, 24):
            name, info, other = struct.unpack_from("<IBB", content, symbol)
            if info & 15 == FUNCTION and other & ENTRY:
                begin = strings + name
                names.add(content[begin : content.index(b"\0", begin)].decode())
    return names
