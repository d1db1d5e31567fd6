// The list of rows: filtered, sorted, and only as many of them in the page as are seen.
const ITEM = 76;

class RowList {
  constructor(cut, onOpen) {
    Object.assign(this, { cut, onOpen, data: cut.data, order: [], chosen: -1, uncovered: new Set(), all: false });
    this.box = document.getElementById("list");
    this.strut = document.getElementById("strut");
    this.texts = this.data.rows.map((row) => `${row.id}\n${row.messages.map((m) => m[1]).join("\n")}`.toLowerCase());
    this.box.addEventListener("scroll", () => this.draw(), { passive: true });
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.strut.addEventListener("click", (event) => {
      const item = event.target.closest(".item");
      if (item) this.open(item.row);
    });
    new ResizeObserver(() => this.draw()).observe(this.box);
  }

  covered(row) { return (this.data.rows[row].flags & COVERED) !== 0 && !this.all && !this.uncovered.has(row); }

  filter({ text, source, least, marked, order }) {
    const { cut, data } = this, needle = text.trim().toLowerCase(), highest = cut.highest[cut.shown], mean = cut.mean[cut.shown];
    const found = [];
    for (let row = 0; row < data.rows.length; row++) {
      if (source >= 0 && data.rows[row].source !== source) continue;
      if (marked && !data.rows[row].spans.length) continue;
      if (!Number.isNaN(least) && highest[row] < least) continue;
      if (needle && !this.texts[row].includes(needle) && data.rows[row].name.toLowerCase() !== needle) continue;
      found.push(row);
    }
    const share = (row) => cut.dropped[row] / data.columns.length[row];
    if (order === "share") found.sort((a, b) => share(b) - share(a) || (cut.scored ? highest[b] - highest[a] : 0));
    if (order === "highest") found.sort((a, b) => highest[b] - highest[a]);
    if (order === "near") found.sort((a, b) => cut.near[b] - cut.near[a] || highest[b] - highest[a]);
    if (order === "mean") found.sort((a, b) => mean[b] - mean[a]);
    this.order = found;
    document.getElementById("count").textContent = `${grouped(found.length)} of ${grouped(data.rows.length)} rows`;
    // A row that is not in the list would stand beside it as if it were.
    document.getElementById("none").hidden = found.length > 0;
    document.getElementById("row").hidden = !found.length;
    this.strut.style.height = `${found.length * ITEM}px`;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ITEM) - 4);
    const last = Math.min(this.order.length, first + Math.ceil(this.box.clientHeight / ITEM) + 8);
    const items = [];
    for (let place = first; place < last; place++) items.push(this.item(this.order[place], place));
    this.strut.replaceChildren(...items);
    const shown = this.order.indexOf(this.chosen);
    if (shown >= first && shown < last) this.box.setAttribute("aria-activedescendant", `row-${this.chosen}`);
    else this.box.removeAttribute("aria-activedescendant");
  }

  byHand(row) { return this.data.hand.subarray(this.data.starts[row], this.data.starts[row + 1]).some((one) => one > 0); }

  item(row, place) {
    const { cut, data } = this, facts = data.rows[row], n = data.columns.length[row];
    const item = make("div", "item");
    Object.assign(item, { id: `row-${row}`, row });
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", String(row === this.chosen));
    item.setAttribute("aria-setsize", this.order.length);
    item.setAttribute("aria-posinset", place + 1);
    item.style.top = `${place * ITEM}px`;
    const head = make("span", "head");
    head.append(make("bdi", "", visible(facts.name)), make("span", "", `${grouped(cut.dropped[row])} of ${grouped(n)} ${data.words[1]}${this.byHand(row) ? " \u00b7 by hand" : ""}`));
    const covered = this.covered(row), answer = facts.messages.find((m) => m[0] === "assistant") ?? facts.messages[0];
    const says = make("span", covered ? "says off" : "says", covered ? "covered: may be harmful" : visible(answer[1].slice(0, 160)).replace(/\s+/g, " "));
    const share = make("span", "share"), fill = make("i");
    fill.style.width = `${100 * cut.dropped[row] / n}%`;
    share.append(fill);
    item.append(head, says, share);
    return item;
  }

  open(row) {
    this.chosen = row;
    this.draw();
    this.onOpen(row);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / ITEM) - 1), at = this.order.indexOf(this.chosen);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: this.order.length - 1 }[event.key];
    if (to === undefined || !this.order.length) return;
    event.preventDefault();
    this.go(to);
  }

  step(by) { if (this.order.length) this.go(this.order.indexOf(this.chosen) + by); }

  go(to) {
    const place = Math.min(Math.max(to, 0), this.order.length - 1), top = place * ITEM;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    if (top + ITEM > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + ITEM - this.box.clientHeight;
    this.open(this.order[place]);
  }
}
