// One row: its conversation with tokens coloured by evidence, and what is known of the token that is looked at.
const BLOCK = 400, BARS = 160, SVG = "http://www.w3.org/2000/svg";

class RowView {
  constructor(cut, list) {
    Object.assign(this, { cut, list, data: cut.data, row: -1, token: -1, blocks: [], range: null, anchor: -1 });
    this.box = document.getElementById("row");
    this.observer = new IntersectionObserver((seen) => {
      for (const entry of seen) if (entry.isIntersecting) this.fill(entry.target);
    }, { rootMargin: "800px" });
    for (const kind of ["pointerover", "click"]) this.box.addEventListener(kind, (event) => {
      const token = event.target.closest(".t");
      if (token) this.look(token.index);
    });
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("pointerdown", () => this.choose(null));
    document.addEventListener("selectionchange", () => this.chooseSelected());
  }

  open(row) {
    this.row = row;
    this.places = placesOf(this.data, row);
    this.token = -1;
    this.range = null;
    this.draw();
    this.box.scrollTop = 0;
  }

  draw() {
    if (this.row < 0) return;
    const { data, row } = this, facts = data.rows[row];
    this.observer.disconnect();
    this.blocks = [];
    this.facts = make("dl", data.kinds.length > 1 ? "look more" : "look");
    this.facts.setAttribute("aria-live", "polite");
    this.box.replaceChildren(this.head(facts), this.facts, ...(this.cut.scored ? [this.strip()] : []));
    if (this.list.covered(row)) this.box.append(this.cover());
    else facts.messages.forEach(([role, content], turn) => this.box.append(this.turn(role, content, turn)));
    for (const block of this.blocks.slice(0, 3)) this.fill(block);
    for (const block of this.blocks.slice(3)) this.observer.observe(block);
    this.look(this.token);
  }

  head(facts) {
    const head = make("div", "row-head"), title = make("h3"), meta = make("p", "meta");
    title.append(make("bdi", "", visible(facts.name)), facts.name === `row ${facts.id}` ? "" : ` \u00b7 ${facts.id}`);
    this.counts = make("span", "", this.counted());
    meta.append(this.counts, facts.origin ? " \u00b7 " : "", make("bdi", "", visible(facts.origin)), facts.flags & JOINED ? " \u00b7 joined the harmful set" : "");
    head.append(title, meta);
    return head;
  }

  counted() {
    const n = this.places.length, dropped = this.cut.dropped[this.row], [, gone, what] = this.data.words;
    return `${grouped(dropped)} of ${grouped(n)} ${what} ${gone} (${percent(n ? dropped / n : 0)})`;
  }

  cover() {
    const cover = make("div", "cover"), button = make("button", "", "Show the text of this row");
    button.type = "button";
    button.addEventListener("click", () => {
      this.list.uncovered.add(this.row);
      this.list.draw();
      this.draw();
      this.box.focus({ preventScroll: true });
    });
    const above = this.cut.scored ? " Above is the evidence of its tokens, one after the other." : "";
    cover.append(make("p", "", `This row may hold harmful text.${above}`), button);
    return cover;
  }

