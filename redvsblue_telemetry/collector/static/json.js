// JSON as text. JSON.parse would round a number of fifty digits, turn 1e400 into Infinity and drop the
// first of two equal keys, but the page shows exactly what was sent. So the API is asked for `data=text`,
// and the text is split into tokens without being parsed. Nothing here recurses: the sender chooses how
// deep the data is nested. Callers cut the text to a million characters: V8's regular expressions run out of
// stack in a string with several million escapes.

// A string (a key if a colon follows), an empty object or array, a bracket, a comma, or a number or word.
// A string may be cut off at the end of the text.
const TOKEN = /("[^"\\]*(?:\\.[^"\\]*)*"?)(\s*:)?|([{[])\s*([}\]])|[{}[\],]|[^\s"{}[\],]+/g;
const MAX_INDENTED_DEPTH = 40;

/** An integer that a number of JavaScript can't hold: it is rounded where it is reckoned with, and shown exactly. */
class LargeInteger extends Number {
  constructor(digits) {
    super(digits);
    this.digits = digits;
  }

  toString() {
    return this.digits;
  }
}

/** Parse JSON, but keep all digits of integers. A browser that doesn't pass on the source rounds them. */
export function parse(text) {
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  return JSON.parse(text, (_, value, context) => {
    const isRounded = typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value);
    return isRounded && /^-?\d+$/.test(context?.source) ? new LargeInteger(context.source) : value;
  });
}

/** Lay the text out in lines: yield pairs of a kind ("key", "string", "number", "other", "space") and a text. */
export function* pretty(text) {
  let depth = 0;
  const newLine = () => ["space", "\n" + "  ".repeat(Math.min(depth, MAX_INDENTED_DEPTH))];
  for (const [token, string, colon, opening, closing] of text.matchAll(TOKEN)) {
    if (string) {
      yield [colon ? "key" : "string", string];
      if (colon) yield ["other", ": "];
    } else if (opening) {
      yield ["other", opening + closing];
    } else if (token === "{" || token === "[") {
      depth++;
      yield ["other", token];
      yield newLine();
    } else if (token === "}" || token === "]") {
      depth--;
      yield newLine();
      yield ["other", token];
    } else if (token === ",") {
      yield ["other", token];
      yield newLine();
    } else {
      yield ["number", token];
    }
  }
}

/** Yield the top-level fields of an object, which may be cut off: pairs of a key and a value, both JSON text. */
export function* fields(text) {
  let depth = 0, key = null, start = 0;
  for (const { 0: token, 1: string, 2: colon, index } of text.matchAll(TOKEN)) {
    if (depth === 1 && colon) [key, start] = [string, index + token.length];
    if (token === "}" || token === "]") depth--;
    if (key !== null && (depth === 0 || (depth === 1 && token === ","))) {
      yield [key, text.slice(start, index).trim()];
      key = null;
    }
    if (token === "{" || token === "[") depth++;
  }
  if (key !== null) yield [key, text.slice(start)];
}
