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
ARCH_SPECIFIC = 0x100000  # the "a" of sm_90a
FUNCTION, ENTRY = 2, 0x10  # a symbol's type, and the flag of functions that the host can launch


def kernels(path: Path) -> dict[str, set[str]]:
    """Return the mangled names of the kernels by image: "sm_80", "sm_90a", "compute_80".

    Raises ValueError if an image is compressed.
    """
    data = path.read_bytes()
    kernels_by_image: dict[str, set[str]] = defaultdict(set)
    offset = data.find(MAGIC)
    while offset >= 0:
        header, size = struct.unpack_from("<HQ", data, offset + 6)
        image, end = offset + header, offset + header + size
        while image < end:
            image = _read_image(data, image, kernels_by_image)
        offset = data.find(MAGIC, end)
    return dict(kernels_by_image)


def _read_image(data: bytes, offset: int, kernels_by_image: dict[str, set[str]]) -> int:
    """Add the kernels of the image at `offset` to `kernels_by_image`; return the offset of the next image."""
    kind, _, header, size = struct.unpack_from("<HHIQ", data, offset)
    (architecture,) = struct.unpack_from("<I", data, offset + 28)
    (flags,) = struct.unpack_from("<Q", data, offset + 40)
    if flags & COMPRESSED:
        raise ValueError("a fat binary is compressed; build with nvcc's -no-compress to read it")
    content = data[offset + header : offset + header + size]
    if kind in (PTX, ELF):
        name = f"{'sm' if kind == ELF else 'compute'}_{architecture}{'a' if flags & ARCH_SPECIFIC else ''}"
        kernels_by_image[name] |= _find_elf_entries(content) if kind == ELF else _find_ptx_entries(content)
    return offset + header + size


def _find_ptx_entries(content: bytes) -> set[str]:
    return {name.decode() for name in re.findall(rb"^\s*(?:\.visible\s+)?\.entry\s+(\w+)", content, re.MULTILINE)}


def _find_elf_entries(content: bytes) -> set[str]:
    (sections,) = struct.unpack_from("<Q", content, 40)
    entry_size, count = struct.unpack_from("<HH", content, 58)
    table = [struct.unpack_from("<IIQQQQIIQQ", content, sections + i * entry_size) for i in range(count)]
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
