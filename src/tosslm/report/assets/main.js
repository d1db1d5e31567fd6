// The controls, wired.
const at = (id) => document.getElementById(id);

function chooseKinds(cut, onChange) {
  const ways = cut.data.kinds.map((kind, i) => [i, kind.label]);
  if (cut.kind === CHOSEN) ways.unshift([CHOSEN, "the method\u2019s own choice"]);
  if (ways.length < 2) return;
  for (const [i, name] of ways) {
    const label = make("label"), radio = make("input");
    Object.assign(radio, { type: "radio", name: "kind", value: i, checked: i === cut.kind });
    radio.addEventListener("change", () => { cut.kind = i; onChange(); });
    label.append(radio, ` ${name}`);
    at("kinds").append(label);
  }
  at("kinds").hidden = false;
}

function readyDial({ grid, own }, onChange) {
  const last = grid.length - 1, place = grid[own] / grid[last];
  Object.assign(at("d"), { max: last, value: own });
  at("d-own").textContent = `this run: ${percent(grid[own])}`;
  at("d-own").style.left = `${100 * Math.min(Math.max(place, 0.15), 0.85)}%`;
  at("d-start").hidden = place < 0.4;
  at("d-end").hidden = place > 0.6;
  at("d-end").textContent = `${Math.round(100 * grid[last])}%`;
  at("d").addEventListener("input", () => onChange(Number(at("d").value)));
  at("panel").hidden = false;
}

// Paper has no disclosure triangles, and no scrolling that would bring a row's later tokens in.
function readyForPaper(view) {
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("#made details:not([open])")];
    for (const details of closed) details.open = true;
    for (const block of view.blocks) view.fill(block);
  });
  addEventListener("afterprint", () => { for (const details of closed) details.open = false; });
}

async function start() {
  if (!at("explorer")) return;
  at("loading").hidden = false;
  const data = await readBlock(), marks = new Marks(data, readDecisions()), cut = new Cut(data);
  let view = null;
  const list = new RowList(cut, (row) => view.open(row));
  view = new RowView(cut, list);
  data.sources.forEach((name, i) => at("source")?.append(new Option(visible(name), i)));
  const filter = () => list.filter({
    text: at("search").value, source: Number(at("source")?.value ?? -1), least: parseFloat(at("least")?.value),
    marked: at("marked")?.checked, order: at("order").value,
  });
  const moved = () => {
    cut.count();
    if (cut.scored) showCut(cut);
    filter();
    view.repaint();
  };
  if (at("panel")) {
    readyDial(data, (step) => { cut.step = step; moved(); });
    chooseKinds(cut, () => { moved(); view.draw(); });
  }
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["search", "source", "least", "marked", "order"])
    at(id)?.addEventListener("input", () => { at("list").scrollTop = 0; filter(); });
  at("uncover")?.addEventListener("input", () => { list.all = at("uncover").checked; list.draw(); view.draw(); });
  at("explorer").hidden = false;
  at("loading").hidden = true;
  readyForPaper(view);
  moved();
  if (list.order.length) list.open(list.order[0]);
  if (at("marks")) new Desk(marks, cut, list, view);
}

start().catch((error) => {
  at("loading").hidden = false;
  at("loading").textContent = `The rows could not be unpacked (${error.message}). A browser of 2023 or later is needed.`;
});
