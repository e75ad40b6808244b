// Requests to the collector.

import { parse } from "./json.js";
import { shortened } from "./text.js";

const REQUEST_TIMEOUT = 15_000; // milliseconds
const BUSY_DELAY = 1_000; // milliseconds until a search is tried again that the collector had no room for

/**
 * Return the URL of a path of this collector, which may be in a folder of a proxy. It is not based on the page's own
 * URL, which may contain a password.
 */
export function address(path, parameters = {}) {
  const url = new URL(`.${path}`, location.origin + location.pathname);
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of [value].flat()) {
      if (each !== "" && each !== undefined) url.searchParams.append(name, each);
    }
  }
  return url;
}

/** Return a signal that ends a request when another one does, or when it takes too long. */
export function limited(signal) {
  const either = new AbortController(); // AbortSignal.any is missing in the browsers of 2023
  for (const each of [signal, AbortSignal.timeout(REQUEST_TIMEOUT)]) {
    if (each.aborted) either.abort(each.reason);
    each.addEventListener("abort", () => either.abort(each.reason), { once: true });
  }
  return either.signal;
}

export async function request(path, parameters, signal = AbortSignal.timeout(REQUEST_TIMEOUT), method = "GET") {
  return (await answer(path, parameters, signal, method)).body;
}

/** Request, and return the body with the methods that the collector allows for the path, if it says so. */
export async function answer(path, parameters, signal = AbortSignal.timeout(REQUEST_TIMEOUT), method = "GET") {
  const response = await fetch(address(path, parameters), { signal, method });
  const text = await response.text();
  if (!response.ok) throw Object.assign(new Error(`${response.status}: ${reasonOf(text)}`), { response });
  return { body: parse(text), allowed: (response.headers.get("Allow") ?? "").split(", ") };
}

/** Return the reason in an error's body, which is JSON unless a proxy has answered. */
function reasonOf(text) {
  try {
    return String(JSON.parse(text).error);
  } catch {
    return shortened(text, 300);
  }
}

/**
 * Yield the newest matching events, newest first, as a search finds them, until there are as many as wanted; of those
 * `before` an arrival, if there is one.
 */
export async function* search(filter, limit, signal, before) {
  for (let isPartial = true; isPartial && limit > 0; ) {
    let page;
    try {
      page = await request("/api/events", { ...filter, order: "desc", before, limit, data: "text" }, signal);
    } catch (error) {
      if (!error.response?.headers.has("Retry-After")) throw error;
      await new Promise((resolve) => setTimeout(resolve, BUSY_DELAY));
      continue;
    }
    yield page.events;
    limit -= page.events.length;
    before = page.next;
    isPartial = page.partial;
  }
}
