// The collector's live updates, two a second. EventSource reconnects by itself after a lost connection, but
// not after an error response or a long silence; then a new EventSource replaces it.

import { parse } from "./json.js";

const SILENCE_TIMEOUT = 10_000; // milliseconds; after a sleep, nothing reports that the connection is gone
const RETRY_DELAY = 3_000; // milliseconds

export class Stream {
  constructor({ onUpdate, onState }) {
    Object.assign(this, { onUpdate, onState });
    this.address = null;
    this.source = null;
    this.timer = 0;
    this.isFirst = true;
  }

  /** Listen at an address instead of the previous one. */
  open(address) {
    this.address = address;
    this.connect();
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  connect() {
    this.close();
    this.isFirst = true;
    const source = (this.source = new EventSource(this.address));
    this.reconnectAfter(SILENCE_TIMEOUT);
    source.onopen = () => {
      this.isFirst = true;
      this.reconnectAfter(SILENCE_TIMEOUT);
    };
    source.onmessage = (message) => {
      this.onState("live");
      this.reconnectAfter(SILENCE_TIMEOUT);
      this.onUpdate(parse(message.data), this.isFirst);
      this.isFirst = false;
    };
    source.onerror = () => {
      this.onState("reconnecting");
      if (source.readyState === EventSource.CLOSED) this.reconnectAfter(RETRY_DELAY);
    };
  }

  reconnectAfter(milliseconds) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.onState("reconnecting");
      this.connect();
    }, milliseconds);
  }
}
