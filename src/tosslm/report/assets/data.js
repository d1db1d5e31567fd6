// The embedded block: Base64 of gzip of [header length, 8 bytes][header, JSON][columns], little-endian.
const COVERED = 1, JOINED = 2, MARKED = 4;
const TYPES = { uint32: Uint32Array, int32: Int32Array, int16: Int16Array, uint8: Uint8Array };

async function readBlock() {
  const element = document.getElementById("block");
  const coded = atob(element.textContent);
  element.remove();
  const bytes = new Uint8Array(coded.length);
  for (let i = 0; i < coded.length; i++) bytes[i] = coded.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const data = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  for (const [name, [type, at, count]] of Object.entries(data.columns))
    data.columns[name] = new TYPES[type](buffer, 8 + length + at, count);
  const { length: lengths } = data.columns;
  data.starts = new Uint32Array(lengths.length + 1);
  lengths.forEach((n, i) => { data.starts[i + 1] = data.starts[i] + n; });
  data.rows = data.rows.map(([id, origin, source, flags, messages, spans, name = data.sources[source]]) => ({ id, origin, source, flags, messages, spans, name }));
  data.words ??= ["kept", "dropped", "response tokens"];
  return data;
}

// What people decided before, in Base64 as the rows are.
function readDecisions() {
  const element = document.getElementById("decisions");
  if (!element) return [];
  const bytes = Uint8Array.from(atob(element.textContent), (c) => c.charCodeAt(0));
  element.remove();
  return JSON.parse(new TextDecoder().decode(bytes));
}

// Where each token of a row stands: message index, start and end in UTF-16 units; -1 where it has no text.
function placesOf(data, row) {
  const { turn, gap, size } = data.columns, places = [];
  for (let i = data.starts[row], end = 0; i < data.starts[row + 1]; i++) {
    const start = end + gap[i];
    end = start + size[i];
    places.push({ turn: turn[i], start, end });
  }
  return places;
}

// Text as it is, but for characters that steer what is around them or hide beside it: those are named, as text.py does it.
// Joiners stay, as letters and emoji need them.
const STEERING = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\u3164\ufeff\uffa0\ufff9-\ufffb\u{e0000}-\u{e007f}\u{e0100}-\u{e01ef}]/gu;
const visible = (text) => text.replace(STEERING, (c) => `\u2039U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u203a`);

const signed = (value, digits = 2) => `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toFixed(digits)}`;
const grouped = (n) => n.toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(1)}%`;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
