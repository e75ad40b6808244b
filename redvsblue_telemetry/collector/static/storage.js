// The room that the database takes, in words.

import { duration, number } from "./text.js";

const UNITS = ["bytes", "kB", "MB", "GB", "TB", "PB"];
const MAX_SHOWN_TYPES = 3; // that are kept for another time
const MANY_DAYS = 3650; // from here on, nobody needs to know how many

/** Return a size in bytes, with two digits or more: "0 bytes", "1.4 MB", "25 GB". */
export function size(bytes) {
  let value = bytes, unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${number(value < 10 ? value : Math.round(value))} ${UNITS[unit]}`;
}

/** Return what is used and free, the growth and the limits. */
export function storageInWords({ usedBytes, fileBytes, diskFreeBytes, maxBytes, keep, bytesPerDay, daysLeft }) {
  const limit = maxBytes === null ? "" : ` of at most ${size(maxBytes)}`;
  const reusable = fileBytes - usedBytes;
  const parts = [`Database ${size(usedBytes)}${limit}`];
  if (reusable >= usedBytes / 10 && reusable > 1e6) parts[0] += ` (and ${size(reusable)} to be used again)`;
  parts.push(`${size(diskFreeBytes)} free on the disk`);
  if (bytesPerDay > 0) parts.push(`${size(bytesPerDay)} more a day`);
  if (daysLeft !== null) parts.push(left(daysLeft));
  if (Object.keys(keep).length) parts.push(`events are kept for ${ages(keep)}`);
  return parts.join(" · ");
}

/** Return the warning about a disk that is almost full. */
export function storageWarning({ diskFreeBytes, daysLeft }) {
  const soon = daysLeft === null ? "" : `; ${left(daysLeft)} at this rate`;
  return `The disk of the database is almost full: ${size(diskFreeBytes)} free${soon}. Make room, or limit the database with --max-bytes or --keep.`;
}

function left(days) {
  if (days >= MANY_DAYS) return "room for more than ten years";
  return days < 2 ? `room for ${duration(days * 86_400_000)}` : `room for ${number(Math.floor(days))} days`;
}

/** Return how long events are kept, by type: "90 days, bullet_fired 3 days". */
function ages(keep) {
  const own = Object.entries(keep).filter(([type]) => type);
  own.sort((a, b) => a[1] - b[1] || (a[0] < b[0] ? -1 : 1));
  const parts = own.slice(0, MAX_SHOWN_TYPES).map(([type, seconds]) => `${type} ${age(seconds)}`);
  if (own.length > MAX_SHOWN_TYPES) parts.push(`${number(own.length - MAX_SHOWN_TYPES)} other types as set`);
  return [...(keep[""] === undefined ? [] : [age(keep[""])]), ...parts].join(", ");
}

function age(seconds) {
  const days = seconds / 86_400;
  return days >= 2 && Number.isInteger(days) ? `${number(days)} days` : duration(seconds * 1000);
}
