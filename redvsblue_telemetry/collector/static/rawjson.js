// JSON as the text that it came as. JSON.parse would round a number of fifty digits and turn 1e400 into
// Infinity; the page shows what was sent. So the data of an event is cut out of an answer, unparsed.
// Nothing here recurses: how deep data is nested is up to whoever sent it.

const SPACE = /[ \t\n\r]*/y;
const SCALAR = /[^,\]}\s]*/y;
const BRACKET = /["{}[\]]/g;

function afterMatch(pattern, text, at) {
  if (at >= text.length) return text.length;
  pattern.lastIndex = at;
  pattern.test(text);
  return pattern.lastIndex;
}

const afterSpace = (text, at) => afterMatch(SPACE, text, at);

/** Where the string ends that begins at a quotation mark. */
function afterString(text, at) {
  for (let end = text.indexOf('"', at + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let slashes = 0;
    while (text[end - 1 - slashes] === "\\") slashes++;
    if (slashes % 2 === 0) return end + 1;
  }
  return text.length;
}

/** Where the value ends that begins here. */
function afterValue(text, at) {
  if (text[at] === '"') return afterString(text, at);
  if (text[at] !== "{" && text[at] !== "[") return afterMatch(SCALAR, text, at);
  let depth = 0;
  BRACKET.lastIndex = at;
  for (let found = BRACKET.exec(text); found; found = BRACKET.exec(text)) {
    if (found[0] === '"') BRACKET.lastIndex = afterString(text, found.index);
    else depth += found[0] === "{" || found[0] === "[" ? 1 : -1;
    if (depth === 0) return BRACKET.lastIndex;
  }
  return text.length;
}

/** The values in an array or an object, as texts; those of an object with their keys, as texts too. */
export function* parts(text) {
  const isObject = text[0] === "{";
  let at = afterSpace(text, 1);
  while (at < text.length && text[at] !== "}" && text[at] !== "]") {
    let key = "";
    if (isObject) {
      const end = afterString(text, at);
      key = text.slice(at, end);
      at = afterSpace(text, afterSpace(text, end) + 1); // the colon
    }
    const end = afterValue(text, at);
    yield [key, text.slice(at, end)];
    at = afterSpace(text, end);
    if (text[at] !== ",") return;
    at = afterSpace(text, at + 1);
  }
}

function valueOf(text, key) {
  for (const [name, value] of parts(text)) if (name === key) return value;
  return "";
}

/** An answer, or a look, with its events: the `data` of each is the text that it came as. */
export function readWithEvents(text) {
  const answer = JSON.parse(text);
  let number = 0;
  for (const [, event] of parts(valueOf(text, '"events"'))) {
    answer.events[number++].data = valueOf(event, '"data"');
  }
  return answer;
}

const DEEPEST = 40; // indentation: deeper than that it would be all one saw

/** The text on many lines: pairs of what a piece is ("key", "string", "other", "space") and its text. */
export function* pretty(text) {
  const open = []; // the brackets that are
  let isKey = false;
  let at = afterSpace(text, 0);
  const line = () => "\n" + "  ".repeat(Math.min(open.length, DEEPEST));
  while (at < text.length) {
    const sign = text[at];
    if (sign === '"') {
      const end = afterString(text, at);
      yield [isKey ? "key" : "string", text.slice(at, end)];
      isKey = false;
      at = end;
    } else if (sign === "{" || sign === "[") {
      const inside = afterSpace(text, at + 1);
      if (text[inside] === "}" || text[inside] === "]") {
        yield ["other", sign + text[inside]];
        at = inside + 1;
      } else {
        open.push(sign);
        isKey = sign === "{";
        yield ["other", sign];
        yield ["space", line()];
        at = inside;
      }
    } else if (sign === "}" || sign === "]") {
      open.pop();
      yield ["space", line()];
      yield ["other", sign];
      at++;
    } else if (sign === ",") {
      yield ["other", ","];
      yield ["space", line()];
      isKey = open.at(-1) === "{";
      at++;
    } else if (sign === ":") {
      yield ["other", ": "];
      at++;
    } else {
      const end = Math.max(at + 1, afterMatch(SCALAR, text, at));
      yield ["number", text.slice(at, end)];
      at = end;
    }
    at = afterSpace(text, at);
  }
}
