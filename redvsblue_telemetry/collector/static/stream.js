// The looks that the collector sends, one each half second. EventSource reconnects by itself after a
// connection that was lost; after an answer that is none, or a long silence, it is made anew.

import { readWithEvents } from "./rawjson.js";

const SILENCE = 10_000; // milliseconds; a machine that slept doesn't know that its connection is gone
const AGAIN = 3_000;

export class Stream {
  constructor({ onLook, onState }) {
    Object.assign(this, { onLook, onState });
    this.address = null;
    this.source = null;
    this.timer = 0;
    this.isFirst = true;
  }

  /** Listen at an address; what was listened to is left. */
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
    this.expect(SILENCE);
    source.onopen = () => {
      this.isFirst = true;
      this.expect(SILENCE);
    };
    source.onmessage = (message) => {
      this.onState("live");
      this.expect(SILENCE);
      this.onLook(readWithEvents(message.data), this.isFirst);
      this.isFirst = false;
    };
    source.onerror = () => {
      this.onState("reconnecting");
      if (source.readyState === EventSource.CLOSED) this.expect(AGAIN);
    };
  }

  expect(milliseconds) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.onState("reconnecting");
      this.connect();
    }, milliseconds);
  }
}
