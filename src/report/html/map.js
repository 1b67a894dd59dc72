"use strict";
// A data map: a point a training record, drawn anew whenever something about it changes.
for (const section of document.querySelectorAll(".map")) {
  const REGIONS = ["easy", "ambiguous", "hard", "suspect"];
  const MARGIN = { left: 54, right: 12, top: 10, bottom: 34 };
  const { labels, points } = JSON.parse(section.querySelector("script").textContent);
  const [canvas, info, key, colour, find] =
    ["canvas", ".mapinfo", ".key", ".mapcolour", ".mapfind"].map((selector) => section.querySelector(selector));
  const context = canvas.getContext("2d");
  const widest = Math.max(0.05, ...points.map((point) => point[0])) * 1.04;
  const all = { left: 0, right: widest, low: -0.02, high: 1.02 };
  let view = { ...all };
  let [pointed, kept, dragged] = [null, null, null];
  let words = [];
  let regions = new Set([0, 1, 2, 3]);

  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const size = () => ({ width: canvas.clientWidth, height: canvas.clientHeight });
  const across = (x) => MARGIN.left + ((x - view.left) / (view.right - view.left)) * (size().width - MARGIN.left - MARGIN.right);
  const up = (y) => size().height - MARGIN.bottom - ((y - view.low) / (view.high - view.low)) * (size().height - MARGIN.top - MARGIN.bottom);
  const seen = (point) => regions.has(point[3]) && point[0] >= view.left && point[0] <= view.right && point[1] >= view.low && point[1] <= view.high;
  const found = (point) => words.every((word) => `${point[6]} ${point[7]}`.toLowerCase().includes(word));

  // From one colour over another to a third, by a share of 1.
  const mixed = (share) => `color-mix(in oklab, ${variable("--r0")} ${Math.round(100 * share)}%, ${variable("--r3")})`;
  const palettes = {
    region: { of: (point) => variable(`--r${point[3]}`), key: () => [] },
    correctness: { of: (point) => mixed(point[2]), key: () => [0, 0.5, 1].map((share) => [mixed(share), `${100 * share} % of epochs right`]) },
    label: { of: (point) => variable(`--s${point[4] % 4}`), key: () => labels.map((label, i) => [variable(`--s${i % 4}`), label || "no label"]) },
    forgotten: {
      of: (point) => (point[5] === null ? variable("--r3") : mixed(1 - Math.min(point[5], 3) / 3)),
      key: () => [0, 1, 2, 3].map((times) => [mixed(1 - times / 3), `forgotten ${times === 3 ? "3 times or more" : `${times} times`}`]).concat([[variable("--r3"), "never learnt"]]),
    },
  };

  function draw() {
    const { width, height } = size();
    const ratio = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    axes(width, height);
    const palette = palettes[colour.value];
    const fills = new Map();
    const fill = (point) => {
      const id = colour.value === "correctness" ? point[2] : colour.value === "forgotten" ? Math.min(point[5] ?? -1, 3) : colour.value === "label" ? point[4] : point[3];
      if (!fills.has(id)) fills.set(id, palette.of(point));
      return fills.get(id);
    };
    const radius = points.length > 5000 ? 2 : 3;
    for (const point of points) {
      if (!seen(point)) continue;
      context.globalAlpha = words.length === 0 ? 0.6 : found(point) ? 1 : 0.08;
      context.fillStyle = fill(point);
      context.beginPath();
      context.arc(across(point[0]), up(point[1]), words.length && found(point) ? radius + 2 : radius, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
    for (const point of [kept, pointed]) {
      if (!point || !seen(point)) continue;
      context.strokeStyle = variable("--ink");
      context.lineWidth = 2;
      context.beginPath();
      context.arc(across(point[0]), up(point[1]), 7, 0, 7);
      context.stroke();
    }
    if (dragged?.to) {
      context.strokeStyle = variable("--accent");
      context.strokeRect(dragged.from[0], dragged.from[1], dragged.to[0] - dragged.from[0], dragged.to[1] - dragged.from[1]);
    }
    key.replaceChildren(...palette.key().map(([shade, text]) => {
      const entry = document.createElement("span");
      const mark = Object.assign(document.createElement("i"), { className: "mark" });
      mark.style.background = shade;
      entry.append(mark, ` ${text}`);
      return entry;
    }));
  }

  function axes(width, height) {
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = variable("--soft");
    context.strokeStyle = variable("--line");
    context.lineWidth = 1;
    const ticks = (low, high) => {
      const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5].find((step) => (high - low) / step <= 6) ?? 1;
      const first = Math.ceil(low / step - 1e-9);
      return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => Number(((first + i) * step).toFixed(4)));
    };
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const y of ticks(view.low, view.high)) {
      context.beginPath();
      context.moveTo(MARGIN.left, up(y));
      context.lineTo(width - MARGIN.right, up(y));
      context.stroke();
      context.fillText(y, MARGIN.left - 6, up(y));
    }
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const x of ticks(view.left, view.right)) context.fillText(x, across(x), height - MARGIN.bottom + 5);
    context.fillText("variability", (MARGIN.left + width - MARGIN.right) / 2, height - 14);
    context.save();
    context.translate(3, (height - MARGIN.bottom) / 2);
    context.rotate(-Math.PI / 2);
    context.fillText("confidence", 0, 0);
    context.restore();
  }

  function nearest(event) {
    const [x, y] = [event.offsetX, event.offsetY];
    let [best, least] = [null, 144];
    for (const point of points) {
      if (!seen(point) || !found(point)) continue;
      const away = (across(point[0]) - x) ** 2 + (up(point[1]) - y) ** 2;
      if (away < least) [best, least] = [point, away];
    }
    return best;
  }

  function tell() {
    const point = pointed ?? kept;
    if (!point) return;
    const line = (className, text) => Object.assign(document.createElement("p"), { className, textContent: text, dir: "auto" });
    const [variability, confidence, correctness, region, label, forgotten, id, text] = point;
    const head = line("near", "");
    head.append(
      Object.assign(document.createElement("span"), { className: "chip", textContent: labels[label] || "no label" }),
      Object.assign(document.createElement("span"), { className: `chip${region === 3 ? " warn" : ""}`, textContent: REGIONS[region] }),
      Object.assign(document.createElement("span"), { className: "soft id", textContent: id }));
    const learnt = forgotten === null ? "never learnt" : forgotten === 1 ? "forgotten once" : `forgotten ${forgotten} times`;
    info.replaceChildren(head, line("text", text),
      line("soft small", `confidence ${confidence.toFixed(3)}, variability ${variability.toFixed(3)}, right in ${(100 * correctness).toFixed(0)} % of epochs, ${learnt}`));
  }

  canvas.addEventListener("pointermove", (event) => {
    if (dragged) dragged.to = [event.offsetX, event.offsetY];
    pointed = dragged?.to ? null : nearest(event);
    tell();
    draw();
  });
  canvas.addEventListener("pointerleave", () => { pointed = null; tell(); draw(); });
  canvas.addEventListener("pointerdown", (event) => { dragged = { from: [event.offsetX, event.offsetY], to: null }; });
  canvas.addEventListener("pointerup", (event) => {
    const { from, to } = dragged ?? {};
    dragged = null;
    const { width, height } = size();
    if (to && Math.abs(to[0] - from[0]) > 8 && Math.abs(to[1] - from[1]) > 8) {
      const x = (at) => view.left + ((at - MARGIN.left) / (width - MARGIN.left - MARGIN.right)) * (view.right - view.left);
      const y = (at) => view.low + ((height - MARGIN.bottom - at) / (height - MARGIN.top - MARGIN.bottom)) * (view.high - view.low);
      const [xs, ys] = [[x(from[0]), x(to[0])], [y(from[1]), y(to[1])]];
      view = { left: Math.min(...xs), right: Math.max(...xs), low: Math.min(...ys), high: Math.max(...ys) };
    } else {
      kept = nearest(event);
    }
    tell();
    draw();
  });
  // A finger that scrolls past drags nothing.
  canvas.addEventListener("pointercancel", () => { dragged = null; draw(); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const there = points.filter((point) => seen(point) && found(point));
    if (step && there.length) pointed = there[(there.indexOf(pointed ?? kept) + step + there.length) % there.length];
    else if (event.key === "Enter") kept = pointed;
    else if (event.key === "Escape") view = { ...all };
    else return;
    event.preventDefault();
    tell();
    draw();
  });
  canvas.addEventListener("dblclick", () => { view = { ...all }; draw(); });
  section.querySelector(".mapbar").addEventListener("input", () => {
    regions = new Set([...section.querySelectorAll("[data-region]:checked")].map((box) => Number(box.dataset.region)));
    words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    draw();
  });
  section.querySelector(".mapbar").addEventListener("submit", (event) => event.preventDefault());
  new ResizeObserver(draw).observe(canvas);
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}
