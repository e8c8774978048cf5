/** The label map in 3D: the surface voxels of each structure, turned, shaded and drawn by depth. */

import { rgb } from "./pane.js";
import { store } from "./store.js";

const LIGHT = [0.3, 0.5, 0.81]; // from the right, above, and where one looks from
const REACH = 2; // voxels around a voxel that its normal depends on
const angles = { turn: 0.6, tilt: 0.35 };
let surface = null; // of which labels, and their surface voxels
let wasDrawn = "";

/** Let the mouse turn the surface. */
export function turnable(canvas, redraw) {
  let from = null;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    from = { x: event.clientX, y: event.clientY, ...angles };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    angles.turn = from.turn + (event.clientX - from.x) / 120;
    angles.tilt = Math.min(Math.max(from.tilt + (event.clientY - from.y) / 120, -1.5), 1.5);
    redraw();
  });
  canvas.addEventListener("pointerup", () => { from = null; });
}

export function drawSurface(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(Math.round(canvas.clientWidth * ratio), 1);
  const height = Math.max(Math.round(canvas.clientHeight * ratio), 1);
  if (surface?.labels !== store.labels || surface?.volume !== store.volume) {
    surface = { labels: store.labels, volume: store.volume, voxels: surfaceVoxels(), number: (surface?.number ?? 0) + 1 };
  }
  const colours = (store.session?.structures ?? []).map((s) => s.colour).join();
  const now = [width, height, angles.turn, angles.tilt, surface.number, colours].join();
  if (now === wasDrawn) return;
  wasDrawn = now;
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext("2d");
  if (surface.voxels.length) paint(pen, width, height);
  pen.fillStyle = "#9fd8d2";
  pen.font = `${12 * ratio}px system-ui, sans-serif`;
  pen.fillText(surface.voxels.length ? "3D, drag to turn" : "the segmentation in 3D appears here", 8 * ratio, 16 * ratio);
}

/** Of each labelled voxel with a free side: position in mm, normal, value. */
function surfaceVoxels() {
  const { volume, labels } = store;
  if (!volume || !labels) return [];
  const { dims, spacing } = volume;
  const found = [];
  const value = (x, y, z) =>
    (x < 0 || y < 0 || z < 0 || x >= dims[0] || y >= dims[1] || z >= dims[2] ? 0 : labels[volume.at(x, y, z)]);
  for (let z = 0; z < dims[2]; z += 1) {
    for (let y = 0; y < dims[1]; y += 1) {
      for (let x = 0; x < dims[0]; x += 1) {
        const here = labels[volume.at(x, y, z)];
        if (!here) continue;
        const isFree = (dx, dy, dz) => value(x + dx, y + dy, z + dz) !== here;
        if (!(isFree(1, 0, 0) || isFree(-1, 0, 0) || isFree(0, 1, 0) || isFree(0, -1, 0)
          || isFree(0, 0, 1) || isFree(0, 0, -1))) continue;
        found.push({
          at: [x * spacing[0], y * spacing[1], z * spacing[2]],
          normal: normalAt(isFree, spacing),
          value: here,
        });
      }
    }
  }
  return found;
}

/** The direction in which most of the surroundings are free. */
function normalAt(isFree, spacing) {
  const normal = [0, 0, 0];
  for (let dz = -REACH; dz <= REACH; dz += 1) {
    for (let dy = -REACH; dy <= REACH; dy += 1) {
      for (let dx = -REACH; dx <= REACH; dx += 1) {
        if (!isFree(dx, dy, dz)) continue;
        normal[0] += dx * spacing[0];
        normal[1] += dy * spacing[1];
        normal[2] += dz * spacing[2];
      }
    }
  }
  const length = Math.hypot(...normal) || 1;
  return normal.map((part) => part / length);
}

/** The middle of the surface, and the distance of its farthest voxel from there, in mm. */
function extent(voxels) {
  const low = [Infinity, Infinity, Infinity];
  const high = [-Infinity, -Infinity, -Infinity];
  for (const { at } of voxels) {
    at.forEach((value, d) => {
      low[d] = Math.min(low[d], value);
      high[d] = Math.max(high[d], value);
    });
  }
  const middle = low.map((value, d) => (value + high[d]) / 2);
  return { middle, radius: Math.hypot(...middle.map((value, d) => high[d] - value)) };
}

function paint(pen, width, height) {
  const { spacing } = surface.volume;
  const { middle, radius } = extent(surface.voxels);
  const scale = (0.9 * Math.min(width, height)) / (2 * (radius + Math.max(...spacing)));
  const size = Math.ceil(Math.max(...spacing) * scale) + 1;
  const [c, s] = [Math.cos(angles.turn), Math.sin(angles.turn)];
  const [ct, st] = [Math.cos(angles.tilt), Math.sin(angles.tilt)];
  // From behind and above: x to the right, z up, the depth to the front of the subject.
  const turned = ([x, y, z]) => {
    const [a, b] = [x * c - y * s, x * s + y * c];
    return [a, z * ct + b * st, b * ct - z * st];
  };
  const colours = new Map(store.session.structures.map((one) => [one.value, rgb(one.colour)]));
  const pixels = pen.createImageData(width, height);
  const depths = new Float32Array(width * height).fill(Infinity);
  for (const { at, normal, value } of surface.voxels) {
    const [x, y, depth] = turned(at.map((value, d) => value - middle[d]));
    const [nx, ny, nz] = turned(normal);
    const light = 0.35 + 0.65 * Math.max(nx * LIGHT[0] + ny * LIGHT[1] - nz * LIGHT[2], 0);
    const colour = (colours.get(value) ?? [255, 255, 255]).map((part) => part * light);
    const left = Math.round(width / 2 + x * scale - size / 2);
    const top = Math.round(height / 2 - y * scale - size / 2);
    for (let row = Math.max(top, 0); row < Math.min(top + size, height); row += 1) {
      for (let column = Math.max(left, 0); column < Math.min(left + size, width); column += 1) {
        const place = row * width + column;
        if (depth >= depths[place]) continue;
        depths[place] = depth;
        pixels.data.set([...colour, 255], 4 * place);
      }
    }
  }
  pen.putImageData(pixels, 0, 0);
}
