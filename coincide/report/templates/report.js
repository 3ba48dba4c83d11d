"use strict";
// --- tables: a click on a head sorts, again for the other direction ---------------------------
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const value = (row) => row.cells[head.cellIndex].dataset.sort ?? "";
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // missing ones last, either way
      const known = [x, y].every((text) => Number.isFinite(Number(text)));
      const compared = known ? Number(x) - Number(y) : x.localeCompare(y);
      return down ? -compared : compared;
    };
    body.append(...[...body.rows].sort(order));
  });
}

// --- long tables and lists: words choose rows --------------------------------------------------
for (const input of document.querySelectorAll("input[data-filters]")) {
  const rows = [...document.getElementById(input.dataset.filters).querySelectorAll("tbody tr, details.run")];
  const told = input.closest(".controls").querySelector("output");
  let texts; // of the rows, read when they are first asked for
  input.addEventListener("input", () => {
    texts ??= rows.map((row) => row.textContent.toLowerCase());
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row, i) => { row.hidden = !words.every((word) => texts[i].includes(word)); });
    const shown = rows.filter((row) => !row.hidden).length;
    told.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
  });
}

// --- elements: text from outside is only ever set as text --------------------------------------
const make = (tag, kind, ...inside) => {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  node.append(...inside.filter((one) => one !== ""));
  return node;
};
const picture = (uri) => {
  if (!uri.startsWith("data:image/")) return make("div", "nopicture", "no picture");
  const node = make("img");
  node.alt = "";
  node.src = uri;
  return node;
};
const choice = (label, names, chosen, changed) => {
  const select = make("select");
  names.forEach((name, i) => select.append(new Option(name, i, false, i === chosen)));
  select.addEventListener("change", changed);
  return { node: make("label", "", label, select), value: () => Number(select.value) };
};
const search = (hint, changed) => {
  const input = make("input");
  input.type = "search";
  input.placeholder = hint;
  input.addEventListener("input", changed);
  return { node: make("label", "grow", "Search", input), words: () => input.value.toLowerCase().split(/\s+/).filter(Boolean) };
};
const tick = (label, changed) => {
  const input = make("input");
  input.type = "checkbox";
  input.addEventListener("change", changed);
  return { node: make("label", "tick", input, label), on: () => input.checked };
};
const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "") + String(Number(Math.abs(value).toPrecision(3)));

// --- samples: two runs side by side ---------------------------------------------------------------
function samples(place, data) {
  const list = make("div", "cards");
  const told = make("p", "soft");
  const show = () => {
    const benchmark = data.benchmarks[bench.value()];
    const [a, b] = [first.value(), second.value()];
    const words = query.words();
    const differ = (s) => s.scores[a] !== s.scores[b] || s.answers[a] !== s.answers[b];
    const apart = (s) => Math.abs((s.scores[a] ?? 0) - (s.scores[b] ?? 0));
    const texts = (s) => [s.question, s.target, s.category, s.answers[a] ?? "", s.answers[b] ?? ""].join(" ").toLowerCase();
    const found = benchmark.samples
      .filter((s) => (!only.on() || differ(s)) && words.every((word) => texts(s).includes(word)))
      .sort((x, y) => apart(y) - apart(x));
    told.replaceChildren(verdict(benchmark, a, b), about(benchmark, found.length, a, b));
    list.replaceChildren(...found.map((s) => sample(s, a, b)));
  };
  const about = (benchmark, shown, a, b) => {
    const absent = [a, b].filter((i) => benchmark.absent[i]).map((i) => `${data.runs[i]}: ${benchmark.absent[i]}.`);
    const pictures = benchmark.no_pictures ? ` No pictures: ${benchmark.no_pictures}.` : "";
    return ` ${shown} of ${benchmark.samples.length} on this page, those first on which the runs differ most; ${benchmark.all.toLocaleString("en")} were measured, the runs differ on ${benchmark.differ.toLocaleString("en")}. ${absent.join(" ")}${pictures} ${benchmark.told.join(" ")}`;
  };
  const verdict = (benchmark, a, b) => {
    const [i, j] = [data.rows[a], data.rows[b]];
    const found = data.pairs[`${Math.min(i, j)},${Math.max(i, j)}`]?.[benchmark.name];
    if (i === j || !found) return "";
    const turn = i > j ? -1 : 1;
    const [low, high] = turn > 0 ? [found[1], found[2]] : [-found[2], -found[1]];
    const verdict = found[3] === "indistinguishable" ? found[3] : (found[3] === "better") === (turn > 0) ? "better" : "worse";
    return make("b", verdict, `First minus second, over all seeds: ${signed(turn * found[0])} (95 % from ${signed(low)} to ${signed(high)}), ${verdict}.`);
  };
  const sample = (s, a, b) => {
    const answer = (i) => {
      const score = s.scores[i];
      const kind = score == null ? "" : score > 0 ? "right" : "wrong";
      const text = s.answers[i] == null ? "n/a" : s.answers[i] === "" ? "(empty)" : s.answers[i];
      const told = [s.read[i], score == null ? "no score" : `score ${score}`].filter(Boolean).join(", ");
      return make("div", `answer ${kind}`, make("small", "", data.runs[i]), make("span", "", text), make("small", "", told));
    };
    const names = ["sample " + s.doc, s.category, s.moved && "pictures out of order"].filter(Boolean).join(", ");
    return make("article", "", picture(s.picture), make("div", "said", make("small", "", names), make("p", "question", s.question), make("p", "target", "Target: ", make("b", "", s.target)), make("div", "answers", answer(a), answer(b))));
  };
  const bench = choice("Benchmark", data.benchmarks.map((one) => one.name), 0, show);
  const other = Math.max(1, data.rows.findIndex((row) => row !== data.rows[0]));
  const first = choice("First", data.runs, 0, show);
  const second = choice("Second", data.runs, Math.min(other, data.runs.length - 1), show);
  const query = search("question or answer", show);
  const only = tick("only where they differ", show);
  place.replaceChildren(make("div", "controls", bench.node, first.node, second.node, query.node, only.node), told, list);
  show();
}

