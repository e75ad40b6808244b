// Requests to the collector.

import { parse } from "./json.js";
import { shortened } from "./text.js";

const REQUEST_TIMEOUT = 15_000; // milliseconds

/** Return a URL of this collector, based on the origin: the page's own URL may contain a password. */
export function address(path, parameters = {}) {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of [value].flat()) {
      if (each !== "" && each !== undefined) url.searchParams.append(name, each);
    }
  }
  return url;
}

export async function request(path, parameters, signal = AbortSignal.timeout(REQUEST_TIMEOUT)) {
  const response = await fetch(address(path, parameters), { signal });
  const text = await response.text();
  if (!response.ok) throw new Error(`${response.status}: ${shortened(text, 300)}`);
  return parse(text);
}
