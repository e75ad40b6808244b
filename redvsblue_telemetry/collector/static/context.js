// The filter by context. In its box, commas separate the terms, as in "player=p-17, level=3"; a comma or a
// backslash that is part of a value has a backslash before it.

/** Return the terms in a text, and whether each is complete and no two have the same name; others are left out. */
export function parsed(text) {
  const parts = text.match(/(?:\\.|[^\\,]|\\$)+/gsu) ?? [];
  const given = parts.map((part) => part.trim().replace(/\\(.)/gsu, "$1")).filter(Boolean);
  const terms = new Map();
  for (const term of given) {
    const end = term.indexOf("=");
    if (end > 0) terms.set(term.slice(0, end), term);
  }
  return { terms: [...terms.values()], isComplete: terms.size === given.length };
}

/** Return the text for some terms. */
export function textOf(terms) {
  return terms.map((term) => term.replace(/[\\,]/gu, "\\$&")).join(", ");
}

/** Return the term for a field of a context; name and value are JSON texts. */
export function termFor(name, value) {
  return `${JSON.parse(name)}=${value.startsWith('"') ? JSON.parse(value) : value}`;
}
