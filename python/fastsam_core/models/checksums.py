"""Published facts about checkpoint files, for checking downloads: sha256 and size in bytes.

The hashes of Meta's three files and of MobileSAM's are those on which public projects that pin them agree. No hash of
the re-hosted sam_b.pt and sam_l.pt has been published, so these are only used if Meta's address can't be reached. (The
hexadecimal digits in Meta's file names belong to the MD5 sum.)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Checksum:
    """Published facts about the file at an address; None if not published."""

    sha256: str | None = None
    size: int | None = None


_VIT_B = Checksum("ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", 375_042_383)
_VIT_L = Checksum("3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", 1_249_524_607)
_VIT_H = Checksum("a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", 2_564_550_879)
_MOBILE = Checksum("6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f", 40_728_226)

# Keyed by the last part of the address, since the same file is published in several places.
BY_FILE_NAME: dict[str, Checksum] = {
    "sam_vit_b_01ec64.pth": _VIT_B,
    "sam_vit_l_0b3195.pth": _VIT_L,
    "sam_vit_h_4b8939.pth": _VIT_H,
    "mobile_sam.pt": _MOBILE,
}


def published_checksum(url: str) -> Checksum:
    """Return what is known about the file at an official address."""
    return BY_FILE_NAME.get(url.rsplit("/", 1)[-1], Checksum())
