/** One pane: a slice, the overlay, prompts, the crosshair and letters for directions. */

import { colourOf, entry, store } from "./store.js";
import { eachPixel, paintSlice, PLANES } from "./volume.js";

const MARGIN = 0.94;

export class Pane {
  constructor(canvas) {
    this.canvas = canvas;
    this.plane = PLANES[canvas.id];
    this.draft = null; // a prompt that is being drawn: { box } or { line }
    this.slicePicture = document.createElement("canvas");
    this.maskPicture = document.createElement("canvas");
  }

  /** Pixels per mm, and the middle of the canvas. */
  view() {
    const { u, v } = this.plane;
    const { dims, spacing } = store.volume;
    const { width, height } = this.canvas;
    const fit = Math.min(width / (dims[u] * spacing[u]), height / (dims[v] * spacing[v]));
    return { scale: fit * MARGIN * store.zoom, x: width / 2, y: height / 2 };
  }

  /** Pixels of a position in voxels, whose centres are at whole numbers. */
  toPixels(position) {
    const { u, v } = this.plane;
    const { scale, x, y } = this.view();
    const { spacing } = store.volume;
    return [
      x + (position[u] - store.centre[u]) * spacing[u] * scale,
      y - (position[v] - store.centre[v]) * spacing[v] * scale,
    ];
  }

  /** The position under the mouse, on the slice shown. */
  position(event) {
    const { u, v, w } = this.plane;
    const { scale, x, y } = this.view();
    const { spacing } = store.volume;
    const ratio = this.canvas.width / this.canvas.clientWidth;
    const position = [0, 0, 0];
    position[u] = store.centre[u] + (event.offsetX * ratio - x) / (spacing[u] * scale);
    position[v] = store.centre[v] - (event.offsetY * ratio - y) / (spacing[v] * scale);
    position[w] = store.slice[w];
    return position;
  }

  contains(position) {
    return position.every((value, d) => value >= -0.5 && value <= store.volume.dims[d] - 0.5);
  }

  draw() {
    const { canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(Math.round(canvas.clientWidth * ratio), 1);
    canvas.height = Math.max(Math.round(canvas.clientHeight * ratio), 1);
    const pen = canvas.getContext("2d");
    if (!store.volume) return;
    this.drawSlice(pen);
    if (store.labels && store.masks) this.drawMask(pen, ratio);
    this.drawCrosshair(pen);
    pen.shadowColor = "#000000"; // so that prompts stand out from masks of their colour
    pen.shadowBlur = 4 * ratio;
    if (store.masks) entry().prompts.forEach((prompt) => this.drawPrompt(pen, prompt, ratio));
    this.drawDraft(pen, ratio);
    pen.shadowBlur = 0;
    this.drawText(pen, ratio);
  }

  place(pen, picture) {
    const { u, v } = this.plane;
    const { dims } = store.volume;
    const low = [0, 0, 0];
    const high = [0, 0, 0];
    [low[u], low[v]] = [-0.5, -0.5];
    [high[u], high[v]] = [dims[u] - 0.5, dims[v] - 0.5];
    const [left, bottom] = this.toPixels(low);
    const [right, top] = this.toPixels(high);
    pen.drawImage(picture, left, top, right - left, bottom - top);
  }

  picture(canvas, paint) {
    const { u, v } = this.plane;
    canvas.width = store.volume.dims[u];
    canvas.height = store.volume.dims[v];
    const pen = canvas.getContext("2d");
    const pixels = pen.createImageData(canvas.width, canvas.height);
    paint(pixels.data);
    pen.putImageData(pixels, 0, 0);
    return canvas;
  }

  drawSlice(pen) {
    const slice = store.slice[this.plane.w];
    pen.imageSmoothingEnabled = true;
    this.place(pen, this.picture(this.slicePicture, (data) =>
      paintSlice(store.volume, this.plane, slice, store.window, data)));
  }

  drawMask(pen, ratio) {
    const { u, v, w } = this.plane;
    const { volume, labels } = store;
    const columns = volume.dims[u];
    const rows = volume.dims[v];
    const values = new Uint16Array(columns * rows);
    eachPixel(volume, this.plane, store.slice[w], (column, row, place) => {
      values[row * columns + column] = labels[place];
    });
    const colours = new Map(store.session.structures.map((s) => [s.value, rgb(s.colour)]));
    pen.imageSmoothingEnabled = false;
    pen.globalAlpha = store.opacity;
    this.place(pen, this.picture(this.maskPicture, (data) => {
      values.forEach((value, place) => {
        if (value && colours.has(value)) data.set([...colours.get(value), 255], 4 * place);
      });
    }));
    pen.globalAlpha = 1;
    if (store.outline) this.drawOutline(pen, values, columns, rows, ratio);
  }

  /** Lines between pixels of different values. */
  drawOutline(pen, values, columns, rows, ratio) {
    const { u, v } = this.plane;
    const at = (column, row) => {
      const position = [0, 0, 0];
      position[u] = column - 0.5;
      position[v] = rows - 0.5 - row;
      return this.toPixels(position);
    };
    const [left, top] = at(0, 0);
    const [right, bottom] = at(columns, rows);
    const x = (column) => left + (column * (right - left)) / columns;
    const y = (row) => top + (row * (bottom - top)) / rows;
    const value = (column, row) =>
      (column < 0 || row < 0 || column >= columns || row >= rows ? 0 : values[row * columns + column]);
    for (const structure of store.session.structures) {
      const path = new Path2D();
      for (let row = 0; row < rows; row += 1) {
        for (let column = 0; column < columns; column += 1) {
          if (values[row * columns + column] !== structure.value) continue;
          const edge = (dc, dr, c0, r0, c1, r1) => {
            if (value(column + dc, row + dr) === structure.value) return;
            path.moveTo(x(column + c0), y(row + r0));
            path.lineTo(x(column + c1), y(row + r1));
          };
          edge(-1, 0, 0, 0, 0, 1);
          edge(1, 0, 1, 0, 1, 1);
          edge(0, -1, 0, 0, 1, 0);
          edge(0, 1, 0, 1, 1, 1);
        }
      }
      pen.strokeStyle = structure.colour;
      pen.lineWidth = 1.5 * ratio;
      pen.stroke(path);
    }
  }

  drawCrosshair(pen) {
    const [x, y] = this.toPixels(store.slice);
    pen.strokeStyle = "rgb(255 255 255 / 0.25)";
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x, 0);
    pen.lineTo(x, this.canvas.height);
    pen.moveTo(0, y);
    pen.lineTo(this.canvas.width, y);
    pen.stroke();
  }