// --- clusters: a gallery with search ------------------------------------------------------------
const PAGE = 24;
function clusters(place, data) {
  const columns = data.columns;
  const text = data.examples.map((each) => each.map((e) => `${e[0]} ${e[1]}`).join(" ").toLowerCase());
  const list = make("div", "cards clusters");
  const told = make("p", "soft");
  const more = make("button", "more", "Show more");
  let found = [];
  let shown = 0;
  const show = () => {
    const by = keys[order.value()];
    const words = query.words();
    found = text.map((_, i) => i).filter((i) => words.every((word) => text[i].includes(word) || word === `#${i}`));
    if (by !== "cluster") found.sort((a, b) => (columns[by][b] ?? -Infinity) - (columns[by][a] ?? -Infinity) || a - b);
    shown = 0;
    list.replaceChildren();
    next();
  };
  const next = () => {
    list.append(...found.slice(shown, shown + PAGE).map(card));
    shown = Math.min(found.length, shown + PAGE);
    told.textContent = `${data.label}. ${shown.toLocaleString("en")} of ${found.length.toLocaleString("en")} found among ${text.length.toLocaleString("en")} clusters. Outlined: chosen. ${data.no_pictures}`;
    more.hidden = shown >= found.length;
  };
  const figure = (name, value) => make("div", "", make("dt", "", name), make("dd", "", value == null ? "n/a" : String(Number(value.toPrecision(4)))));
  const card = (i) => {
    const [size, chosen] = [columns.size[i], columns.chosen[i]];
    const figures = make("dl", "figures", figure("size", size), figure("chosen", chosen), ...["transferability", "density", "score"].map((name) => figure(name, columns[name][i])));
    const bar = make("progress");
    bar.max = Math.max(1, size);
    bar.value = chosen;
    const examples = data.examples[i].map((e) => make("div", e[3] ? "example chosen" : "example", ...(e[2] ? [picture(e[2])] : []), make("p", "", e[0], " ", make("b", "", e[1]))));
    return make("article", "", make("h5", "", `Cluster #${i}`), figures, bar, ...examples);
  };
  const keys = ["chosen", "size", "transferability", "density", "score", "cluster"];
  const order = choice("Order", keys, 0, show);
  const query = search("word in an example, or #12", show);
  more.addEventListener("click", next);
  place.replaceChildren(make("div", "controls", order.node, query.node), told, list, more);
  show();
}

// --- what is packed is unpacked when it is first opened -------------------------------------------
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}
for (const node of document.querySelectorAll("details.exhibit")) {
  node.addEventListener("toggle", async () => {
    if (!node.open || node.dataset.done) return;
    node.dataset.done = "yes";
    const place = node.querySelector(".content");
    place.textContent = "Unpacking …";
    try {
      ({ samples, clusters })[node.dataset.shows](place, await unpacked(node.dataset.from));
    } catch (error) {
      place.textContent = `This browser cannot show it: ${error.message}`;
    }
    node.dataset.done = "shown";
  });
}
