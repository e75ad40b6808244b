// The form of a question. Each change of a control is a change of the page's address; see router.js.

import { parsed, textOf } from "./context.js";
import { make, shortened, visible } from "./text.js";

const MAX_OPTION_LENGTH = 60; // characters

let made = 0; // hints, for ids

/** A list to choose from. */
export class Choice {
  /** `onChoose` gets the value of the option that is chosen. */
  constructor(label, onChoose) {
    this.element = make("label", "", label);
    this.control = make("select");
    this.element.append(this.control);
    this.control.addEventListener("change", () => onChoose(this.control.value));
  }

  /** Offer these options, each `{ value, text, group }`; the value is chosen, and offered if it is not among them. */
  offer(options, value) {
    const known = options.some((option) => option.value === value) ? options : [{ value, text: value }, ...options];
    const now = JSON.stringify(known);
    if (now !== this.offered) {
      const groups = new Map();
      this.control.replaceChildren();
      for (const { value: each, text, group } of known) {
        const option = make("option", "", shortened(text, MAX_OPTION_LENGTH));
        option.value = each;
        let parent = this.control;
        if (group) {
          parent = groups.get(group);
          if (!parent) {
            groups.set(group, (parent = make("optgroup")));
            parent.label = group;
            this.control.append(parent);
          }
        }
        parent.append(option);
      }
      this.offered = now;
    }
    this.control.value = value;
  }
}

/** A box for text, which counts when it is left or Enter is pressed. */
export class Box {
  constructor(label, { placeholder = "", onChange }) {
    this.element = make("label", "", label);
    this.control = make("input");
    Object.assign(this.control, { type: "search", autocomplete: "off", spellcheck: false, placeholder });
    this.element.append(this.control);
    this.control.addEventListener("change", () => onChange(this.control.value.trim()));
  }

  show(text) {
    if (this.control.value !== text) this.control.value = text;
  }
}

/** The box for conditions: "weapon=laser, context.player=p-17". */
export class Where {
  /** `onChange` gets the conditions, each a text `name=value`. */
  constructor(onChange, { label = "Only where", placeholder = "weapon=laser" } = {}) {
    this.box = new Box(label, { placeholder, onChange: (text) => this.read(text, onChange) });
    this.hint = make("span", "hint", "Write name=value; with commas between several.");
    this.hint.hidden = true;
    this.hint.id = `where-hint-${++made}`;
    this.box.control.setAttribute("aria-describedby", this.hint.id);
    this.element = this.box.element;
    this.element.append(this.hint);
  }

  read(text, onChange) {
    const { terms, isComplete } = parsed(text);
    this.mark(isComplete);
    if (isComplete) onChange(terms);
  }

  mark(isComplete) {
    this.box.control.setAttribute("aria-invalid", String(!isComplete));
    this.hint.hidden = isComplete;
  }

  show(terms) {
    this.mark(true);
    this.box.show(textOf(terms));
  }
}

/** Return a new button. */
export function button(text, onClick, { className = "", title = "" } = {}) {
  const made = make("button", className, text);
  made.type = "button";
  if (title) made.title = visible(title);
  made.addEventListener("click", onClick);
  return made;
}
