/** Place of the crosshair, zoom and window. */

import { set, store } from "./store.js";

/** Show the whole image, from its middle. */
export function resetView() {
  const middle = store.volume.dims.map((n) => Math.floor((n - 1) / 2));
  const centre = store.volume.dims.map((n) => (n - 1) / 2);
  set({ slice: middle, centre, zoom: 1, window: [...store.volume.window] });
}

/** Move the crosshair along an axis. */
export function step(axis, by) {
  const slice = [...store.slice];
  slice[axis] = Math.min(Math.max(slice[axis] + by, 0), store.volume.dims[axis] - 1);
  set({ slice });
}

export function zoomBy(factor) {
  set({ zoom: Math.min(Math.max(store.zoom * factor, 0.5), 20) });
}
