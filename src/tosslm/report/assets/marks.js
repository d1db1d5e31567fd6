// What a person decides: rows and spans to keep or to drop. Of decisions that overlap the later one counts.
const KEEP = 1, DROP = 2;

class Marks {
  constructor(data, decisions) {
    Object.assign(this, { data, list: [...decisions], settled: decisions.length, unsaved: false });
    this.rowOf = new Map(data.rows.map(({ id }, row) => [id, row]));
    data.hand = new Uint8Array(data.starts[data.rows.length]);
    this.ofRow = new Map();
    for (const one of this.list) this.of(this.rowOf.get(one.row_id)).push(one);
    for (const row of this.ofRow.keys()) if (row !== undefined) this.apply(row); // others are not in the page
  }

  // Those that were made here, and can be undone.
  get made() { return this.list.length - this.settled; }

  of(row) {
    if (!this.ofRow.has(row)) this.ofRow.set(row, []);
    return this.ofRow.get(row);
  }

  apply(row) {
    const { data } = this, places = placesOf(data, row), start = data.starts[row];
    data.hand.fill(0, start, data.starts[row + 1]);
    for (const one of this.of(row)) {
      const what = one.decision === "keep" ? KEEP : DROP;
      if (one.message === undefined || one.message === null) data.hand.fill(what, start, data.starts[row + 1]);
      else {
        const content = data.rows[row].messages[one.message]?.[1] ?? "", low = unitsAt(content, one.start), high = unitsAt(content, one.end);
        places.forEach((p, i) => { if (p.turn === one.message && p.start < high && p.end > low) data.hand[start + i] = what; });
      }
    }
  }

  // Decide a row, or its tokens from first to last: a span for each stretch of text in one message.
  add(row, range, what, by, note) {
    const said = { ...(by && { by }), at: new Date().toISOString(), ...(note && { note }) };
    const made = (range ? this.spans(row, range) : [{}]).map((span) => ({ row_id: this.data.rows[row].id, decision: what, ...span, ...said }));
    if (!made.length) return 0;
    this.list.push(...made);
    this.of(row).push(...made);
    for (const one of made) one.together = made.length; // one step for undo; not written
    this.apply(row);
    return made.length;
  }

  spans(row, [first, last]) {
    const spans = [];
    for (const { turn, start, end } of placesOf(this.data, row).slice(first, last + 1)) {
      if (turn < 0) continue;
      const open = spans[spans.length - 1];
      if (open?.message === turn) open.end = end;
      else spans.push({ message: turn, start, end });
    }
    const content = (turn) => this.data.rows[row].messages[turn][1];
    return spans.filter(({ start, end }) => start < end).map(({ message, start, end }) => ({ message, start: pointsAt(content(message), start), end: pointsAt(content(message), end) }));
  }

  // Take back what was decided last; its row, or -1 where nothing was decided here.
  undo() {
    if (!this.made) return -1;
    const gone = this.list.splice(-this.list[this.list.length - 1].together), row = this.rowOf.get(gone[0].row_id);
    this.of(row).splice(-gone.length);
    this.apply(row);
    return row;
  }

  text(from = 0) { return this.list.slice(from).map(({ together, ...one }) => `${JSON.stringify(one)}\n`).join(""); }
}

// Decisions count code points, scripts count UTF-16 units.
const unitsAt = (text, points) => { let at = 0; for (; points > 0 && at < text.length; points--) at += text.codePointAt(at) > 0xffff ? 2 : 1; return at; };
const pointsAt = (text, units) => { let points = 0; for (let at = 0; at < units; points++) at += text.codePointAt(at) > 0xffff ? 2 : 1; return points; };

// What helps by what the server answered: trying again never does, since this page goes by another version or server.
const APART = "Download what you decided in this page, and add its lines at the end of the file of decisions, where later lines count; then";
const REMEDIES = { 409: `${APART} load this page anew.`, 403: `${APART} open the address that toss review prints now.` };

// Where decisions go: to the server that the page came from, at once and one writing after the other; or nowhere but into a download.
class Keeper {
  constructor(marks, box, say) {
    Object.assign(this, { marks, say, url: box.dataset.save, version: box.dataset.version, busy: false, again: false, parted: false });
    addEventListener("beforeunload", (event) => { if (marks.unsaved) event.preventDefault(); });
  }

  async changed() {
    this.marks.unsaved = this.url ? true : this.marks.made > 0;
    if (!this.url) return;
    if (this.busy) { this.again = true; return; }
    this.busy = true;
    do {
      this.again = false;
      await this.send();
    } while (this.again);
    this.busy = false;
  }

  async send() {
    try {
      const headers = { "Content-Type": "application/x-ndjson", "If-Match": this.version };
      const answer = await fetch(this.url, { method: "POST", headers, body: this.marks.text() }), told = await answer.text();
      if (!answer.ok) {
        this.parted = answer.status === 409 || answer.status === 403;
        throw Object.assign(new Error(answer.status === 403 ? "this page is of a review that has ended" : told), { status: answer.status });
      }
      this.version = told.trim();
      this.marks.unsaved = this.again;
      this.say(`Saved; decisions in all: ${grouped(this.marks.list.length)}.`, true);
    } catch (error) {
      this.say(`Not saved: ${error.message}. ${REMEDIES[error.status] ?? "What you decided is still in this page; download it, or decide on to try again."}`);
    }
  }

  download() {
    const link = make("a"), url = URL.createObjectURL(new Blob([this.marks.text(this.parted ? this.marks.settled : 0)], { type: "application/x-ndjson" }));
    Object.assign(link, { href: url, download: "overrides.jsonl" });
    link.click();
    URL.revokeObjectURL(url);
    if (!this.url) this.marks.unsaved = false;
  }
}
