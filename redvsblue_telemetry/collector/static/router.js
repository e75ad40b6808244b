// The page's address and its state: each view, with its range and its questions, is an address that can be sent to
// somebody. Back and forward work, since a change of the state is an entry in the browser's history.
//
// How to write a view
// -------------------
// Add a line to VIEWS below, and a module `views/NAME.js`, which app.js imports. The collector joins all modules into
// one script; see http/joining.py for the forms of import and export that it knows. The module exports one
// function:
//
//     export function open(root, state, tools) {
//       const answer = make("p", "quiet");
//       root.append(answer);
//       async function update(state) {
//         try {
//           const { fields } = await tools.request("/api/fields", { ...state.range.query, type: state.get("type") });
//           setText(answer, counted(fields.length, "field"));
//         } catch (error) {
//           if (error.name !== "AbortError") setText(answer, error.message);
//         }
//       }
//       update(state);
//       return { update, close() {} };
//     }
//
// - `root` is an empty element within `<main>`. After `close` it is emptied.
// - `state` has the `view`, `get(name)` (a text, "" if absent), `all(name)` (a list of texts) and the `range`:
//   `range.query` is `{ from, to }` in milliseconds, as the API takes it (empty if there is no range), `range.isLive`
//   says that none is chosen, `range.isOpen` that it ends now, and `range.words` names it.
// - `update(state)` is called when the address changes and the view stays: by a form of the view, by another range, by
//   back and forward. So a form calls `tools.go({ step: ["round_start", "round_end"] })`, and `update` shows the answer.
//   `update` has to show the state in the form, too.
// - `close()` ends timers and listeners outside `root`.
// - A view may also have `reload()`, which is called after something was deleted (instead of `update`), and `recolor()`,
//   after the types' colors have changed.
// - `tools.request(path, parameters)` returns the parsed answer. It shows in the header that an answer is awaited, and is
//   aborted (an `AbortError`) by the next `update` and by `close`.
// - `tools.go(changes, { isReplaced })` changes parameters of this view; an absent value ("", [], undefined) removes one.
//   With `view` among the changes, it opens another view, which keeps the range and nothing else.
// - `tools.href(changes)` is the address that `go(changes)` would go to, for links: `link.href = tools.href(…)`. A click
//   on such a link doesn't load the page again.
// - `tools.colorOf(type)` is the CSS class of a type's color; `tools.opened` opens the dialog of an event or a session.
// - A module may also export `const hasRange = false`: then the range is not offered, and `state.range` is all of time.

import { address } from "./api.js";

/** The views by name: what the navigation calls them; null if it doesn't list them. */
export const VIEWS = new Map([
  ["overview", "Overview"],
  ["field", "Field"],
  ["values", "Values"],
  ["funnel", "Funnel"],
  ["retention", "Retention"],
  ["versions", "Versions"],
  ["query", "SQL"],
  ["session", null],
]);

const RANGE = ["range", "from", "to"]; // the parameters that all views share

export class Router {
  /** `onChange` is called after each change of the address but those that `go` is asked to keep to itself. */
  constructor(onChange) {
    this.onChange = onChange;
    window.addEventListener("popstate", () => onChange());
    document.addEventListener("click", (event) => this.follow(event));
  }

  /** The view and the parameters in the address. */
  get current() {
    const parameters = new URLSearchParams(location.search);
    const view = parameters.get("view");
    parameters.delete("view");
    return { view: VIEWS.has(view) ? view : "overview", parameters };
  }

  /** Return the address after some changes. */
  href({ view, ...changes }) {
    const { view: before, parameters: old } = this.current;
    const isSame = (view ?? before) === before;
    const names = [...new Set(old.keys())].filter((name) => isSame || RANGE.includes(name));
    const kept = Object.fromEntries(names.map((name) => [name, old.getAll(name)]));
    const shown = view ?? before;
    return address("/", { view: shown === "overview" ? "" : shown, ...kept, ...changes }).href;
  }

  /** Change the address, by a new entry in the browser's history unless `isReplaced`; `note` is kept with the entry. */
  go(changes, { isReplaced = false, note = null } = {}) {
    const href = this.href(changes);
    if (href === this.href({})) return;
    if (isReplaced) history.replaceState(history.state, "", href);
    else history.pushState(note, "", href);
    this.onChange();
  }

  /** Follow a click on a link to a view without loading the page again. */
  follow(event) {
    const link = event.target.closest?.("a[href]");
    const isPlain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
    if (!link || !isPlain || event.defaultPrevented || link.target || link.hasAttribute("download")) return;
    const home = address("/").href;
    if (link.href.split("?")[0] !== home || link.hash) return;
    event.preventDefault();
    if (link.href === location.href) return;
    history.pushState(null, "", link.href);
    this.onChange();
  }
}
