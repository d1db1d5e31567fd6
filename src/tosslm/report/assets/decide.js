// The bar above the rows, and its keys: j and k, x, s, u, ?.
class Desk {
  constructor(marks, cut, list, view) {
    Object.assign(this, { marks, cut, list, view, data: cut.data });
    this.box = document.getElementById("marks");
    this.said = document.getElementById("marks-say");
    this.keeper = new Keeper(marks, this.box, (text, more) => this.say(more ? `${this.last} ${text}` : text));
    this.last = "";
    const click = { drop: () => this.decide("drop"), keep: () => this.decide("keep"), undo: () => this.undo(), download: () => this.keeper.download(), help: () => this.help() };
    for (const [id, act] of Object.entries(click)) document.getElementById(id).addEventListener("click", act);
    document.getElementById("by").value = this.box.dataset.by ?? "";
    const keys = { j: () => list.step(1), k: () => list.step(-1), x: click.drop, s: click.keep, u: click.undo, "?": click.help };
    // Only while the focus is among the rows: a letter typed elsewhere is none of ours.
    document.getElementById("explorer").addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
      if (!keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
    this.box.hidden = false;
    this.ready();
  }

  decide(what) {
    const { view } = this;
    if (view.row < 0) return;
    const range = view.range, by = document.getElementById("by").value.trim(), note = document.getElementById("note").value.trim();
    const name = `row ${this.data.rows[view.row].id}`, done = what === "keep" ? "Kept" : "Dropped";
    if (!this.marks.add(view.row, range, what, by, note)) return this.say("An end of turn goes with its row: decide the whole row.");
    const n = range ? range[1] - range[0] + 1 : 0;
    this.last = range ? `${done}: ${n} ${n === 1 ? "token" : "tokens"} of ${name}.` : `${done}: ${name}.`;
    document.getElementById("note").value = "";
    view.choose(null);
    this.changed(view.row);
  }

  undo() {
    const row = this.marks.undo();
    if (row < 0) return this.say("Nothing to undo: what was decided before this page was opened stays, decide anew.");
    this.last = `Undone, in row ${this.data.rows[row].id}.`;
    if (row !== this.view.row && this.list.order.includes(row)) this.list.open(row);
    this.changed(row);
  }

  changed(row) {
    this.cut.countRow(row);
    this.list.draw();
    this.view.repaint();
    this.say(this.last);
    this.ready();
    this.keeper.changed();
  }

  ready() {
    const undo = document.getElementById("undo");
    // A button that is switched off loses the focus to nowhere, and the keys with it.
    if (!this.marks.made && document.activeElement === undo) this.list.box.focus();
    undo.disabled = !this.marks.made;
  }

  say(text) { this.said.textContent = text; }

  help() {
    const keys = document.getElementById("keys"), button = document.getElementById("help");
    keys.hidden = !keys.hidden;
    button.setAttribute("aria-expanded", String(!keys.hidden));
  }
}
