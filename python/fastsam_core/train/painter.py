"""Painting of placed shapes into an image and its label maps, back to front, with shading, shadows and soft focus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import cv2
import numpy as np

from . import stuff
from .finish import Finish, Placed, random_finish
from .reflections import mirror_in_ground, surroundings_in
from .shapes import Cluster, Piece, bent, fill
from .textures import Material, TexturePool, random_colour

# Minimum Euclidean RGB distance between the mean colours of a part and its object, and of an object and what is behind
# it. Below this nobody could draw the outline, and a mask would be a guess.
PART_CONTRAST = 0.15
OBJECT_CONTRAST = 0.07


class Painter:
    """The image being painted and its labels.

    Args:
        image: (S, S, 3) float32 RGB backdrop in [0, 1]; painted over in place if contiguous.
        pool: textures.
        rng: the scene's generator.

    Attributes:
        labels, parts: (S, S) int32, number of the object and of the part at each pixel; 0 for none.
        objects: number of objects so far.
        owners, group_of: object of each part, and group of each object (0 for none); entry 0 is 0.
    """

    def __init__(self, image: np.ndarray, pool: TexturePool, rng: np.random.Generator) -> None:
        self.image, self.pool, self.rng = np.ascontiguousarray(image, np.float32), pool, rng
        self.size = image.shape[0]
        self.labels = np.zeros((self.size, self.size), np.int32)
        self.parts = np.zeros((self.size, self.size), np.int32)
        self.objects = 0
        self.owners: list[int] = [0]
        self.group_of: list[int] = [0]
        self._groups, self._group = 0, 0
        tilt, turn = rng.uniform(0.35, 1.1), rng.uniform(-np.pi, 0)
        # Unit vector towards the light. y points down, so it is negative for light from above.
        self.light = np.array([np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.cos(tilt)], np.float32)
        self.harsh = float(rng.uniform(0.3, 1.0))
        # Strength of the ground's reflection of things that stand on it; 0 for none.
        self.mirror = float(rng.uniform(0.08, 0.5)) if rng.random() < 0.2 else 0.0

    def claim(self, window: tuple[slice, slice]) -> None:
        """Label a rectangle of the backdrop as an object."""
        self.labels[window] = self._next_object()

    def _next_object(self) -> int:
        self.objects += 1
        self.group_of.append(self._group)
        return self.objects

    @contextmanager
    def grouped(self) -> Iterator[None]:
        """Put all objects painted in this context into one group. Nested contexts join the outer group."""
        outer = self._group
        if not outer:
            self._groups += 1
            self._group = self._groups
        try:
            yield
        finally:
            self._group = outer

    # Materials --------------------------------------------------------------------------------------------------------

    def surface(self, colour: np.ndarray | None = None) -> Material:
        """Return a random material whose texture is scaled to the image."""
        zoom = self.size / 384.0 * float(np.exp(self.rng.uniform(np.log(0.35), np.log(1.8))))
        return self.pool.material(self.rng, zoom=zoom, colour=colour)

    def _of_stuff(self, slot: int) -> Material:
        """Return a random material of the stuff that `slot` names, occasionally in an unlikely colour."""
        rng, kind = self.rng, stuff.of_slot(slot)
        if len(kind.colours) and rng.random() < 0.94:
            chosen = kind.colours[int(rng.integers(len(kind.colours)))] * rng.uniform(0.75, 1.2) + rng.normal(
                0, 0.03, 3
            )
            colour = np.clip(chosen, 0.02, 0.98).astype(np.float32)
        else:
            colour = random_colour(rng)
        low, high = kind.contrast
        zoom = self.size / 384.0 * float(np.exp(rng.uniform(np.log(0.3), np.log(1.2))))
        contrast = float(rng.uniform(low, high))
        return self.pool.material(rng, zoom=zoom, contrast=contrast, colour=colour, kinds=kind.textures)

    def _material(self, materials: dict[int, Material], slot: int) -> Material:
        if slot not in materials and slot >= stuff.FIRST:
            materials[slot] = self._of_stuff(slot)
        if slot not in materials:
            if 0 not in materials:
                materials[0] = self.surface()
            main = materials[0]
            if slot < 0:  # the main material at another angle to the light
                factor = float(self.rng.uniform(0.55, 0.85) if self.rng.random() < 0.6 else self.rng.uniform(1.15, 1.4))
                shift = np.clip(main.colour * factor, 0.0, 1.0)
                if np.linalg.norm(shift - main.colour) < PART_CONTRAST / 2:
                    shift = main.colour + (0.1 if main.colour.mean() < 0.5 else -0.1)
                materials[slot] = main.recoloured(shift)
            elif slot > 0:
                colour = random_colour(self.rng)
                for _ in range(6):
                    if np.linalg.norm(colour - main.colour) >= PART_CONTRAST:
                        break
                    colour = random_colour(self.rng)
                materials[slot] = self.surface(colour)
        return materials[slot]

    def _camouflage(self, materials: dict[int, Material], slot: int, behind: np.ndarray) -> None:
        """Recolour the material of `slot` to about the image (h, w, 3) behind: faint outlines are common in photos."""
        around = np.array(cv2.mean(np.ascontiguousarray(behind[::4, ::4]))[:3]) + self.rng.normal(0, 0.07, 3)
        own = self._material(materials, slot)
        materials[slot] = own.recoloured(np.clip(around, 0.0, 1.0).astype(np.float32))

    # Geometry ---------------------------------------------------------------------------------------------------------

    def _region(self, points: np.ndarray, pad: int) -> tuple[int, int, int, int] | None:
        left, top, wide, high = cv2.boundingRect(points)
        x0, y0 = max(left - pad, 0), max(top - pad, 0)
        x1, y1 = min(left + wide + pad, self.size), min(top + high + pad, self.size)
        return (x0, y0, x1, y1) if x1 - x0 > 1 and y1 - y0 > 1 else None

    @staticmethod
    def _coverage(piece: Piece, region: tuple[int, int, int, int]) -> np.ndarray:
        """Return the anti-aliased coverage (h, w) uint8 of a piece given in pixel coordinates."""
        x0, y0, x1, y1 = region
        scale = 4 if max(x1 - x0, y1 - y0) <= 96 else 2
        fine = np.zeros(((y1 - y0) * scale, (x1 - x0) * scale), np.uint8)
        fill(fine, piece, (x0, y0), scale)
        return cv2.resize(fine, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)

    def relief(self, cover: np.ndarray, finish: Finish) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the shading of a silhouette inflated like a cushion.

        The surface rises from the outline along a circle's arc, and the scene's light shines on its normals. Returns a
        factor (h, w) float32 and, for glossy things, a highlight (h, w) float32 to add, else None. Since shading is
        smooth, it is computed with a longer side of at most 48 pixels.
        """
        height, width = cover.shape
        if max(height, width) < max(self.size // 22, 8):  # too small for visible shading
            return np.ones((height, width), np.float32), None
        ratio = min(1.0, 48.0 / max(height, width))
        small = (max(int(width * ratio), 2), max(int(height * ratio), 2))
        mask = cv2.resize(cover, small, interpolation=cv2.INTER_AREA) if ratio < 1 else cover
        distance = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)
        peak = max(cv2.minMaxLoc(distance)[1], 1.0)
        if peak > 1e4:  # no pixel outside: the silhouette fills the region
            return np.ones((height, width), np.float32), None
        shade: np.ndarray = np.ones(mask.shape, np.float32)
        spot: np.ndarray | None = None
        if finish.roundness > 0:
            radius = peak * finish.roundness
            arc = 1.0 - np.minimum(distance / radius, 1.0)
            surface = cv2.GaussianBlur(radius * cv2.sqrt(1.0 - arc * arc), (0, 0), 1.0 + 0.1 * radius)
            gx, gy = (
                cv2.Sobel(surface, cv2.CV_32F, 1, 0, scale=0.125),
                cv2.Sobel(surface, cv2.CV_32F, 0, 1, scale=0.125),
            )
            length = cv2.sqrt(1.0 + gx * gx + gy * gy)
            facing = (self.light[2] - gx * self.light[0] - gy * self.light[1]) / length
            # The lower bound also limits surfaces that face away from the light (negative values).
            shade = np.clip(facing * (self.harsh / float(self.light[2])) + (1.0 - self.harsh), 0.3, 1.5)
            if finish.gloss > 0:
                bisector = self.light + np.array([0, 0, 1], np.float32)
                bisector = bisector / np.linalg.norm(bisector)
                mirror = np.maximum((bisector[2] - gx * bisector[0] - gy * bisector[1]) / length, 0.0)
                spot = np.float32(finish.gloss) * cv2.pow(mirror, 60.0 if finish.gloss > 0.4 else 20.0)
            if finish.gloss > 0.5:
                darker, sky = surroundings_in(gy / length, finish.gloss)
                shade, spot = shade * darker, spot + sky
        if finish.edge > 0:
            shade = shade * (1.0 - finish.edge * cv2.exp(distance * (-1.0 / max(0.12 * peak, 0.8))))
        if ratio < 1:
            shade = cv2.resize(shade, (width, height), interpolation=cv2.INTER_LINEAR)
            spot = None if spot is None else cv2.resize(spot, (width, height), interpolation=cv2.INTER_LINEAR)
        return shade, spot

    def _ramp(self, slope: float, height: int, width: int) -> np.ndarray:
        """Return a factor around 1 that rises towards the light, (height, width) float32."""
        across, down = slope * float(self.light[0]), slope * float(self.light[1])
        corners = [[1 - across - down, 1 + across - down], [1 - across + down, 1 + across + down]]
        return cv2.resize(np.array(corners, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)

    def _fray(self, cover: np.ndarray, amount: float) -> np.ndarray:
        """Return the coverage with its outline displaced by noise of about `amount` pixels."""
        wide = cv2.GaussianBlur(cover, (0, 0), amount)
        # The noise is below half the coverage's range, so it frays the outline but makes no holes inside.
        noise = self.pool.mottle(self.rng, cover.shape[0], cover.shape[1], self.size / 640.0, 0.4)
        sharp = 1.5 * amount
        level = (wide + noise * np.float32(255.0)) * np.float32(sharp) + np.float32(127.5 - 382.5 * sharp)
        frayed = np.clip(level, 0.0, 255.0).astype(np.uint8)
        # Limit the hairs to the neighbourhood of the outline, without faint specks beyond it.
        return cv2.min(frayed, cv2.multiply(wide, wide, scale=0.1))

    # Painting ---------------------------------------------------------------------------------------------------------

    def paint_cluster(self, cluster: Cluster, matrix: np.ndarray, finish: Finish, *, grounded: bool = False) -> None:
        """Paint a cluster's members from back to front, as one group."""
        with self.grouped():
            for number, member in enumerate(cluster.members):
                # Members share the focus, but each has its own surface.
                own = random_finish(self.rng, self.size) if number else finish
                shadow = own.shadow if number in cluster.standing or self.rng.random() < 0.5 else 0.0
                own = replace(
                    own, soft=finish.soft, opacity=1.0, shadow=shadow, lift=0.3 * own.lift, ragged=0.0, smear=0.0
                )
                self.paint(Placed(member, matrix, own, grounded=grounded and number in cluster.standing, pliable=False))

    def paint(self, thing: Placed) -> None:
        """Paint one object over everything so far and label the pixels it covers."""
        finish, rng = thing.finish, self.rng
        shape = (
            bent(rng, thing.shape, float(rng.uniform(0.01, 0.1)))
            if thing.pliable and rng.random() < 0.6
            else thing.shape
        )
        pieces = [piece.mapped(thing.matrix) for piece in shape.pieces]
        pad = 2 + int(np.ceil(2.5 * finish.soft + 0.5 * finish.smear))
        region = self._region(np.concatenate([piece.outline_points for piece in pieces if not piece.clip]), pad)
        if region is None:
            return
        x0, y0, x1, y1 = region
        height, width = y1 - y0, x1 - x0
        # The base colour shows only at the edges of pieces, so if all have stuff of their own, the first one's serves.
        ground = 0 if any(piece.slot < stuff.FIRST for piece in pieces) else pieces[0].slot
        if ground not in thing.materials and rng.random() < 0.12:
            self._camouflage(thing.materials, ground, self.image[y0:y1, x0:x1])
        colour = self.pool.paint(self._material(thing.materials, ground), rng, height, width)
        cover = np.zeros((height, width), np.uint8)
        shade: np.ndarray | None = None
        spot: np.ndarray | None = None
        names = np.zeros((height, width), np.int32)
        own_parts: list[int] = []
        under: np.ndarray | None = None  # the base material, before other pieces covered it
        later = [piece.slot for piece in pieces]
        for number, piece in enumerate(pieces):
            area = self._region(piece.outline_points, 2)
            if area is None:
                continue
            u0, v0 = max(area[0], x0) - x0, max(area[1], y0) - y0
            u1, v1 = min(area[2], x1) - x0, min(area[3], y1) - y0
            if u1 - u0 < 2 or v1 - v0 < 2:
                continue
            window = np.s_[v0:v1, u0:u1]
            layer = self._coverage(piece, (u0 + x0, v0 + y0, u1 + x0, v1 + y0))
            if finish.ragged > 0 and not piece.clip and min(layer.shape) > 8 * finish.ragged:
                layer = self._fray(layer, finish.ragged)
            if piece.clip:
                layer = cv2.min(layer, cover[window])
            opaque = _opaque(layer)
            if not piece.clip and (finish.roundness > 0 or finish.edge > 0):
                lit, shine = self.relief(layer, finish)
                if shade is None:
                    shade = np.ones((height, width), np.float32)
                cv2.copyTo(lit, opaque, shade[window])
                if shine is not None or spot is not None:
                    spot = np.zeros((height, width), np.float32) if spot is None else spot
                    cv2.copyTo(np.zeros_like(lit) if shine is None else shine, opaque, spot[window])
            if piece.slot != ground:
                if under is None:
                    under = colour.copy() if ground in later[number:] else colour
                paint = self.pool.paint(self._material(thing.materials, piece.slot), rng, v1 - v0, u1 - u0)
                blend(colour[window], paint, layer.astype(np.float32) * np.float32(1 / 255))
            elif under is not None and not piece.clip:
                blend(colour[window], under[window], layer.astype(np.float32) * np.float32(1 / 255))
            if not piece.clip:
                np.maximum(cover[window], layer, out=cover[window])
            if piece.part:
                own_parts.append(len(own_parts) + 1)
                _fill(names[window], opaque, len(self.owners) - 1 + len(own_parts))
            elif not piece.clip:  # hides the parts below it; print (clip) leaves them whole
                _fill(names[window], opaque, 0)
        if cv2.minMaxLoc(cover)[1] <= 127:
            return
        if finish.mottle > 0 and min(height, width) > self.size // 12:
            zoom = self.size / 256.0 * float(rng.uniform(0.4, 2.0))
            factor = self.pool.mottle(rng, height, width, zoom, finish.mottle)
        else:
            factor = None
        if shade is not None:
            if finish.roundness > 0.1 or finish.edge > 0.1:
                # Soften the hard lines where the shading of pieces meets, like the creases of real objects.
                shade = cv2.blur(shade, (3, 3))
            factor = shade if factor is None else cv2.multiply(factor, shade, factor)
        if finish.slope > 0:
            ramp = self._ramp(finish.slope, height, width)
            factor = ramp if factor is None else cv2.multiply(factor, ramp, factor)
        if factor is not None:
            colour = cv2.multiply(colour, cv2.merge([factor, factor, factor]), colour)
        if spot is not None:
            colour = cv2.add(colour, cv2.merge([spot, spot, spot]), colour)
        alpha: np.ndarray = cover.astype(np.float32) * np.float32(1 / 255)
        if finish.soft > 0.3:
            alpha = cv2.GaussianBlur(alpha, (0, 0), finish.soft)
            colour = cv2.GaussianBlur(colour, (0, 0), finish.soft)
        if finish.smear > 1:
            alpha, colour = _smeared(alpha, colour, finish.smear, float(rng.uniform(0, np.pi)))
        window = np.s_[y0:y1, x0:x1]
        self._ensure_contrast(colour, self.image[window], alpha)
        if finish.shadow > 0:
            self._shadow(cover, region, thing)
        if thing.grounded and self.mirror > 0:
            mirror_in_ground(self.image, self.labels, colour, alpha, (x0, y0), self.mirror)
        blend(self.image[window], colour, alpha if finish.opacity >= 1 else alpha * finish.opacity)
        visible = (alpha > 0.5).view(np.uint8)
        _fill(self.labels[window], visible, self._next_object())
        cv2.copyTo(names, visible, self.parts[window])
        self.owners += [self.objects] * len(own_parts)

    def _ensure_contrast(self, colour: np.ndarray, behind: np.ndarray, alpha: np.ndarray) -> None:
        """Brighten or darken `colour` in place if its mean is too close to that of the image `behind`."""
        step_y, step_x = max(alpha.shape[0] // 24, 1), max(alpha.shape[1] // 24, 1)
        inside = (np.ascontiguousarray(alpha[::step_y, ::step_x]) > 0.5).view(np.uint8)
        if cv2.countNonZero(inside) == 0:
            return
        ours = np.array(cv2.mean(np.ascontiguousarray(colour[::step_y, ::step_x]), inside)[:3])
        theirs = np.array(cv2.mean(np.ascontiguousarray(behind[::step_y, ::step_x]), inside)[:3])
        gap = ours - theirs
        if float(np.linalg.norm(gap)) < OBJECT_CONTRAST:
            up = ours.mean() < 0.15 or (ours.mean() < 0.85 and gap.mean() >= 0)
            colour += np.float32(OBJECT_CONTRAST if up else -OBJECT_CONTRAST)

    def _shadow(self, cover: np.ndarray, region: tuple[int, int, int, int], thing: Placed) -> None:
        """Darken the image where the object casts a shadow. Computed at a quarter or an eighth of the resolution."""
        x0, y0, x1, y1 = region
        finish = thing.finish
        extent = max(x1 - x0, y1 - y0)
        blur = 2.4 + extent * (0.02 + 0.5 * finish.lift)
        step = 4 if blur < 10 else 8
        side = -(-self.size // step)
        left, top = x0 // step, y0 // step
        right, bottom = min(max(-(-x1 // step), left + 1), side), min(max(-(-y1 // step), top + 1), side)
        mask = np.zeros((side, side), np.uint8)
        mask[top:bottom, left:right] = cv2.resize(cover, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
        if thing.grounded:
            base = bottom - 0.5
            lean, fall = self.light[0] * -1.2, 0.15 + 0.3 * abs(float(self.light[1]))
            matrix = np.array([[1.0, -lean, lean * base], [0.0, fall, base * (1.0 - fall)]], np.float32)
            mask = cv2.warpAffine(mask, matrix, (side, side))
            half = max((right - left) / 2.0, 1.0)
            contact = (int((left + right) / 2), min(int(base), side - 1))
            cv2.ellipse(mask, contact, (int(half * 0.9), max(int(half * 0.12), 1)), 0, 0, 360, 255, -1)
        else:
            reach = (finish.lift * extent + 1.6) / step
            shift = np.array([[1, 0, -self.light[0] * reach], [0, 1, -self.light[1] * reach]], np.float32)
            mask = cv2.warpAffine(mask, shift, (side, side))
        # Blur only the neighbourhood of the shadow.
        bx, by, bw, bh = cv2.boundingRect(mask)
        if bw == 0:
            return
        sigma = blur / step
        pad = int(3.0 * sigma) + 1
        bx, bw = max(bx - pad, 0), min(bx + bw + pad, side) - max(bx - pad, 0)
        by, bh = max(by - pad, 0), min(by + bh + pad, side) - max(by - pad, 0)
        mask = cv2.GaussianBlur(mask[by : by + bh, bx : bx + bw], (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        dark: np.ndarray = np.float32(1.0) - mask * np.float32(finish.shadow / 255.0)
        wide, high = min(bw * step, self.size - bx * step), min(bh * step, self.size - by * step)
        dark = cv2.resize(dark, (bw * step, bh * step), interpolation=cv2.INTER_LINEAR)[:high, :wide]
        under = self.image[by * step : by * step + high, bx * step : bx * step + wide]
        cv2.multiply(under, cv2.merge([dark, dark, dark]), under)


def blend(under: np.ndarray, over: np.ndarray, alpha: np.ndarray) -> None:
    """Blend `over` into `under` in place, both (h, w, 3) float32; `alpha` is (h, w) float32 in [0, 1]."""
    # OpenCV's single pass takes about a fifth of the time of broadcasting in NumPy.
    cv2.blendLinear(over, under, alpha, 1.0 - alpha, under)


def _smeared(alpha: np.ndarray, colour: np.ndarray, length: float, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Return coverage and colour with a motion blur of `length` pixels in direction `turn` (radians)."""
    side = 2 * int(length / 2) + 3
    kernel = np.zeros((side, side), np.float32)
    middle, dx, dy = side // 2, np.cos(turn) * length / 2, np.sin(turn) * length / 2
    start, stop = (round(middle - dx), round(middle - dy)), (round(middle + dx), round(middle + dy))
    cv2.line(kernel, start, stop, 1.0, 1)
    kernel /= kernel.sum()
    return cv2.filter2D(alpha, -1, kernel), cv2.filter2D(colour, -1, kernel)


def _opaque(cover: np.ndarray) -> np.ndarray:
    """Return a mask for OpenCV, 255 where the uint8 `cover` is more than half."""
    return cv2.threshold(cover, 127, 255, cv2.THRESH_BINARY)[1]


def _fill(names: np.ndarray, mask: np.ndarray, name: int) -> None:
    """Write `name` into `names` (h, w) int32 where the uint8 `mask` is set. NumPy takes eight times as long."""
    cv2.copyTo(np.full(names.shape, name, np.int32), mask, names)
