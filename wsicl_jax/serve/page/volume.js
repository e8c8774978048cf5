/** An image in display axes: 0 to the subject's right, 1 to the front, 2 up. */

export class Volume {
  constructor(geometry, voxels) {
    this.voxels = voxels;
    this.range = geometry.range;
    this.window = geometry.window;
    this.shape = geometry.shape;
    const strides = [1, this.shape[0], this.shape[0] * this.shape[1]];
    // The voxel axis along each display axis.
    this.axis = [0, 1, 2].map((display) => geometry.axes.indexOf(display));
    this.flipped = this.axis.map((axis) => geometry.directions[axis] < 0);
    this.dims = this.axis.map((axis) => this.shape[axis]);
    this.spacing = this.axis.map((axis) => geometry.spacing_mm[axis]);
    this.steps = this.axis.map((axis, d) => strides[axis] * (this.flipped[d] ? -1 : 1));
    this.origin = this.axis.reduce(
      (sum, axis, d) => sum + (this.flipped[d] ? (this.dims[d] - 1) * strides[axis] : 0), 0);
  }

  /** Place in the array of voxels of display indices. */
  at(x, y, z) {
    return this.origin + x * this.steps[0] + y * this.steps[1] + z * this.steps[2];
  }

  /** Display position, in voxels, as a position along the axes of the file. */
  toVoxel(position) {
    const voxel = [0, 0, 0];
    position.forEach((value, d) => {
      const clamped = Math.min(Math.max(value, 0), this.dims[d] - 1);
      voxel[this.axis[d]] = this.flipped[d] ? this.dims[d] - 1 - clamped : clamped;
    });
    return voxel.map((value) => Math.round(value * 100) / 100);
  }

  toDisplay(voxel) {
    return this.axis.map((axis, d) =>
      this.flipped[d] ? this.dims[d] - 1 - voxel[axis] : voxel[axis]);
  }

  /** Half-open ranges along display axes as ranges along the axes of the file, and back. */
  toVoxelRanges(ranges) {
    const voxel = [null, null, null];
    ranges.forEach(([low, high], d) => {
      const n = this.dims[d];
      voxel[this.axis[d]] = this.flipped[d] ? [n - high, n - low] : [low, high];
    });
    return voxel;
  }

  toDisplayRanges(voxel) {
    return this.axis.map((axis, d) => {
      const [low, high] = voxel[axis];
      const n = this.dims[d];
      return this.flipped[d] ? [n - high, n - low] : [low, high];
    });
  }

  value(position) {
    const [low, high] = this.range;
    return low + (this.voxels[this.at(...position)] / 65535) * (high - low);
  }
}

/** The planes: the axes to the right, up, and into the depth, and the letters at their ends. */
export const PLANES = {
  axial: { u: 0, v: 1, w: 2, letters: ["L", "R", "P", "A"] },
  coronal: { u: 0, v: 2, w: 1, letters: ["L", "R", "I", "S"] },
  sagittal: { u: 1, v: 2, w: 0, letters: ["P", "A", "I", "S"] },
};

/** Call `visit(column, row, place)` for each voxel of a slice; row 0 is at the top. */
export function eachPixel(volume, { u, v, w }, slice, visit) {
  const columns = volume.dims[u];
  const rows = volume.dims[v];
  const start = volume.origin + slice * volume.steps[w];
  for (let row = 0; row < rows; row += 1) {
    let place = start + (rows - 1 - row) * volume.steps[v];
    for (let column = 0; column < columns; column += 1) {
      visit(column, row, place);
      place += volume.steps[u];
    }
  }
}

/** Grey values of a slice in a window, into the data of a picture. */
export function paintSlice(volume, plane, slice, [low, high], data) {
  const [first, last] = volume.range;
  const scale = (last - first) / 65535;
  const factor = 255 / Math.max(high - low, 1e-12);
  eachPixel(volume, plane, slice, (column, row, place) => {
    const grey = (first + volume.voxels[place] * scale - low) * factor;
    const target = 4 * (row * volume.dims[plane.u] + column);
    data[target] = data[target + 1] = data[target + 2] = grey; // clamped by the array
    data[target + 3] = 255;
  });
}
