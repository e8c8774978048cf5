/** Requests to the service. Each function returns what the service answers, or throws its reason. */

async function request(method, path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { method, credentials: "same-origin", ...options });
  } catch {
    throw new Error("the service does not answer; is it still running?");
  }
  if (!answer.ok) {
    const content = await answer.json().catch(() => ({}));
    throw new Error(content.error ?? `the service answered ${answer.status}`);
  }
  return answer;
}

export async function call(method, path, body) {
  const options = body === undefined ? {} : {
    body: JSON.stringify(body),
    headers: { "content-type": "application/json" },
  };
  return (await request(method, path, options)).json();
}

const ARRAYS = { uint8: Uint8Array, uint16: Uint16Array };

/** Voxels as an array, the first axis fastest. */
export async function voxels(path) {
  const answer = await request("GET", path);
  const Kind = ARRAYS[answer.headers.get("x-voxel-type")];
  return new Kind(await answer.arrayBuffer());
}

export const image = (id) => `/api/images/${encodeURIComponent(id)}`;

/** The address of a session, or of an image in it. */
export function inSession(session, id) {
  const base = `/api/sessions/${session.id}`;
  return id === undefined ? base : `${base}/images/${encodeURIComponent(id)}`;
}

export async function upload(file) {
  const path = `/api/images?name=${encodeURIComponent(file.name)}`;
  return (await request("POST", path, { body: file })).json();
}
