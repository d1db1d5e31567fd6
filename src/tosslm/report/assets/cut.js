// What is dropped, as it is looked at: by one kind of evidence up to a discard fraction, or by a method's own choice.
const CHOSEN = -1, NEAR = 0.25;

class Cut {
  constructor(data) {
    this.data = data;
    this.kind = data.ownKind ?? CHOSEN;
    this.step = data.own;
    this.highest = data.kinds.map(() => new Float32Array(data.rows.length));
    this.mean = data.kinds.map(() => new Float32Array(data.rows.length));
    this.dropped = new Uint32Array(data.rows.length);
    this.near = new Uint32Array(data.rows.length);
    data.kinds.forEach((_, k) => this.summarise(k));
    this.count();
  }

  get fraction() { return this.data.grid[this.step]; }
  get scored() { return this.data.kinds.length > 0; }
  // What tokens are coloured by; beside a method's own choice that is the token score.
  get shown() { return Math.max(this.kind, 0); }
  get evidence() { return this.data.kinds[this.shown]; }
  get ranks() { return this.data.columns[`rank${this.shown}`]; }
  isDropped(token, row) { return this.data.hand[token] ? this.data.hand[token] === DROP : this.kind === CHOSEN ? this.data.columns.gone[token] === 1 : this.ranks[token] < this.limit(row); }
  value(token, kind = this.shown) { return this.data.columns[`value${kind}`][token] * this.data.step; }

  // How many go: of all tokens, or of each row where selection works inside rows. The product as Python has it.
  limit(row) { return Math.floor(this.fraction * (this.data.inRows ? this.data.columns.length[row] : this.data.tokens)); }

  summarise(kind) {
    const values = this.data.columns[`value${kind}`], { starts } = this.data;
    for (let row = 0; row < this.data.rows.length; row++) {
      let sum = 0, top = -Infinity;
      for (let i = starts[row]; i < starts[row + 1]; i++) { sum += values[i]; if (values[i] > top) top = values[i]; }
      this.highest[kind][row] = top * this.data.step;
      this.mean[kind][row] = sum * this.data.step / (starts[row + 1] - starts[row]);
    }
  }

  count() {
    for (let row = 0; row < this.dropped.length; row++) this.countRow(row);
  }

  // How many of a row's tokens go, and how many stand near the cut: the last quarter of those that go, and as many behind it.
  countRow(row) {
    const { data: { starts, columns, hand } } = this, chosen = this.kind === CHOSEN, marks = chosen ? columns.gone : this.ranks;
    const limit = this.limit(row), low = limit - NEAR * limit, high = limit + NEAR * limit;
    let n = 0, near = 0;
    for (let i = starts[row]; i < starts[row + 1]; i++) {
      if (hand[i] ? hand[i] === DROP : chosen ? marks[i] : marks[i] < limit) n++;
      if (this.scored && !hand[i] && this.ranks[i] >= low && this.ranks[i] < high) near++;
    }
    this.dropped[row] = n;
    this.near[row] = near;
  }
}

function showCut(cut) {
  if (!document.getElementById("panel")) return;
  const { data, evidence } = cut, chosen = cut.kind === CHOSEN;
  const counts = chosen ? data.sourceGone : evidence.counts[cut.step], threshold = chosen ? null : evidence.thresholds[cut.step];
  const total = counts.reduce((sum, n) => sum + n, 0), own = chosen || (cut.step === data.own && cut.kind === data.ownKind);
  document.querySelector("#panel .dial").hidden = chosen;
  document.getElementById("d").setAttribute("aria-valuetext", percent(cut.fraction));
  document.getElementById("d-value").textContent = percent(cut.fraction);
  const from = threshold === null ? "" : `; the lowest has ${signed(threshold)} ${evidence.unit}`;
  document.getElementById("d-says").textContent =
    `${grouped(total)} of ${grouped(data.tokens)} tokens ${own ? "were dropped" : "would be dropped"}${from}.`;
  [...document.querySelectorAll("#sources tbody tr")].forEach((line, i) => {
    const share = counts[i] / data.sourceTokens[i];
    line.children[2].textContent = grouped(counts[i]);
    line.children[3].textContent = percent(share);
    line.querySelector(".fill").setAttribute("width", (100 * share).toFixed(1));
  });
  document.querySelectorAll(".kind").forEach((group, i) => { group.hidden = i !== cut.shown; });
  document.querySelectorAll(`.kind[data-kind="${cut.shown}"] .cut`).forEach((mark) => moveThreshold(mark, threshold));
}

function moveThreshold(mark, threshold) {
  mark.classList.toggle("none", threshold === null);
  const [low, high, left, right] = ["low", "high", "left", "right"].map((key) => Number(mark.dataset[key]));
  const share = threshold === null ? 1 : Math.min(Math.max((threshold - low) / (high - low), 0), 1);
  const x = left + share * (right - left);
  mark.querySelector(".gone").setAttribute("x", x);
  mark.querySelector(".gone").setAttribute("width", right - x);
  for (const end of ["x1", "x2"]) mark.querySelector(".threshold").setAttribute(end, x);
}