  drawPrompt(pen, prompt, ratio) {
    const { w } = this.plane;
    const slice = store.slice[w];
    pen.strokeStyle = pen.fillStyle = colourOf(prompt.structure);
    pen.lineWidth = 2 * ratio;
    if (prompt.box) {
      const ranges = store.volume.toDisplayRanges(prompt.box);
      if (slice >= ranges[w][0] && slice < ranges[w][1]) this.strokeRanges(pen, ranges);
    } else if (prompt.point) {
      const position = store.volume.toDisplay(prompt.point);
      if (Math.abs(position[w] - slice) > 0.5) return;
      const [x, y] = this.toPixels(position);
      pen.beginPath();
      pen.arc(x, y, 5 * ratio, 0, 2 * Math.PI);
      if (prompt.inside) pen.fill();
      else this.cross(pen, x, y, 4 * ratio);
      if (prompt.inside) pen.strokeStyle = "#ffffff";
      pen.lineWidth = 1.5 * ratio;
      pen.stroke();
    } else {
      const line = prompt.scribble.map((voxel) => store.volume.toDisplay(voxel));
      if (!prompt.inside) pen.setLineDash([1, 7 * ratio]);
      this.strokeLine(pen, line.filter((position) => Math.abs(position[w] - slice) <= 0.5), ratio);
      pen.setLineDash([]);
    }
  }

  /** The sign of what is not the structure. */
  cross(pen, x, y, size) {
    pen.moveTo(x - size, y - size);
    pen.lineTo(x + size, y + size);
    pen.moveTo(x - size, y + size);
    pen.lineTo(x + size, y - size);
  }

  strokeRanges(pen, ranges) {
    const [left, bottom] = this.toPixels(ranges.map(([low]) => low - 0.5));
    const [right, top] = this.toPixels(ranges.map(([, high]) => high - 0.5));
    pen.strokeRect(left, top, right - left, bottom - top);
  }

  strokeLine(pen, line, ratio) {
    if (!line.length) return;
    pen.lineWidth = 3 * ratio;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    line.forEach((position) => pen.lineTo(...this.toPixels(position)));
    pen.lineTo(...this.toPixels(line[line.length - 1])); // a single position is a dot
    pen.stroke();
  }

  drawDraft(pen, ratio) {
    if (!this.draft) return;
    pen.strokeStyle = colourOf(store.structure);
    pen.lineWidth = 2 * ratio;
    if (this.draft.box) {
      pen.setLineDash([5 * ratio, 4 * ratio]);
      this.strokeRanges(pen, this.draft.box);
      pen.setLineDash([]);
    } else {
      this.strokeLine(pen, this.draft.line, ratio);
    }
  }

  drawText(pen, ratio) {
    const { width, height } = this.canvas;
    const [left, right, bottom, top] = this.plane.letters;
    const { w } = this.plane;
    pen.font = `${12 * ratio}px system-ui, sans-serif`;
    pen.fillStyle = "#9fd8d2";
    pen.textBaseline = "middle";
    pen.textAlign = "center";
    pen.fillText(left, 10 * ratio, height / 2);
    pen.fillText(right, width - 10 * ratio, height / 2);
    pen.fillText(top, width / 2, 10 * ratio);
    pen.fillText(bottom, width / 2, height - 10 * ratio);
    pen.textAlign = "left";
    pen.fillText(`${this.canvas.id} ${store.slice[w] + 1}/${store.volume.dims[w]}`, 8 * ratio, 12 * ratio);
  }
}

export function rgb(colour) {
  return [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
}
