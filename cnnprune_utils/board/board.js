// The gate board: one switch per filter, and what the network is without the filters whose gates are closed.
//
// One source, used twice. In JupyterLab this is the module of a widget, and Python looks at the pictures. On a web page
// page.py makes a classic script of it, with the data inside, and the page looks at the pictures by itself.
// "closed" is a number: bit i is set where filter i is closed, the filters counted through all layers.

const COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"]; // of the layers, through the book
const BINS = 50; // of the histogram: 2 points each

// ---------------------------------------------------------------------------------------------------- what is known

async function unpacked(text) {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser cannot unpack the numbers; one of 2023 or later can");
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

/** The record that facts.py wrote, with its numbers unpacked, and questions about them. */
async function readFacts(record) {
  const correct = new Uint16Array(await unpacked(record.correct));
  const steps = new Uint16Array(await unpacked(record.loss.steps));
  const ratio = Math.log(record.loss.high / record.loss.low) / 65535;
  const filters = [];
  record.layers.forEach((layer, l) => {
    for (let k = 0; k < layer.filters; k++) filters.push({ layer: l, name: layer.name, k, bit: 1 << filters.length });
  });
  filters.forEach((filter, i) => Object.assign(filter, record.scores[i]));
  const ofLayer = record.layers.map((_, l) => filters.filter((f) => f.layer === l).reduce((sum, f) => sum | f.bit, 0));

  const removed = (closed) => filters.filter((f) => closed & f.bit).length;
  const emptied = (closed) => ofLayer.some((bits) => (closed & bits) === bits);
  const bySize = filters.map(() => []).concat([[]]);
  for (let closed = 0; closed < correct.length; closed++) {
    if (!emptied(closed)) bySize[removed(closed)].push(correct[closed]);
  }
  return {
    ...record,
    filters,
    removed,
    emptied,
    accuracy: (closed) => correct[closed] / record.n,
    loss: (closed) => record.loss.low * Math.exp(steps[closed] * ratio),
    kept: (closed) => record.layers.map((layer, l) => layer.filters - removed(closed & ofLayer[l])),
    rivals: (closed) => bySize[removed(closed)].map((right) => right / record.n),
    /** In percent, how many networks of this size are no more accurate; null where a layer is empty. */
    percentile(closed) {
      if (emptied(closed)) return null;
      const rivals = bySize[removed(closed)];
      return (100 * rivals.filter((right) => right <= correct[closed]).length) / rivals.length;
    },
    /** Parameters and MACs; null where a layer is empty, which surgery refuses. */
    costs(closed) {
      return record.costs[this.kept(closed).join(" ")] ?? null;
    },
    bestOfSize: (closed) => record.best[removed(closed)] ?? null,
    /** The filters that may be removed: open, and not the last of their layer. */
    canLeave: (closed) => filters.filter((f) => !(closed & f.bit) && !emptied(closed | f.bit)),
  };
}

const say = (filter) => `filter ${filter.k} of ${filter.name}`;
const percent = (share, digits = 2) => `${(100 * share).toFixed(digits)} %`;
const grouped = (number) => number.toLocaleString("en-US");
const signed = (number) => {
  const digits = Math.abs(number).toFixed(3);
  return Number(digits) === 0 ? digits : `${number < 0 ? "−" : "+"}${digits}`;
};
const counted = (number, thing) => `${grouped(number)} ${thing}${number === 1 ? "" : "s"}`;
const least = (filters, cost) => filters.reduce((best, f) => (cost(f) < cost(best) ? f : best));

/** Who may make the next choice: name, how it chooses, and why. */
function advisers(facts) {
  return [
    {
      name: "Taylor says",
      choose: (closed) => least(facts.canLeave(closed), (f) => f.rank),
      why: () => "the lowest score of the filters that can be removed",
    },
    {
      name: "Oracle says",
      choose: (closed) => least(facts.canLeave(closed), (f) => facts.loss(closed | f.bit)),
      why: () => "without it the measured loss is lowest",
    },
    {
      name: "Random",
      choose(closed) {
        const free = facts.canLeave(closed);
        return free[Math.floor(Math.random() * free.length)];
      },
      why: () => "drawn by lot",
    },
  ];
}

// -------------------------------------------------------------------------------------------------- looking at pictures

/** Looks at pictures in the page itself: the convolutions run here, and the answers were given by the real network. */
async function pageEyes(facts) {
  const { labels, size, pixels, answers } = facts.pictures;
  const [height, width] = size;
  const grey = new Uint8Array(await unpacked(pixels));
  const answer = new Uint8Array(await unpacked(answers));
  const convolutions = [];
  for (const { shape, weight, bias } of facts.convolutions) {
    const [outputs, inputs] = shape;
    const [w, b] = [new Float32Array(await unpacked(weight)), new Float32Array(await unpacked(bias))];
    convolutions.push({ outputs, inputs, weight: w, bias: b });
  }
  const area = height * width;
  const n = labels.length;
  const image = (i) => ({ height, width, bytes: grey.subarray(i * area, (i + 1) * area) });
  const answerOf = (i, closed) => answer[i * (answer.length / n) + closed];

  /** The maps of every filter, before its own gate, as float32; padding 1, then a ReLU, as in the book's CNN. */
  function maps(i, closed) {
    let inputs = [Float32Array.from(image(i).bytes, (byte) => byte / 255)];
    let gate = 0;
    const all = [];
    for (const conv of convolutions) {
      const outputs = [];
      for (let o = 0; o < conv.outputs; o++) {
        const map = new Float32Array(area).fill(conv.bias[o]);
        inputs.forEach((input, c) => {
          if (!input) return; // its gate is closed
          for (let t = 0; t < 9; t++) {
            const [dy, dx] = [Math.floor(t / 3) - 1, (t % 3) - 1];
            const weight = conv.weight[(o * conv.inputs + c) * 9 + t];
            for (let y = Math.max(0, -dy); y < height - Math.max(0, dy); y++) {
              for (let x = Math.max(0, -dx); x < width - Math.max(0, dx); x++) {
                map[y * width + x] += weight * input[(y + dy) * width + x + dx];
              }
            }
          }
        });
        outputs.push(map.map((value) => Math.max(0, value)));
      }
      all.push(...outputs);
      inputs = outputs.map((map) => (closed & (1 << gate++) ? null : map));
    }
    return all;
  }

  function view(closed, picture) {
    const [now, whole] = [maps(picture, closed), maps(picture, 0)];
    const most = facts.layers.map((_, l) =>
      Math.max(...facts.filters.map((f, i) => (f.layer === l ? Math.max(...whole[i]) : 0)))
    );
    const changed = labels.map((_, i) => i).filter((i) => answerOf(i, closed) !== answerOf(i, 0));
    const seen = (i) => ({
      picture: i,
      image: image(i),
      label: labels[i],
      answer: answerOf(i, closed),
      before: answerOf(i, 0),
    });
    return {
      ...seen(picture),
      maps: now.map((map, i) => {
        const scale = most[facts.filters[i].layer] || 1;
        return { height, width, bytes: Uint8Array.from(map, (z) => Math.round(255 * Math.min(1, z / scale))) };
      }),
      changed: { n: changed.length, shown: changed.map(seen) },
    };
  }
  return {
    n,
    look(closed, picture, show) {
      show(view(closed, picture));
    },
  };
}

// ------------------------------------------------------------------------------------------------------------ drawing

/** An element: make("p", {class: "x"}, "text", child, ...); properties that start with "on" are listeners. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "rect", "line", "path"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function draw(canvas, { height, width, bytes }) {
  const grey = bytes instanceof DataView ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength) : bytes;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) pixels.data.set([grey[i], grey[i], grey[i], 255], 4 * i);
  context.putImageData(pixels, 0, 0);
}

/** A number with a name and a line below it; returns the element and how to set both. */
function tile(name) {
  const value = make("div", { class: "gb-value" });
  const note = make("div", { class: "gb-note" });
  const element = make("div", { class: "gb-tile", "data-name": name }, make("div", { class: "gb-note" }, name), value, note);
  const set = (text, below) => {
    value.textContent = text;
    note.textContent = below;
  };
  return { element, set };
}

/** How the accuracies of all networks of one size are spread, with this network and the best marked. */
function histogram(facts, closed) {
  const rivals = facts.rivals(closed);
  const bins = new Array(BINS).fill(0);
  for (const accuracy of rivals) bins[Math.min(BINS - 1, Math.floor(accuracy * BINS))]++;
  const tallest = Math.max(...bins, 1);
  const svg = make("svg", { viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" });
  bins.forEach((count, b) => {
    const height = count ? Math.max(0.6, (22 * count) / tallest) : 0;
    svg.append(make("rect", { x: (100 * b) / BINS, y: 24 - height, width: 100 / BINS - 0.2, height, class: "gb-bar" }));
  });
  const mark = (accuracy, kind) =>
    make("line", { x1: 100 * accuracy, x2: 100 * accuracy, y1: 0, y2: 24, class: kind, "vector-effect": "non-scaling-stroke" });
  const best = facts.bestOfSize(closed);
  if (best !== null) svg.append(mark(facts.accuracy(best), "gb-best"));
  svg.append(mark(facts.accuracy(closed), "gb-here"));
  return svg;
}

// -------------------------------------------------------------------------------------------------------------- board

/** Build the board into root. `start` is the first closed number; `moved(closed)` is told of every change. */
function build(root, facts, eyes, { start = 0, picture: first = 0, moved = () => {} } = {}) {
  const className = (c) => facts.classes[c] ?? `class ${c}`;
  let closed = start;
  let picture = first;
  let chosen = false; // the picture, since the gates were last changed: its sentence is then read out
  const past = [];
  root.replaceChildren();
  root.classList.add("gate-board");

  // The numbers.
  const tiles = Object.fromEntries(
    ["Accuracy", "Loss", "Parameters", "MACs", "Percentile", "Best of its size"].map((name) => [name, tile(name)])
  );
  const status = make("p", { class: "gb-status", role: "status" });
  const spread = make("div", { class: "gb-spread" });
  const spreadNote = make("p", { class: "gb-small" });

  // The switches.
  const switches = facts.filters.map((filter, i) => {
    const input = make("input", { type: "checkbox", role: "switch", onchange: () => flip(filter) });
    const canvas = make("canvas", { width: 28, height: 28, "aria-hidden": "true" });
    const verb = make("span", {});
    const change = make("span", {});
    const cost = make("span", { class: "gb-cost" }, verb, " ", make("span", { class: "gb-hidden" }, "changes the loss by "), change);
    const bar = make("span", { class: "gb-score-bar", "aria-hidden": "true" });
    bar.style.width = percent(filter.normalized, 1).replace(" ", "");
    input.id = `${facts.id}-gate-${i}`;
    const about = make(
      "span",
      { class: "gb-about-filter", id: `${input.id}-about` },
      make("span", {}, "Taylor ", make("span", {}, filter.normalized.toFixed(3))),
      make("span", { class: "gb-score" }, bar),
      cost
    );
    input.setAttribute("aria-label", `gate of ${say(filter)}`);
    input.setAttribute("aria-describedby", about.id);
    const name = make("span", { class: "gb-name", "aria-hidden": "true" }, make("span", { class: "gb-word" }, "filter "), `${filter.k}`);
    const label = make("label", { class: "gb-filter" }, make("span", { class: "gb-top" }, input, name), canvas, about);
    return { filter, input, canvas, verb, change, label };
  });
  const layers = facts.layers.map((layer, l) => {
    const legend = make("legend", {}, `${layer.name}, ${counted(layer.filters, "filter")}`);
    const here = switches.filter((s) => s.filter.layer === l).map((s) => s.label);
    const fieldset = make("fieldset", { class: "gb-layer" }, legend, make("div", { class: "gb-filters" }, ...here));
    fieldset.style.setProperty("--gb-layer", COLORS[l % COLORS.length]);
    return fieldset;
  });

  // The buttons.
  const button = (name, act) => make("button", { type: "button", onclick: act }, name);
  const advice = advisers(facts).map((adviser) => button(adviser.name, () => take(adviser)));
  const undo = button("Undo", () => go(past.pop(), "Undone.", false));
  const showBest = button("Best of this size", () => {
    const best = facts.bestOfSize(closed);
    if (best === closed) go(closed, "This is the best of its size.");
    else go(best, "The most accurate network of this size.");
  });
  const openAll = button("Open all", () => go(0, "All gates are open."));

  // The picture.
  const canvas = make("canvas", { width: 28, height: 28, class: "gb-image", role: "img" });
  const caption = make("p", { class: "gb-caption", tabindex: "-1" });
  const step = (by) => () => choosePicture((picture + by + eyes.n) % eyes.n);
  const pager = make("div", { class: "gb-buttons" }, button("Previous picture", step(-1)), button("Next picture", step(1)));
  const changedNote = make("p", { class: "gb-small" });
  const changedList = make("ul", { class: "gb-changed" });

  function flip(filter) {
    const closes = !(closed & filter.bit);
    go(closed ^ filter.bit, `${closes ? "Closed" : "Opened"}: ${say(filter)}.`);
  }

  function take(adviser) {
    if (!facts.canLeave(closed).length) {
      status.textContent = "No filter can be removed: each layer has one left.";
      return;
    }
    const filter = adviser.choose(closed);
    go(closed | filter.bit, `${adviser.name}: ${say(filter)}, ${adviser.why()}.`);
  }

  function go(next, what, remember = true) {
    if (next === undefined || next === null) return;
    if (remember && next !== closed) past.push(closed);
    closed = next;
    chosen = false;
    showNumbers();
    const result = `${percent(facts.accuracy(closed))} right, loss ${facts.loss(closed).toFixed(3)}`;
    const empty = facts.emptied(closed) ? " A layer is empty: no picture passes, and all get the same answer." : "";
    status.textContent = `${what} ${facts.removed(closed)} of ${facts.filters.length} gates closed: ${result}.${empty}`;
    moved(closed);
    eyes.look(closed, picture, showPicture);
  }

  /** What another view of this board or Python set. Both at once, so that neither undoes the other. */
  function follow(nextClosed, nextPicture) {
    if (nextClosed === closed && nextPicture === picture) return;
    picture = nextPicture;
    if (nextClosed === closed) choosePicture(picture);
    else go(nextClosed, "Set elsewhere.");
  }

  function choosePicture(next) {
    picture = next;
    chosen = true;
    eyes.look(closed, picture, showPicture);
  }

  function showNumbers() {
    const [accuracy, loss, costs, n] = [facts.accuracy(closed), facts.loss(closed), facts.costs(closed), facts.removed(closed)];
    const [parameters, macs] = facts.costs(0);
    const best = facts.bestOfSize(closed);
    const percentile = facts.percentile(closed);
    const rivals = facts.rivals(closed);
    tiles.Accuracy.set(percent(accuracy), `all open: ${percent(facts.accuracy(0))}`);
    tiles.Loss.set(loss.toFixed(3), `all open: ${facts.loss(0).toFixed(3)}`);
    const share = (part, whole) => `${percent(part / whole, 0)} of ${grouped(whole)}`;
    tiles.Parameters.set(costs ? grouped(costs[0]) : "–", costs ? share(costs[0], parameters) : "a layer is empty");
    tiles.MACs.set(costs ? grouped(costs[1]) : "–", costs ? share(costs[1], macs) : "a layer is empty");
    tiles.Percentile.set(
      percentile === null ? "–" : `${percentile.toFixed(percentile > 99 && percentile < 100 ? 2 : 1)} %`,
      percentile === null ? "a layer is empty" : `of ${counted(rivals.length, "network")} of its size: no better`
    );
    tiles["Best of its size"].set(
      best === null ? "–" : percent(facts.accuracy(best)),
      best === null ? "each has an empty layer" : `${counted(n, "filter")} removed`
    );
    for (const { filter, input, verb, change, label } of switches) {
      const isClosed = Boolean(closed & filter.bit);
      input.checked = !isClosed;
      label.classList.toggle("gb-closed", isClosed);
      verb.textContent = isClosed ? "open:" : "close:";
      change.textContent = signed(facts.loss(closed ^ filter.bit) - loss);
    }
    undo.setAttribute("aria-disabled", String(!past.length));
    advice.forEach((b) => b.setAttribute("aria-disabled", String(!facts.canLeave(closed).length)));
    showBest.setAttribute("aria-disabled", String(best === null));
    spread.replaceChildren(histogram(facts, closed));
    const sorted = [...rivals].sort((a, b) => a - b);
    const [low, middle, high] = [0, Math.floor(sorted.length / 2), sorted.length - 1].map((i) => percent(sorted[i], 1));
    spreadNote.textContent = !sorted.length
      ? "Every network of this size has an empty layer."
      : sorted.length === 1
        ? "The whole network is the only one of its size."
        : `${counted(sorted.length, "network")} with ${counted(n, "filter")} removed and no empty layer: from ${low} to ` +
          `${high}, and half of them reach ${middle}.`;
  }

  function showPicture(view) {
    if (view.picture !== picture) return; // a late answer
    draw(canvas, view.image);
    canvas.setAttribute("aria-label", `picture ${picture + 1}: ${className(view.label)}`);
    const right = view.answer === view.label ? "right" : "wrong";
    const before = view.answer === view.before ? "" : `, with all gates open ${className(view.before)}`;
    const which = `Picture ${picture + 1} of ${eyes.n}: ${className(view.label)}`;
    const says = `The network says ${className(view.answer)}, ${right}${before}.`;
    caption.replaceChildren(
      make("span", { class: "gb-caption-label" }, which),
      make("span", { class: `gb-answer gb-${right}` }, says)
    );
    if (chosen) status.textContent = `${which}. ${says}`;
    view.maps.forEach((map, i) => draw(switches[i].canvas, map));
    const { n, shown } = view.changed;
    changedNote.textContent =
      `${n} of ${eyes.n} answers differ from those of the whole network` + (n > shown.length ? `; the first ${shown.length}:` : n ? ":" : ".");
    const focused = [...changedList.querySelectorAll("button")].indexOf(document.activeElement);
    changedList.replaceChildren(
      ...shown.map((item) => {
        const small = make("canvas", { "aria-hidden": "true" });
        draw(small, item.image);
        const text = `${className(item.label)}: ${className(item.before)} → ${className(item.answer)}`;
        const kind = item.answer === item.label ? "gb-right" : item.before === item.label ? "gb-wrong" : "";
        return make("li", {}, make("button", { type: "button", class: kind, onclick: () => choosePicture(item.picture) }, small, text));
      })
    );
    // who uses a keyboard goes on from where they were
    if (focused >= 0) (changedList.querySelectorAll("button")[focused] ?? caption).focus();
  }

  const key = make("p", { class: "gb-small gb-key" });
  key.append(
    make("span", { class: "gb-key-here" }), "this network ",
    make("span", { class: "gb-key-best" }), "the best of its size"
  );
  root.append(
    make("div", { class: "gb-tiles" }, ...Object.values(tiles).map((t) => t.element)),
    make("div", { class: "gb-buttons", role: "group", "aria-label": "the next choice" }, ...advice, showBest, undo, openAll),
    make(
      "div",
      { class: "gb-main" },
      make("div", { class: "gb-picture" }, canvas, make("div", {}, caption, pager)),
      make(
        "div",
        { class: "gb-layers" },
        make("p", { class: "gb-small" }, "Below each feature map: the filter's Taylor score, and what the loss does if you flip its switch."),
        ...layers
      )
    ),
    status,
    make("div", { class: "gb-below" },
      make("div", {}, make("h3", {}, "Answers that changed"), changedNote, changedList),
      make("div", {}, make("h3", {}, "Among all of its size"), spread, axis(), key, spreadNote)),
    make("p", { class: "gb-small gb-measured" }, facts.measured)
  );
  go(closed, "", false);
  status.textContent = "All switches are gates: on is open. Close one, or ask for advice.";
  return { follow };
}

const axis = () =>
  make("div", { class: "gb-axis", "aria-hidden": "true" }, ...["0 %", "accuracy", "100 %"].map((t) => make("span", {}, t)));

// random: JupyterLab loads this module again for each board, so a counter would not know of the others
const newId = () => `gate-board-${Math.random().toString(36).slice(2)}`;
const readRecord = async (record) => ({ ...(await readFacts(record)), id: newId() });

/** On a web page: every element with data-gate-board becomes a board. page.py calls it. */
async function start(record) {
  for (const root of document.querySelectorAll("[data-gate-board]")) {
    try {
      const facts = await readRecord(record);
      build(root, facts, await pageEyes(facts));
      root.dataset.ready = "true";
    } catch (error) {
      root.textContent = `The board did not start: ${error.message}.`;
      throw error;
    }
  }
}

/** In JupyterLab: the view of widget.py's Board. */
async function render({ model, el }) {
  const facts = await readRecord(JSON.parse(model.get("facts")));
  let show = () => {};
  const eyes = {
    n: model.get("n_pictures"),
    look(closed, picture, callback) {
      show = callback;
      model.set({ closed, picture });
      model.save_changes();
      answer();
    },
  };
  function answer() {
    const view = model.get("view");
    if (view.closed === model.get("closed") && view.picture === model.get("picture")) show(view);
  }
  model.on("change:view", answer);
  const root = document.createElement("div");
  el.append(root);
  const board = build(root, facts, eyes, { start: model.get("closed"), picture: model.get("picture") });
  const follow = () => board.follow(model.get("closed"), model.get("picture"));
  model.on("change:closed", follow);
  model.on("change:picture", follow);
  root.dataset.ready = "true";
  return () => {
    model.off("change:view", answer);
    model.off("change:closed", follow);
    model.off("change:picture", follow);
  };
}

export default { render };
