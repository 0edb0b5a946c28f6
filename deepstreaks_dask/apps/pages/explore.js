addEventListener("DOMContentLoaded", () => {
  const { send, on, make, count, clearProblem } = window.deepstreaks;
  const $ = (id) => document.getElementById(id);
  const digits = (value, n = 4) => (value === null ? "none" : value.toFixed(n));
  const options = (select, pairs, chosen) => {
    select.replaceChildren(...pairs.map(([value, words]) => make("option", { value, selected: value === chosen }, words)));
  };
  const fresh = (id, ...children) => $(id).replaceChildren(...children);
  // Elements of the same structure are updated in place: faster, and the focus stays.
  const renew = (id, ...children) => {
    const place = $(id);
    if (children.length !== place.childNodes.length || !children.every((child, k) => adopt(place.childNodes[k], child))) place.replaceChildren(...children);
  };
  const adopt = (old, now) => {
    if (old.nodeName !== now.nodeName || old.childNodes.length !== now.childNodes.length) return false;
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== now.data) old.data = now.data;
      return true;
    }
    for (const { name, value } of now.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    return [...now.childNodes].every((child, k) => adopt(old.childNodes[k], child));
  };
  const rows = {}; // threshold rows by member or family
  let latest = 0, answered = 0, queued = null, settled = 0;

  // One move of a threshold is sent at a time; of the moves that wait only the last one is sent.
  const move = (name, value) => {
    queued = { name, value };
    flush();
  };
  const post = () => {
    latest += 1;
    performance.mark("threshold-sent");
    send({ do: "threshold", n: latest, ...queued });
    queued = null;
  };
  const flush = () => {
    if (queued && answered >= latest) post();
  };
  const decide = (message) => { // never before a move that still waits: that would undo it
    if (queued) post();
    send(message);
  };

  const slider = (name, family, words) => {
    const range = make("input", { type: "range", min: 0, max: 1, step: 0.005, id: `range-${name}`, "aria-label": `Threshold of ${name}` });
    const number = make("input", { type: "number", min: 0, max: 1, step: "any", id: `number-${name}`, "aria-label": `Threshold of ${name} as a number` });
    const passed = make("span");
    const own = make("button", { type: "button", class: "link own", hidden: true, onclick: () => decide({ do: "follow", name }) }, `follow ${family}`);
    range.addEventListener("input", () => { number.value = Number(range.value); move(name, Number(range.value)); });
    number.addEventListener("change", () => {
      if (number.value !== "" && number.checkValidity()) { range.value = number.value; move(name, Number(number.value)); }
      else number.reportValidity();
    });
    const row = make("div", { class: `slider ${name === family ? "family" : "member"}` }, make("label", { for: range.id }, make("b", {}, words), passed), range, number, own);
    rows[name] = { row, range, number, passed, own };
    return row;
  };

  on("ready", ({ families, names, filters, nights, span }) => {
    $("what").textContent = span;
    fresh("families", ...families.map((family) => make("fieldset", {},
      make("legend", {}, `${family.name} `, make("span", {}, family.description)),
      slider(family.name, family.name, family.members.length > 1 ? "all members" : family.members[0]),
      ...(family.members.length > 1 ? family.members.map((member) => slider(member, family.name, member)) : []))));
    options($("filter"), [["*", "all filters"], ...filters.map((f) => [f, f || "not known"])], "*");
    const several = families.filter((f) => f.members.length > 1);
    options($("curves"), [["families", "the families"], ...several.map((f) => [f.name, `${f.name} and its members`])]);
    $("curves").closest(".row").hidden = !several.length;
    document.querySelectorAll("select.night").forEach((select) => options(select, nights));
    options($("scores-name"), names.map((n) => [n, n]), names[1]);
    options($("drift-name"), names.map((n) => [n, n]), names[0]);
    const tab = document.querySelector("[role=tab][aria-selected=true]").dataset.name;
    if (tab !== "decision") send({ do: "tab", name: tab }); // opened while the scores were loading
  });

  const tile = ({ title, value, note, counts, scale }) => {
    const card = make("section", { class: "card tile" }, make("h3", {}, title), make("div", { class: "value" }, value), make("p", {}, note));
    if (counts) card.append(make("p", {}, counts));
    if (scale) {
      const at = (name, [low, high]) => make("i", { class: name, style: `left: ${low}%; width: ${Math.max(high - low, 0)}%` });
      card.append(
        make("div", { class: "scale", role: "img", "aria-label": `${value}, ${note}; ${scale.words}` }, make("i", { class: "track" }), at("band", scale.band), at("interval", scale.interval), make("i", { class: "dot", style: `left: ${scale.dot}%` })),
        make("p", { class: "ends" }, make("span", {}, scale.ends[0]), make("span", {}, scale.words), make("span", {}, scale.ends[1])));
    }
    return card;
  };

  const select = (selection, words) => { send({ do: "show", selection, words }); $("gallery-title").scrollIntoView({ block: "center", behavior: "smooth" }); };

  on("state", ({ n, thresholds, members, families, tiles, confusion, venn }) => {
    for (const [name, row] of Object.entries(rows)) {
      const member = members.find((m) => m.name === name);
      const own = member !== undefined && name in thresholds;
      const value = member ? member.threshold : (thresholds[name] ?? 0.5);
      if (document.activeElement !== row.range || n === 0) row.range.value = value;
      if (document.activeElement !== row.number || n === 0) row.number.value = Number(value.toFixed(6));
      const passed = member ? member.passed : families.find((f) => f.name === name).passed;
      row.passed.textContent = `${count(passed)} pass`;
      row.own.hidden = !own;
      row.row.classList.toggle("follows", member !== undefined && !own && name !== member.family);
    }
    renew("tiles", ...tiles.map(tile));
    if (confusion) {
      const cell = (key, kind, words, truth, plausible) => make("td", { class: kind }, make("button", { type: "button", "data-cell": key, onclick: () => select({ truth, plausible }, words) }, make("b", {}, count(confusion[key][0])), make("span", {}, confusion[key][1])));
      renew("confusion", make("table", {},
        make("tr", {}, make("th", {}, ""), make("th", { scope: "col" }, "found plausible"), make("th", { scope: "col" }, "rejected")),
        make("tr", {}, make("th", { scope: "row" }, "labelled plausible"), cell("tp", "right", "True positives", 1, true), cell("fn", "wrong", "False negatives", 1, false)),
        make("tr", {}, make("th", { scope: "row" }, "labelled other"), cell("fp", "wrong", "False positives", 0, true), cell("tn", "right", "True negatives", 0, false))));
    } else renew("confusion", make("p", { class: "soft" }, "No labels to measure the decision against."));
    const widest = Math.max(1, ...venn.regions.map((r) => r.count));
    renew("venn", ...venn.regions.map(({ region, count: size }) => {
      const inside = region.split("&");
      return make("button", { type: "button", "data-region": region, class: region === venn.all ? "all" : "", onclick: () => select({ region }, region === "none" ? "Passing no family" : `Passing just ${inside.join(" and ")}`), "aria-label": `${region === "none" ? "no family" : `just ${inside.join(" and ")}`}: ${count(size)} cutouts` },
        make("span", { class: "dots" }, ...venn.families.map((f) => make("i", { class: inside.includes(f) ? "in" : "" }, `${inside.includes(f) ? "●" : "○"} ${f}`))),
        make("span", { class: "bar" }, make("b", { style: `width: ${100 * size / widest}%` })),
        make("span", { class: "n" }, count(size)));
    }));
    answered = Math.max(answered, n);
    document.documentElement.dataset.state = answered; // what tests and benchmarks wait for
    flush();
    clearTimeout(settled);
    settled = setTimeout(() => send({ do: "settled" }), 400);
  });

  on("saved", ({ names, words }) => {
    options($("saved"), [["", names.length ? "choose one" : "none yet"], ...names.map((n) => [n, n])], "");
    $("saved-words").textContent = words ?? "";
  });
  on("file", ({ name, text }) => {
    const url = URL.createObjectURL(new Blob([text], { type: "application/toml" }));
    make("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  });
  on("words", ({ id, words }) => { $(id).textContent = words; });

  $("reset").addEventListener("click", () => decide({ do: "reset" }));
  $("toml").addEventListener("click", () => decide({ do: "toml", name: $("set-name").value }));
  $("save").addEventListener("submit", (event) => { event.preventDefault(); clearProblem(); decide({ do: "save", name: $("set-name").value }); });
  $("saved").addEventListener("change", (event) => event.target.value && decide({ do: "load", name: event.target.value }));
  $("filter").addEventListener("change", (event) => send({ do: "filter", value: event.target.value }));
  $("run").addEventListener("change", (event) => { location.search = new URLSearchParams({ run: event.target.value }); });

  const scores = () => {
    $("scores-night-label").hidden = $("scores-by").value !== "night";
    send({ do: "scores", name: $("scores-name").value, by: $("scores-by").value, night: Number($("scores-night").value), log: $("scores-log").checked });
  };
  for (const id of ["scores-name", "scores-by", "scores-night", "scores-log"]) $(id).addEventListener("change", scores);
  $("bin-show").addEventListener("click", () => {
    const low = Number($("bin-low").value), high = Number($("bin-high").value);
    select({ ranges: [[$("scores-name").value, low, high]] }, `${$("scores-name").value} from ${low} to ${high}`);
  });
  const night = (plausible) => () => {
    const chosen = document.querySelector("#view-decision select.night");
    if (!chosen.value) return;
    const words = chosen.selectedOptions[0].textContent;
    select(plausible ? { night: Number(chosen.value), plausible } : { night: Number(chosen.value) }, plausible ? `Candidates of ${words}` : `Night ${words}`);
  };
  $("night-all").addEventListener("click", night(null));
  $("night-plausible").addEventListener("click", night(true));
  on("joint", ({ names, pairs }) => {
    document.querySelectorAll("select.axis").forEach((axis) => options(axis, names.map((n) => [n, n]), pairs[axis.dataset.pair][axis.dataset.axis === "x" ? 0 : 1]));
  });
  document.querySelectorAll("select.axis").forEach((axis) => axis.addEventListener("change", () => send({ do: "axis", pair: Number(axis.dataset.pair), axis: axis.dataset.axis, name: axis.value })));
  $("joint-clear").addEventListener("click", () => send({ do: "clear" }));
  $("curves").addEventListener("change", (event) => send({ do: "curves", of: event.target.value }));
  $("drift-name").addEventListener("change", (event) => {
    fresh("drift-table", make("p", { class: "soft busy" }, "Comparing each night with all others"));
    send({ do: "drift", name: event.target.value });
  });
  on("drift", ({ name, rows: table, of }) => {
    if (name !== $("drift-name").value) return; // another one was chosen meanwhile
    fresh("drift-table", table.length ? make("table", {},
      make("tr", {}, ...["night", "cutouts", "PSI", "KS distance", "KS probability", ""].map((words) => make("th", { scope: "col" }, words))),
      ...table.map((r) => make("tr", {}, make("td", {}, r.words), make("td", {}, count(r.cutouts)), make("td", {}, r.psi.toFixed(3)), make("td", {}, r.ks.toFixed(3)), make("td", {}, r.p.toExponential(1)),
        make("td", {}, make("button", { type: "button", class: "link", onclick: () => select({ night: r.night }, `Night ${r.words}`) }, "its cutouts"), " ",
          make("button", { type: "button", class: "link", onclick: () => { $("scores-name").value = $("drift-name").value; $("scores-by").value = "night"; $("scores-night").value = r.night; scores(); $("tab-scores").click(); } }, "its scores"))))) :
      make("p", { class: "soft" }, `None of ${count(of)} nights is flagged.`));
  });
  $("compare-run").addEventListener("change", (event) => {
    fresh("compare", make("p", { class: event.target.value ? "busy soft" : "soft" }, event.target.value ? "Loading the other run" : "Choose a run above to see which cutouts it decides differently."));
    send({ do: "compare", run: event.target.value });
  });
  on("compare", ({ run, other, table, members }) => {
    if (other !== $("compare-run").value) return; // another one was chosen meanwhile
    const words = { 1: "labelled plausible", 0: "labelled other", "-1": "no label" };
    const cell = (row, key, title) => make("td", {}, row[key] ? make("button", { type: "button", class: "link", "data-change": `${key}${row.truth}`, onclick: () => { send({ do: "changed", key, truth: row.truth, words: `${title}, ${words[row.truth]}` }); $("gallery-title").scrollIntoView({ block: "center", behavior: "smooth" }); } }, count(row[key])) : "0");
    fresh("compare",
      make("h3", {}, `Decided differently by ${other} and ${run}`),
      make("div", { class: "scroll" }, make("table", {},
        make("tr", {}, ...["", "plausible in both", "gained", "lost", "in neither"].map((w) => make("th", { scope: "col" }, w))),
        ...table.map((row) => make("tr", {}, make("th", { scope: "row" }, words[row.truth]), make("td", {}, count(row.both)), cell(row, "gained", `Plausible in ${run} only`), cell(row, "lost", `Plausible in ${other} only`), make("td", {}, count(row.neither)))))),
      members.length ? make("div", { class: "scroll" }, make("table", {},
        make("tr", {}, ...["member", "cutouts", "mean change of score", "largest", "crossed its threshold"].map((w) => make("th", { scope: "col" }, w))),
        ...members.map((m) => make("tr", {}, make("td", {}, m.member), make("td", {}, count(m.cutouts)), make("td", {}, digits(m.mean)), make("td", {}, digits(m.largest)), make("td", {}, count(m.crossed)))))) :
        make("p", { class: "soft" }, "The two runs have no member of the same name."));
  });

  // Search
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    clearProblem();
    send({ do: "search", target: $("search-target").value, value: Number($("search-value").value), by: $("search-by").value });
  });
  $("search-target").addEventListener("change", (event) => { $("search-value").value = event.target.value === "fpr" ? 0.01 : 100; });
  const within = (low, high, n) => (low === null ? "not known" : `${digits(low, n)} to ${digits(high, n)}`);
  on("searching", () => {
    $("search").querySelector("button").disabled = true;
    fresh("found", make("p", { class: "soft busy" }, "Searching, then again on resampled nights for intervals"));
  });
  on("found", ({ words, thresholds, rates, target }) => {
    $("search").querySelector("button").disabled = false;
    if (words) { fresh("found", make("p", {}, words)); return; }
    const heads = (...names) => make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)));
    const cells = (...values) => make("tr", {}, ...values.map((value) => make("td", {}, String(value))));
    fresh("found",
      make("div", { class: "row" }, make("h3", {}, "Best thresholds"), make("button", { type: "button", class: "main", id: "use", onclick: () => decide({ do: "use" }) }, "Use these thresholds")),
      make("div", { class: "scroll" }, make("table", {}, heads("nights", "TPR", "95 %", "FPR", "95 %", "candidates per night", "95 %", `nights over ${target}`),
        ...rates.map((r) => cells(`${count(r.nights)} ${r.part}`, digits(r.tpr), within(r.tpr_low, r.tpr_high, 4), digits(r.fpr), within(r.fpr_low, r.fpr_high, 4), digits(r.candidates, 1), within(r.candidates_low, r.candidates_high, 1), count(r.over))))),
      make("p", { class: "soft small" }, "The thresholds were chosen on the nights searched, whose rates are therefore optimistic: expect the rates of the held-out nights. Intervals: bootstrap over nights."),
      make("div", { class: "scroll" }, make("table", {}, heads("threshold of", "value", "95 %, from searches on resampled nights"),
        ...thresholds.map((t) => cells(t.name, Number(t.threshold.toPrecision(6)), within(t.low, t.high, 4))))));
  });

  // The gallery, and the dialog of one cutout
  let items = [], at = 0;
  const picture = (item, side) => (item.png ? make("img", { src: `data:image/png;base64,${item.png}`, alt: `cutout ${item.id}`, width: side, height: side, loading: "lazy" }) : make("span", { class: "unread" }, "pixels cannot be read"));
  const chips = (list) => list.map(([name, score, pass]) => make("span", { class: pass ? "chip pass" : "chip" }, `${name} ${score === null ? "none" : score.toFixed(3)}`));
  on("gallery", ({ title, words, cards, append, more }) => {
    $("gallery-title").textContent = title;
    $("gallery-words").textContent = words;
    $("gallery-words").classList.remove("busy");
    if (!append) { items = []; fresh("gallery"); }
    const first = items.length;
    items.push(...cards);
    $("gallery").append(...cards.map((item, k) => make("button", { type: "button", onclick: () => enlarge(first + k) }, picture(item, 144),
      make("span", { class: "caption" }, make("b", {}, item.id), make("span", { class: "soft" }, item.where), make("br"), ...chips(item.families)))));
    $("more").hidden = !more;
  });
  on("busy", ({ words }) => { $("gallery-words").textContent = words; $("gallery-words").classList.add("busy"); });
  const enlarge = (k) => {
    at = Math.min(Math.max(k, 0), items.length - 1);
    const item = items[at];
    $("large-title").textContent = item.id;
    const mapSelect = make("select", { id: "explain" }, make("option", { value: "" }, "Cutout"), ...item.members.map(([name]) => make("option", { value: name }, `Attribution map: ${name}`)));
    mapSelect.addEventListener("change", () => explain(item, mapSelect.value));
    $("explained").textContent = "";
    fresh("large-body", picture(item, 432), make("div", {}, make("label", { class: "field" }, "Show ", mapSelect), make("p", { class: "soft small" }, item.where),
      make("table", {}, make("tr", {}, ...["member", "score", "threshold"].map((w) => make("th", {}, w))),
        ...item.members.map(([name, score, pass, limit]) => make("tr", {}, make("td", {}, ...chips([[name, score, pass]]).map((chip) => { chip.textContent = name; return chip; })), make("td", {}, digits(score)), make("td", {}, limit.toFixed(3))))),
      make("table", {}, ...item.facts.map(([name, value]) => make("tr", {}, make("td", { class: "soft" }, name), make("td", {}, value))))));
    $("previous").disabled = at === 0;
    $("next").disabled = at === items.length - 1;
    if (!$("large").open) $("large").showModal();
  };
  const large = (png) => { const image = $("large-body").querySelector("img"); if (image) image.src = `data:image/png;base64,${png}`; };
  const explain = (item, member) => {
    large(item.png);
    $("explained").textContent = member ? `Computing the attribution map of ${member}. This takes some seconds.` : "";
    if (member) send({ do: "explain", place: item.place, member });
  };
  on("explained", ({ place, member, png, logits, words }) => {
    if (items[at]?.place !== place || $("explain")?.value !== member) return; // another cutout or map was chosen meanwhile
    if (png) large(png);
    $("explained").textContent = words ?? `${$("explained").dataset.words} Logit ${logits[0].toFixed(1)}, of an empty sky ${logits[1].toFixed(1)}.`;
  });
  $("previous").addEventListener("click", () => enlarge(at - 1));
  $("next").addEventListener("click", () => enlarge(at + 1));
  $("large").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step && !event.target.matches("select")) enlarge(at + step);
  });
  $("gallery").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const cards = [...$("gallery").children];
    if (step) cards[cards.indexOf(document.activeElement) + step]?.focus();
  });
  $("more").addEventListener("click", () => send({ do: "more" }));
  $("order").addEventListener("change", (event) => send({ do: "order", value: event.target.value }));

  $("cell").addEventListener("click", () => decide({ do: "cell" }));
  on("cell", async ({ code }) => {
    $("code").textContent = code;
    $("code").hidden = false;
    try {
      await navigator.clipboard.writeText(code);
      $("cell-words").textContent = "Copied. Paste it into a notebook.";
    } catch {
      getSelection().selectAllChildren($("code"));
      $("cell-words").textContent = "The browser does not allow this page to copy. The cell is selected below: press Ctrl+C.";
    }
  });
  if (matchMedia("(max-width: 980px)").matches) $("panel").open = false;
});