  // The profile: at most BARS bars, each as high as the riskiest of its tokens.
  strip() {
    const n = this.places.length, bars = Math.min(n, BARS), { scale } = this.cut.evidence;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "strip");
    svg.setAttribute("viewBox", `0 0 ${bars} 40`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "Evidence along the answer, risky upward");
    const zero = document.createElementNS(SVG, "line");
    for (const [name, value] of Object.entries({ x1: 0, x2: bars, y1: 20, y2: 20, "vector-effect": "non-scaling-stroke" })) zero.setAttribute(name, value);
    svg.append(zero);
    for (let bar = 0; bar < bars; bar++) {
      let top = -Infinity;
      for (let i = Math.floor(bar * n / bars); i < Math.floor((bar + 1) * n / bars); i++) top = Math.max(top, this.cut.value(this.data.starts[this.row] + i));
      const height = Math.max(0.8, Math.min(Math.abs(top) / (2 * scale), 1) * 20), rect = document.createElementNS(SVG, "rect");
      const places = { x: bar + 0.08, width: 0.84, y: top > 0 ? 20 - height : 20, height };
      for (const [name, value] of Object.entries(places)) rect.setAttribute(name, value);
      if (top > 0) rect.setAttribute("class", "up");
      svg.append(rect);
    }
    return svg;
  }

  turn(role, content, turn) {
    const box = make("div", "turn"), heading = make("h4", "", visible(role));
    const text = make("div", "text");
    const pieces = this.pieces(content, turn);
    if (pieces.length) this.fillText(text, content, pieces);
    else {
      text.classList.add("plain");
      text.textContent = visible(content);
    }
    box.append(heading, text);
    return box;
  }

  // Tokens of a turn; one without text, such as the end of turn, belongs to the turn before it.
  pieces(content, turn) {
    const pieces = [];
    let own = this.places.find((place) => place.turn >= 0)?.turn ?? this.data.rows[this.row].messages.findIndex((m) => m[0] === "assistant"), at = 0;
    this.places.forEach((place, index) => {
      if (place.turn >= 0) own = place.turn;
      if (own !== turn) return;
      const start = place.turn < 0 ? at : Math.max(place.start, at), end = place.turn < 0 ? at : Math.max(place.end, start);
      pieces.push({ index, before: content.slice(at, start), text: content.slice(start, end) });
      at = end;
    });
    if (pieces.length) pieces.rest = content.slice(at);
    return pieces;
  }

  fillText(text, content, pieces) {
    text.tabIndex = 0;
    text.setAttribute("role", "group");
    text.setAttribute("aria-label", "Answer; arrow keys go from token to token");
    for (let i = 0; i < pieces.length; i += BLOCK) {
      const block = make("div", "block");
      block.pieces = pieces.slice(i, i + BLOCK);
      block.rest = i + BLOCK >= pieces.length ? pieces.rest : "";
      // Text first, so that heights, search in the page and screen readers have all of it; spans once it comes near.
      block.textContent = block.pieces.map((p) => visible(p.before + p.text)).join("") + visible(block.rest);
      this.blocks.push(block);
      text.append(block);
    }
  }

  fill(block) {
    if (block.tokens) return;
    block.tokens = block.pieces.map((piece) => {
      const token = make("span", "t", visible(piece.text));
      token.index = piece.index;
      return token;
    });
    const parts = block.pieces.flatMap((piece, i) => [visible(piece.before), block.tokens[i]]);
    block.replaceChildren(...parts, visible(block.rest));
    block.tokens.forEach((token) => this.paint(token));
    this.observer.unobserve(block);
  }

  unsafe(index) {
    const place = this.places[index];
    return place !== undefined && place.turn >= 0 && this.data.rows[this.row].spans.some(([turn, start, end]) => turn === place.turn && place.start < end && place.end > start);
  }

  paint(token) {
    const at = this.data.starts[this.row] + token.index, { cut } = this;
    const strength = cut.scored ? Math.max(-5, Math.min(5, Math.round(cut.value(at) / (2 * cut.evidence.scale) * 5))) : 0;
    const names = ["t"];
    if (strength) names.push(`l${strength}`);
    if (!token.textContent) names.push("z");
    const dropped = cut.isDropped(at, this.row);
    if (dropped) names.push("x");
    if (this.data.hand[at]) names.push("h");
    if (this.range && token.index >= this.range[0] && token.index <= this.range[1]) names.push("sel");
    if (this.unsafe(token.index)) {
      names.push("u");
      if (!this.unsafe(token.index - 1)) names.push("u1");
      if (!this.unsafe(token.index + 1)) names.push("u9");
    }
    if (token.index === this.token) names.push("now");
    token.className = names.join(" ");
    if (dropped && this.data.words[1] === "dropped") token.setAttribute("role", "deletion");
    else token.removeAttribute("role");
  }

  // The cut moved: only what is in the page as tokens is painted anew.
  repaint() {
    if (this.row < 0) return;
    this.counts.textContent = this.counted();
    for (const block of this.blocks) {
      if (!block.tokens) continue;
      const { top, bottom } = block.getBoundingClientRect();
      if (bottom > -800 && top < innerHeight + 800) block.tokens.forEach((token) => this.paint(token));
      else {
        block.tokens = null;
        this.observer.observe(block);
      }
    }
    this.look(this.token);
  }

  look(index) {
    this.box.querySelector(".t.now")?.classList.remove("now");
    this.token = index;
    const facts = index < 0 ? [["token", "point at one, or use the arrow keys"]] : this.known(index);
    this.facts.replaceChildren(...facts.map(([name, value, aside]) => {
      const pair = make("div"), shown = make("dd", "", value);
      if (aside) shown.append(make("span", "sr", aside));
      pair.append(make("dt", "", name), shown);
      return pair;
    }));
    if (index >= 0) this.element(index)?.classList.add("now");
  }

  known(index) {
    const { cut, data } = this, at = data.starts[this.row] + index, place = this.places[index];
    const text = place.turn < 0 ? "end of turn" : visible(data.rows[this.row].messages[place.turn][1].slice(place.start, place.end)).replace(/\n/g, "\u23ce") || "part of a character";
    const byHand = data.hand[at] > 0, state = `${data.words[Number(cut.isDropped(at, this.row))]}${byHand ? " by hand" : ""}`;
    const facts = [["token", this.list.covered(this.row) ? "covered" : text]];
    const kept = [data.words.slice(0, 2).join(" or "), state, this.unsafe(index) ? ", marked unsafe" : ""];
    if (data.columns.id) facts.push(["id", String(data.columns.id[at])]);
    if (!cut.scored) return [...facts, kept];
    const total = data.inRows ? this.places.length : data.tokens;
    const nats = (name) => `${(data.columns[name][at] * data.step).toFixed(2)} nats`;
    // The token's own score always, as the losses beside it give it, and the evidence that is chosen.
    const evidence = data.kinds.map((kind, k) => [kind.label.toLowerCase(), `${signed(cut.value(at, k))} ${kind.unit}`]);
    return [
      ...facts,
      ...evidence.filter((_, k) => k === 0 || k === cut.shown),
      ["utility loss", nats("utility")],
      ["degraded loss", nats("degraded")],
      kept,
      ["rank", byHand ? "decided by hand" : `${grouped(cut.ranks[at] + 1)} of ${grouped(total)}`],
    ];
  }

  // The tokens that are to be decided together; none means the row.
  choose(range) {
    if (!range && !this.range) return;
    this.range = range;
    for (const block of this.blocks) for (const token of block.tokens ?? [])
      token.classList.toggle("sel", range !== null && token.index >= range[0] && token.index <= range[1]);
  }

  chooseSelected() {
    const selection = getSelection();
    if (selection.isCollapsed || !selection.rangeCount) return;
    const range = selection.getRangeAt(0), inside = (token) => {
      const own = document.createRange();
      own.selectNodeContents(token);
      return range.compareBoundaryPoints(Range.END_TO_START, own) < 0 && range.compareBoundaryPoints(Range.START_TO_END, own) > 0;
    };
    if (!range.intersectsNode(this.box)) return;
    const found = this.blocks.flatMap((block) => block.tokens ?? []).filter(inside).map((token) => token.index);
    if (!found.length) return;
    this.anchor = found[0];
    this.choose([found[0], found[found.length - 1]]);
  }

  element(index) {
    for (const block of this.blocks) {
      if (index < block.pieces[0].index || index > block.pieces[block.pieces.length - 1].index) continue;
      this.fill(block);
      return block.tokens.find((token) => token.index === index);
    }
    return undefined;
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !event.target.classList.contains("text")) return;
    event.preventDefault();
    // The first arrow with Shift chooses the token that is looked at, the next ones reach further.
    const reach = event.shiftKey && this.token >= 0, from = reach && !this.range;
    if (from) this.anchor = this.token;
    if (!from) this.look(Math.min(Math.max(this.token + step, 0), this.places.length - 1));
    this.choose(reach ? [Math.min(this.anchor, this.token), Math.max(this.anchor, this.token)] : null);
    this.element(this.token)?.scrollIntoView({ block: "nearest" });
  }
}
