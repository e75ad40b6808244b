// The dialog that asks before a session is deleted, and shows the receipt.

import { request } from "./api.js";
import { counted, moment, setText } from "./text.js";

const NO_TIMEOUT = null; // the collector deletes in small steps, which may take long

export class Deletion {
  /** `onDeleted` is called when a session is gone. */
  constructor(dialog, onDeleted) {
    const part = (name) => dialog.querySelector(`#deletion-${name}`);
    Object.assign(this, { dialog, onDeleted, title: part("title"), question: part("question"), state: part("state") });
    Object.assign(this, { confirm: part("confirm"), cancel: part("cancel"), id: "", isDone: false });
    this.cancel.addEventListener("click", () => dialog.close());
    this.confirm.addEventListener("click", () => this.run());
    dialog.addEventListener("close", () => {
      if (this.isDone) this.onDeleted();
    });
  }

  /** Ask whether to delete a session. */
  ask({ sessionId, events, deleted = 0 }) {
    this.id = sessionId;
    this.isDone = false;
    setText(this.title, "Delete this session?");
    const stored = counted(events - deleted, "stored event");
    const question = `This deletes session ${sessionId} and its ${stored} for good, and the text of its rejected messages.`;
    setText(this.question, question);
    this.show("", { text: "Cancel" });
    this.confirm.hidden = false;
    this.dialog.showModal();
    this.cancel.focus(); // so that Enter alone deletes nothing
  }

  async run() {
    this.confirm.disabled = true;
    this.show("Deleting…", { text: "Close" });
    try {
      const path = `/api/sessions/${encodeURIComponent(this.id)}`;
      const receipt = await request(path, {}, NO_TIMEOUT, "DELETE");
      this.isDone = true;
      this.confirm.hidden = true;
      setText(this.title, "The session is deleted");
      setText(this.question, "");
      const rejected = receipt.rejected ? ` and ${counted(receipt.rejected, "rejected message")}` : "";
      this.show(`Deleted ${counted(receipt.events, "event")}${rejected} at ${moment(receipt.at)}.`, { text: "Close" });
      if (!this.dialog.open) this.onDeleted();
    } catch (error) {
      this.show(`It could not be deleted. ${error.message}`, { text: "Close", isBad: true });
    }
    this.confirm.disabled = false;
    if (this.dialog.open) this.cancel.focus();
  }

  show(state, { text, isBad = false }) {
    setText(this.state, state);
    this.state.dataset.bad = String(isBad);
    setText(this.cancel, text);
  }
}
