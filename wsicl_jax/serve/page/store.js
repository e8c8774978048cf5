/** What the page shows now. Parts of the page subscribe, and are told which values changed. */

export const store = {
  images: [],
  problems: [],
  session: null,
  shown: null, // identifier of the image
  volume: null, // its geometry and voxels
  labels: null, // the label map over it
  structure: 1,
  tool: "look",
  outside: false, // whether points and scribbles mark what is not the structure
  slice: [0, 0, 0], // of the crosshair, in display axes: right, front, up
  centre: [0, 0, 0],
  zoom: 1,
  window: [0, 1],
  opacity: 0.4,
  outline: true,
  follow: true,
  masks: true, // whether overlays are drawn
  job: null,
};

const parts = new Set();
let changed = new Set();

export function subscribe(part) {
  parts.add(part);
}

/** Change values; subscribers are called once, soon. */
export function set(values) {
  Object.assign(store, values);
  if (changed.size === 0) queueMicrotask(tell);
  Object.keys(values).forEach((key) => changed.add(key));
}

function tell() {
  const keys = changed;
  changed = new Set();
  parts.forEach((part) => part(keys));
}

/** The entry of an image in the session; images that are not used have none yet. */
export function entry(id = store.shown) {
  return store.session?.images[id] ?? { role: "unused", prompts: [], accepted: {}, result: null };
}

export function colourOf(value) {
  return store.session?.structures.find((one) => one.value === value)?.colour ?? "#ffffff";
}

export function nameOf(id) {
  return store.images.find((image) => image.id === id)?.name ?? id;
}

export function say(text, isError = false) {
  const status = document.getElementById("status");
  status.textContent = text;
  status.classList.toggle("error", isError);
}

/** Do something that asks the service; a failure is shown in the status line. */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    say(error.message, true);
    return undefined;
  }
}
