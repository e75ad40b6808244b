// The boxes that filter the events. The filter is part of the page's address, which can be sent to somebody.

import { parsed, textOf } from "./context.js";

const TYPING_DELAY = 300; // milliseconds from the last key to the new filter
const NAMES = ["type", "session", "context", "text", "fault"];

export const NO_FILTER = { type: "", session: "", context: [], text: "", fault: "" };

/** Return the filter that a state has. */
export function filterOf(state) {
  return Object.fromEntries(NAMES.map((name) => [name, name === "context" ? state.all(name) : state.get(name)]));
}

export function isFilter(filter) {
  return Object.values(filter).some((value) => value.length);
}

export class Filter {
  /** `onChange` gets the filter in the boxes, and whether it is being typed. */
  constructor(form, { clear, hint, faults, onChange }) {
    Object.assign(this, { clear, hint, faults, onChange, typing: 0 });
    this.inputs = Object.fromEntries(NAMES.map((name) => [name, form.elements[name]]));
    for (const input of Object.values(this.inputs)) {
      input.addEventListener("input", () => {
        clearTimeout(this.typing);
        this.typing = setTimeout(() => this.apply(true), TYPING_DELAY);
      });
    }
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.apply(true);
    });
    clear.addEventListener("click", () => {
      this.set(NO_FILTER);
      this.inputs.type.focus();
    });
  }

  /** Change some of the boxes. */
  set(changes) {
    this.fill(changes);
    this.apply(false);
  }

  fill(changes) {
    for (const [name, value] of Object.entries(changes)) {
      this.inputs[name].value = name === "context" ? textOf(value) : value;
    }
  }

  apply(isTyped) {
    clearTimeout(this.typing);
    const filter = this.read();
    this.describe();
    this.onChange(filter, isTyped);
  }

  /** Return the filter in the boxes. */
  read() {
    const { terms, isComplete } = parsed(this.inputs.context.value);
    this.inputs.context.setAttribute("aria-invalid", String(!isComplete));
    this.hint.hidden = isComplete;
    const values = NAMES.map((name) => [name, name === "context" ? terms : this.inputs[name].value]);
    return Object.fromEntries(values);
  }

  /** Show a filter in the boxes, but leave alone those that say so already, in which somebody may be typing. */
  show(filter) {
    const before = this.read();
    const isOther = ([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name]);
    this.fill(Object.fromEntries(Object.entries(filter).filter(isOther)));
    this.read();
    this.describe();
  }

  describe() {
    this.clear.hidden = !Object.values(this.inputs).some((input) => input.value);
    if (this.inputs.fault.value) this.faults.hidden = false;
  }
}
