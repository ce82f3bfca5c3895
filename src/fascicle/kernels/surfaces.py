"""Surfaces of labels as triangles: naive surface nets.

S. Gibson, "Constrained elastic surface nets" (1998), in the simple form without constraints: one vertex in every cell
of 2 x 2 x 2 voxel centres that the surface passes through, at the mean of its crossings; one quad for every pair of
neighbours of which one is inside.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def label_boxes(labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """The boxes of the labels 1 to `count` in i32 `[z, y, x]`: i64[count + 1, 6] of first z, y, x and last z, y, x."""
    boxes = np.full((count + 1, 6), -1, np.int64)
    depth, height, width = labels.shape
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                label = labels[z, y, x]
                if label <= 0 or label > count:
                    continue
                box = boxes[label]
                if box[0] < 0:
                    box[0], box[1], box[2], box[3], box[4], box[5] = z, y, x, z, y, x
                else:
                    box[1], box[2] = min(box[1], y), min(box[2], x)
                    box[3], box[4], box[5] = z, max(box[4], y), max(box[5], x)
    return boxes


@njit(cache=True, nogil=True)
def surface(
    labels: NDArray[np.int32], label: int, box: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Vertices f32[n, 3] (x, y, z in voxels, where voxel i reaches from i to i + 1) and triangles u32[m, 3] of a label.

    `labels` is i32 `[z, y, x]`, `box` one of `label_boxes`. The surface is closed, also at the borders of the volume,
    and its triangles are counter-clockwise seen from outside.
    """
    z0, y0, x0 = box[0] - 1, box[1] - 1, box[2] - 1
    cells = (box[3] - z0 + 1, box[4] - y0 + 1, box[5] - x0 + 1)
    inside = np.zeros((cells[0] + 1, cells[1] + 1, cells[2] + 1), np.bool_)
    for z in range(box[0], box[3] + 1):
        for y in range(box[1], box[4] + 1):
            for x in range(box[2], box[5] + 1):
                inside[z - z0, y - y0, x - x0] = labels[z, y, x] == label
    vertex_of = np.full(cells, -1, np.int32)
    found = 0
    for z in range(cells[0]):
        for y in range(cells[1]):
            for x in range(cells[2]):
                filled = 0
                for corner in range(8):
                    filled += inside[z + (corner >> 2), y + ((corner >> 1) & 1), x + (corner & 1)]
                if 0 < filled < 8:
                    vertex_of[z, y, x] = found
                    found += 1
    vertices = np.empty((found, 3), np.float32)
    quads = 0
    for z in range(cells[0]):
        for y in range(cells[1]):
            for x in range(cells[2]):
                number = vertex_of[z, y, x]
                if number < 0:
                    continue
                crossings = 0
                sum_z, sum_y, sum_x = 0.0, 0.0, 0.0
                for axis in range(3):
                    for rest in range(4):
                        a, b = rest >> 1, rest & 1
                        if axis == 0:
                            first, second = inside[z, y + a, x + b], inside[z + 1, y + a, x + b]
                            pz, py, px = 0.5, float(a), float(b)
                        elif axis == 1:
                            first, second = inside[z + a, y, x + b], inside[z + a, y + 1, x + b]
                            pz, py, px = float(a), 0.5, float(b)
                        else:
                            first, second = inside[z + a, y + b, x], inside[z + a, y + b, x + 1]
                            pz, py, px = float(a), float(b), 0.5
                        if first != second:
                            crossings += 1
                            sum_z, sum_y, sum_x = sum_z + pz, sum_y + py, sum_x + px
                            if rest == 0:
                                quads += 1
                vertices[number, 0] = x0 + x + 0.5 + sum_x / crossings
                vertices[number, 1] = y0 + y + 0.5 + sum_y / crossings
                vertices[number, 2] = z0 + z + 0.5 + sum_z / crossings
    triangles = np.empty((2 * quads, 3), np.uint32)
    at = 0
    for z in range(cells[0]):
        for y in range(cells[1]):
            for x in range(cells[2]):
                if vertex_of[z, y, x] < 0:
                    continue
                here = inside[z, y, x]
                for axis in range(3):
                    if axis == 0:
                        there = inside[z + 1, y, x]
                    elif axis == 1:
                        there = inside[z, y + 1, x]
                    else:
                        there = inside[z, y, x + 1]
                    if here == there:
                        continue
                    a = vertex_of[z, y, x]
                    if axis == 0:
                        b, c, d = vertex_of[z, y, x - 1], vertex_of[z, y - 1, x - 1], vertex_of[z, y - 1, x]
                    elif axis == 1:
                        b, c, d = vertex_of[z - 1, y, x], vertex_of[z - 1, y, x - 1], vertex_of[z, y, x - 1]
                    else:
                        b, c, d = vertex_of[z, y - 1, x], vertex_of[z - 1, y - 1, x], vertex_of[z - 1, y, x]
                    if not here:
                        b, d = d, b
                    triangles[at, 0], triangles[at, 1], triangles[at, 2] = a, b, c
                    triangles[at + 1, 0], triangles[at + 1, 1], triangles[at + 1, 2] = a, c, d
                    at += 2
    return vertices, triangles


@njit(cache=True, nogil=True)
def smooth(vertices: NDArray[np.float32], triangles: NDArray[np.uint32], rounds: int) -> None:
    """Move vertices f32[n, 3] towards the mean of their neighbours and back by nearly as much, `rounds` times."""
    count = vertices.shape[0]
    total = np.empty((count, 3), np.float32)
    number = np.empty(count, np.float32)
    for step in range(2 * rounds):
        weight = np.float32(0.5) if step % 2 == 0 else np.float32(-0.52)
        total[:] = 0
        number[:] = 0
        for i in range(triangles.shape[0]):
            for corner in range(3):
                a = triangles[i, corner]
                b = triangles[i, (corner + 1) % 3]
                for axis in range(3):
                    total[a, axis] += vertices[b, axis]
                number[a] += 1
        for i in range(count):
            if number[i] > 0:
                for axis in range(3):
                    vertices[i, axis] += weight * (total[i, axis] / number[i] - vertices[i, axis])
