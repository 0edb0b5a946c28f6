"use strict";
(() => {
  const { ask, make, show, date, count, role, vocabulary } = site;
  const get = (id) => document.getElementById(id);
  const PAGE = 300;
  const FIRST = 48; // thumbnails of a large window
  const { verdicts, lengths } = vocabulary;
  const QUEUES = ["entropy", "spread", "margin"];
  const KEYS = {};
  const keyOf = (word) => word[0];
  for (const verdict of verdicts) KEYS[keyOf(verdict)] = { verdict };
  for (const length of lengths) KEYS[keyOf(length)] = { length };
  const may = role.may_judge;
  let rows = [];
  let total = 0;
  let chosen = -1;
  let detail = null; // what the panel shows
  let explained = {}; // which member was asked about which cutout, and what it said
  let nights = [];
  let asked = 0;
  let descending = false;
  let opening = false;
  let usual = null; // what was shown before the queue was, while it is

  // The list

  const written = () => get("where").value.trim();
  const question = (offset) => {
    const night = get("night").value;
    const parts = [];
    if (written()) parts.push(`(${written()})`);
    if (night !== "*") parts.push(`night == ${night}`);
    if (get("todo").getAttribute("aria-pressed") === "true") parts.push("not reviewed");
    if (get("disputed").getAttribute("aria-pressed") === "true") parts.push("disputed");
    if (usual) parts.push("not labelled and people == 0");
    return new URLSearchParams({ where: parts.join(" and "), sort: get("sort").value, descending, limit: PAGE, offset });
  };
  const load = async (offset = 0) => {
    const number = ++asked;
    const gallery = get("gallery");
    gallery.setAttribute("aria-busy", "true");
    get("found").classList.add("busy");
    if (!offset) get("found").textContent = "Looking for cutouts";
    try {
      const answer = await ask(`/streaks?${question(offset)}`, { raw: true });
      const text = await answer.text();
      if (number !== asked) return;
      const found = text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
      total = Number(answer.headers.get("X-Total-Count"));
      if (!offset) {
        rows = [];
        for (const image of gallery.querySelectorAll("img")) if (!image.complete) image.removeAttribute("src"); // others wait for its connection
        gallery.replaceChildren();
        chosen = -1;
      }
      const first = rows.length;
      rows.push(...found);
      gallery.append(...found.map((row, k) => thumb(row, first + k)));
      wrong(null);
      get("found").textContent = total > rows.length ? `${count(rows.length)} of ${count(total)} cutouts` : `${count(total)} cutout${total === 1 ? "" : "s"}`;
      get("more").hidden = rows.length >= total;
      get("empty").hidden = total > 0;
      get("empty").textContent = usual ? "Every cutout has a label or a verdict: there is nothing left to learn from." : get("todo").getAttribute("aria-pressed") === "true" ? "Nothing is left to judge here. Choose another night, or show everything again." : "No cutout passes this filter. Empty the filter to see everything, or choose another night.";
      if (rows.length && chosen < 0) choose(0, false);
    } catch (error) {
      if (number !== asked) return;
      get("found").textContent = rows.length ? "That was not understood. Below is what was found before." : "Nothing was loaded.";
      if (error.start !== undefined && error.start !== null) wrong(error); else show(error);
    } finally {
      if (number === asked) {
        gallery.setAttribute("aria-busy", "false");
        get("found").classList.remove("busy");
      }
    }
  };
  const wrong = (error) => {
    const words = get("where-words");
    get("where").setAttribute("aria-invalid", Boolean(error));
    words.replaceChildren();
    if (!error) return;
    const text = written();
    const [start, end] = [error.start - 1, error.end - 1]; // it was sent in parentheses
    words.append(`${error.message} `);
    if (start >= 0 && start < text.length) words.append("— ", text.slice(Math.max(0, start - 20), start), make("mark", {}, text.slice(start, end)), text.slice(end, end + 20));
  };
  const value = (number, digits = 2) => (number === null || number === undefined ? "–" : Number(number).toFixed(digits));
  const badges = (row) => {
    const mine = row.mine ?? {};
    return [
      mine.verdict && make("span", { class: `badge ${mine.verdict}` }, mine.verdict),
      mine.length && make("span", { class: "badge" }, mine.length),
      mine.marked && make("span", { class: "badge marked" }, "marked"),
      mine.note && make("span", { class: "badge" }, "note"),
    ].filter(Boolean);
  };
  const thumb = (row, k) => {
    const families = Object.entries(row.scores).filter(([name]) => !name.includes("_"));
    const by = get("sort").value;
    const sorted = by in row.scores && by.includes("_") ? [[by, row.scores[by]]] : QUEUES.includes(by) ? [[by, row[by]]] : families;
    return make("button", { type: "button", class: "thumb", "data-k": k, tabindex: -1, "aria-label": `${row.id}${row.mine?.verdict ? `, ${row.mine.verdict}` : ""}` },
      // fetched before it comes into sight, since a scroll that has to wait for pictures stutters
      make("img", { fetchpriority: k < FIRST ? "high" : "low", src: `/api/v1/cutout?id=${encodeURIComponent(row.id)}`, decoding: "async", width: 144, height: 144, alt: "" }),
      make("span", { class: "badges" }, ...badges(row)),
      make("span", { class: "caption" },
        make("b", {}, sorted.map(([name, score]) => `${name} ${value(score).replace(/^0/, "")}`).join("  ")),
        make("span", { class: "soft" }, `${row.filter || "–"} ${value(row.mag, 1)} mag, ${value(row.length, 0)} px`)));
  };
  const element = (k) => get("gallery").children[k];
  const refresh = (row) => {
    const k = rows.findIndex((one) => one.id === row.id);
    if (k < 0) return;
    const old = element(k);
    old.querySelector(".badges").replaceChildren(...badges(row));
    old.setAttribute("aria-label", `${row.id}${row.mine?.verdict ? `, ${row.mine.verdict}` : ""}`);
  };
  const choose = (k, focus = true) => {
    if (!rows.length) return;
    const to = Math.min(Math.max(k, 0), rows.length - 1);
    const before = element(chosen);
    if (before) { before.classList.remove("chosen"); before.tabIndex = -1; }
    chosen = to;
    const now = element(to);
    now.classList.add("chosen");
    now.tabIndex = 0;
    if (focus) now.focus({ preventScroll: false });
    now.scrollIntoView({ block: "nearest" });
    if (!get("detail").hidden) open(rows[to].id);
    if (to > rows.length - 30 && rows.length < total && get("gallery").getAttribute("aria-busy") === "false") load(rows.length);
  };
  get("gallery").addEventListener("click", (event) => {
    const found = event.target.closest(".thumb");
    if (!found) return;
    get("detail").hidden = false;
    document.body.classList.add("detailed");
    choose(Number(found.dataset.k));
  });
  get("gallery").addEventListener("error", (event) => {
    if (event.target.tagName === "IMG") event.target.alt = "These pixels cannot be read";
  }, true);

  // Verdicts: they are sent one after the other in the order of the keys, so that no answer is older than one before it

  let last = Promise.resolve();
  const inTurn = (work) => (last = last.then(work, work));
  const judge = (id, change) => inTurn(async () => {
    try {
      const said = await ask("/verdicts", { method: "POST", body: { id, ...(typeof change === "function" ? change() : change) } });
      site.clear();
      const row = rows.find((one) => one.id === id);
      const first = !row?.mine?.verdict && said.verdict;
      if (row) { row.mine = said; refresh(row); }
      if (detail?.streak.id === id) { if (first) await open(id); else { detail.mine = said; paint(); } }
      progress();
      return true;
    } catch (error) { show(error); return false; }
  });
  const undo = () => inTurn(async () => {
    try {
      const said = await ask("/undo", { method: "POST" });
      site.clear();
      const k = rows.findIndex((one) => one.id === said.cutout);
      if (k >= 0) { rows[k].mine = said.at ? said : null; refresh(rows[k]); choose(k); }
      if (detail?.streak.id === said.cutout) await open(said.cutout);
      get("found").textContent = `Undone: ${said.cutout}`;
      progress();
    } catch (error) { show(error); }
  });

  // The detail

  let opened = 0;
  const open = async (id) => {
    const number = ++opened;
    get("detail").hidden = false;
    document.body.classList.add("detailed");
    if (detail?.streak.id !== id) get("detail").setAttribute("aria-busy", "true");
    try {
      const answer = await ask(`/streak?id=${encodeURIComponent(id)}`);
      if (number !== opened) return; // moved on, asked again or closed meanwhile
      detail = answer;
      paint();
    } catch (error) { show(error); }
  };
  const close = () => {
    opened += 1;
    get("detail").hidden = true;
    document.body.classList.remove("detailed");
    detail = null;
    element(chosen)?.focus();
  };
  // hours, minutes and seconds, or degrees, with a sign; "-" as other sites take it
  const sexagesimal = (degrees, hours) => {
    const digits = hours ? 2 : 1;
    const units = 60 * 60 * 10 ** digits;
    const all = Math.round(Math.abs(hours ? degrees / 15 : degrees) * units) % ((hours ? 24 : 360) * units);
    const seconds = ((all % (units / 60)) / 10 ** digits).toFixed(digits).padStart(digits + 3, "0");
    const [whole, minutes] = [Math.floor(all / units), Math.floor(all / (units / 60)) % 60].map((one) => String(one).padStart(2, "0"));
    return `${hours ? "" : degrees < 0 ? "-" : "+"}${whole} ${minutes} ${seconds}`;
  };
  const links = (streak, station) => {
    if (streak.ra === null || streak.dec === null) return [make("span", { class: "soft" }, "No links without a position.")];
    const [ra, dec] = [streak.ra.toFixed(6), streak.dec.toFixed(6)];
    const to = {
      Fink: ["https://ztf.fink-portal.org/", { action: "conesearch", ra, dec, radius: 60 }],
      ALeRCE: ["https://alerce.online/", { ra, dec, radius: 60, page: 1 }],
      SIMBAD: ["https://simbad.cds.unistra.fr/simbad/sim-coo", { Coord: `${ra} ${streak.dec < 0 ? "" : "+"}${dec}`, CooFrame: "ICRS", Radius: 1, "Radius.unit": "arcmin" }],
    };
    if (streak.jd !== null) {
      const when = new Date(Math.round((streak.jd - 2440587.5) * 864e5));
      const [date, time] = when.toISOString().split("T");
      const [year, month, day] = date.split("-");
      const fraction = (when - Date.parse(`${date}T00:00:00Z`)) / 864e5;
      // The fields of the checkers' own form, which gives the day to a hundredth.
      const asked = { year, month, day: (Number(day) + Math.floor(fraction * 100) / 100).toFixed(2), which: "pos", ra: sexagesimal(streak.ra, true), decl: sexagesimal(streak.dec, false), TextArea: "", radius: 15, limit: "24.0", oc: station, sort: "d", mot: "h", tmot: "s", pdes: "u", needed: "f", ps: "n", type: "p" };
      to["MPC's NEO checker"] = ["https://www.minorplanetcenter.net/cgi-bin/neocheck.cgi", asked];
      to["MPC's MPChecker"] = ["https://www.minorplanetcenter.net/cgi-bin/mpcheck.cgi", asked];
      to.SkyBoT = ["https://ssp.imcce.fr/webservices/skybot/skybotconesearch_query.php", { "-ep": `${date} ${time.slice(0, 8)}`, "-ra": ra, "-dec": dec, "-rd": 0.2, "-mime": "html", "-loc": station, "-from": "deepstreaks" }];
    }
    return Object.entries(to).map(([name, [url, query]]) => make("a", { href: `${url}?${new URLSearchParams(query)}`, target: "_blank", rel: "noopener noreferrer" }, name));
  };
  const table = (pairs) => make("div", { class: "scroll" }, make("table", { class: "left" }, make("tbody", {}, ...pairs.map(([name, what]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, what))))));
  const said = (name, what) => {
    if (name === "night") return date(what);
    if (name === "jd") return what.toFixed(6);
    return String(typeof what === "number" ? Number(what.toPrecision(8)) : what);
  };
  const picture = (id, members) => {
    if (explained.id !== id) explained = { id, member: "", words: "" };
    const { member, words } = explained;
    const asked = make("select", { id: "explain" }, make("option", { value: "" }, "the cutout as it is"), ...members.map((name) => make("option", { value: name, selected: name === member }, `what ${name} reacted to`)));
    asked.addEventListener("change", () => explain(id, asked.value));
    const source = explained.source ?? `/api/v1/cutout?id=${encodeURIComponent(id)}`;
    return [make("img", { id: "large", src: source, alt: `Cutout ${id}`, width: 432, height: 432 }), make("label", { class: "field" }, "Show ", asked), make("p", { id: "explained", class: "soft small", role: "status" }, words)];
  };
  const explain = async (id, member) => {
    const said = (words, source) => {
      if (explained.id !== id || explained.member !== member) return; // something else is looked at by now
      explained = { id, member, words, source };
      get("explained").textContent = words;
      get("large").src = source ?? `/api/v1/cutout?id=${encodeURIComponent(id)}`;
    };
    explained = { id, member };
    said(member ? `Asking ${member}. That takes some seconds.` : "");
    if (!member) return;
    const source = `/explanation?${new URLSearchParams({ id, member })}`;
    try {
      const [logit, sky] = (await ask(source, { raw: true })).headers.get("X-Logits").split(", ");
      said(`${get("main").dataset.explained} Logit ${Number(logit).toFixed(1)}, of an empty sky ${Number(sky).toFixed(1)}.`, `/api/v1${source}`);
    } catch (error) { said(error.message); }
  };
  const paint = () => {
    const { streak, scores, thresholds, ades, along, mine, others, people } = detail;
    const place = get("detail");
    const typing = document.activeElement?.id === "note" ? document.activeElement.value : null;
    place.setAttribute("aria-busy", "false");
    const pressed = (name, what) => make("button", { type: "button", "aria-pressed": mine?.[what] === name, onclick: () => judge(streak.id, { [what]: mine?.[what] === name ? "" : name }) }, name, make("kbd", {}, keyOf(name)));
    const facts = Object.entries(streak).filter(([name, what]) => what !== null && what !== "" && !(name in scores) && !(name in detail.families) && !(name.startsWith(vocabulary.label_prefix) && what === -1));
    const note = make("textarea", { id: "note", maxlength: get("main").dataset.note, "aria-label": "Note", placeholder: "A note" });
    note.value = typing ?? mine?.note ?? "";
    note.addEventListener("change", () => judge(streak.id, { note: note.value }));
    place.replaceChildren(
      make("div", { class: "row" }, make("h2", { id: "detail-name" }, streak.id), make("button", { type: "button", onclick: () => choose(chosen - 1, false), "aria-label": "Previous" }, "←"), make("button", { type: "button", onclick: () => choose(chosen + 1, false), "aria-label": "Next" }, "→"), make("button", { type: "button", onclick: close, "aria-label": "Close" }, "✕")),
      ...picture(streak.id, Object.keys(scores)),
      ...(may ? [
        make("div", { class: "verdicts", role: "group", "aria-label": "Verdict" }, ...verdicts.map((name) => pressed(name, "verdict")), ...lengths.map((name) => pressed(name, "length"))),
        make("div", { class: "verdicts" }, make("button", { type: "button", "aria-pressed": Boolean(mine?.marked), onclick: () => judge(streak.id, { marked: !mine?.marked }) }, "mark for submission", make("kbd", {}, "m")), make("button", { type: "button", onclick: undo }, "undo", make("kbd", {}, "z"))),
        make("h3", {}, "Note"), note] : [make("p", { class: "soft small" }, "A viewer looks; a reviewer judges.")]),
      make("h3", {}, "What others say"),
      others.length ? table(others.map((said) => [said.who, [said.verdict || "no verdict", said.length, said.marked ? "marked" : "", said.note && `“${said.note}”`].filter(Boolean).join(", ")]))
        : make("p", { class: "soft small" }, people - (mine ? 1 : 0) > 0 ? "Somebody has judged this. You see what they say once you have given your verdict." : "Nobody else has judged this yet."),
      make("h3", {}, "Scores"),
      ...Object.entries(scores).map(([name, score]) => make("div", { class: "meter" }, make("span", {}, name), (() => {
        const track = make("span", { class: "track" }, make("span", { class: `fill${score >= thresholds[name] ? " pass" : ""}` }), make("span", { class: "limit" }));
        track.children[0].style.width = `${(score ?? 0) * 100}%`;
        track.children[1].style.left = `${thresholds[name] * 100}%`;
        return track;
      })(), make("span", {}, value(score, 4)))),
      make("p", { class: "soft small" }, detail.networks.join(", ")),
      make("h3", {}, "Sky"),
      streak.ra === null ? make("p", { class: "soft small" }, "The position is not known.") : make("p", { class: "number" }, `${sexagesimal(streak.ra, true)}  ${sexagesimal(streak.dec, false).replace("-", "−")}  (J2000)`),
      make("p", { class: "links small" }, ...links(streak, ades?.stn ?? "500")),
      ...(streak.ra === null ? [] : [make("p", { class: "soft small" }, streak.jd === null ? "Without a time, nothing that moves can be looked up." : "The links carry the position, and those of the Minor Planet Center and SkyBoT the time. They lead to other sites, which may change their forms: where one opens empty, type what is above.")]),
      make("h3", {}, "Along its motion, the same night"),
      along.length ? table(along.map((one) => [make("button", { type: "button", class: "link", onclick: () => { const k = rows.findIndex((row) => row.id === one.id); if (k >= 0) choose(k); else open(one.id); } }, one.id), `${one.minutes > 0 ? "+" : "−"}${Math.abs(one.minutes).toFixed(1)} min, ${one.arcsec}″ off`])) : make("p", { class: "soft small" }, "No other detection fits a straight way at a steady pace."),
      make("h3", {}, "Streak"), table(facts.map(([name, what]) => [name, said(name, what)])),
      make("h3", {}, "ADES"), ades ? table(Object.entries(ades)) : make("p", { class: "soft small" }, `No record: ${detail.no_ades ?? "not known why"}.`),
    );
    if (typing !== null) note.focus();
  };

  // Progress

  let counted = 0;
  const progress = async () => {
    const number = ++counted;
    try {
      const answer = await ask("/nights");
      if (number !== counted) return; // asked again meanwhile
      nights = answer;
    } catch (error) { show(error); return; }
    const select = get("night");
    const before = select.options.length > 1 || select.value === "*" ? select.value : null;
    select.replaceChildren(make("option", { value: "*" }, "all nights"), ...nights.map((one) => make("option", { value: one.night }, `${date(one.night)} (${count(one.mine)} of ${count(one.candidates)})`)));
    select.value = before ?? (nights.find((one) => one.candidates > one.mine) ?? nights[0])?.night ?? "*";
    const some = nights.filter((one) => select.value === "*" || String(one.night) === select.value);
    const sum = (key) => some.reduce((all, one) => all + one[key], 0);
    get("progress").max = Math.max(1, sum("candidates"));
    get("progress").value = sum("mine");
    get("progress-words").textContent = sum("candidates") ? `${may ? `You judged ${count(sum("mine"))} of ` : ""}${count(sum("candidates"))} candidates${may ? "" : " there are"}; somebody judged ${count(sum("anybody"))}` : "No candidates in this night";
  };

  // Controls

  const again = () => { load(); };
  get("night").addEventListener("change", () => { progress(); again(); });
  get("sort").addEventListener("change", () => {
    if (usual) turn(get("sort").value !== "margin");
    again();
  });
  get("more").addEventListener("click", () => load(rows.length));
  const turn = (falling) => {
    descending = falling;
    get("direction").textContent = descending ? "↓ falling" : "↑ rising";
    get("direction").setAttribute("aria-pressed", descending);
  };
  get("direction").addEventListener("click", () => { turn(!descending); again(); });
  for (const id of ["todo", "disputed"]) {
    get(id).addEventListener("click", (event) => {
      event.currentTarget.setAttribute("aria-pressed", event.currentTarget.getAttribute("aria-pressed") !== "true");
      again();
    });
  }
  const line = (by) => { // the queue, in this order; null shows again what was there before
    const now = { night: get("night").value, where: get("where").value, sort: get("sort").value, descending };
    const shown = by ? { night: "*", where: "", sort: by, descending: by !== "margin" } : usual;
    usual = by ? now : null;
    for (const id of ["night", "where", "sort"]) get(id).value = shown[id];
    turn(shown.descending);
    get("queue").setAttribute("aria-pressed", Boolean(by));
    get("queue-words").hidden = !by;
  };
  get("queue").addEventListener("click", () => { line(usual ? null : "entropy"); progress(); again(); });
  get("export")?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const format = get("format").value;
    const words = get("export-words");
    words.textContent = "Writing";
    try {
      const answer = await ask(`/export?${new URLSearchParams({ format, submitter: get("submitter").value })}`, { raw: true });
      const url = URL.createObjectURL(await answer.blob());
      make("a", { href: url, download: `marked.${format}` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
      const left = Number(answer.headers.get("X-Left-Out"));
      words.textContent = `${count(answer.headers.get("X-Written"))} written${left ? `, ${count(left)} left out: no time, no position, or simulated` : ""}.`;
    } catch (error) { words.textContent = error.message; }
  });

  // The filter and how it could go on

  const field = get("where");
  const list = get("completions");
  let offered = [];
  let at = -1;
  const hide = () => { list.hidden = true; field.setAttribute("aria-expanded", "false"); field.removeAttribute("aria-activedescendant"); offered = []; at = -1; };
  const mark = () => {
    [...list.children].forEach((item, k) => item.setAttribute("aria-selected", k === at));
    if (at >= 0) { field.setAttribute("aria-activedescendant", `completion-${at}`); list.children[at].scrollIntoView({ block: "nearest" }); } else field.removeAttribute("aria-activedescendant");
  };
  const take = (k) => {
    const one = offered[k];
    const after = field.value.slice(field.selectionStart);
    const before = `${field.value.slice(0, one.start)}${one.text} `;
    field.value = before + after.trimStart();
    field.setSelectionRange(before.length, before.length);
    hide();
  };
  let typed = 0;
  const suggest = async () => {
    const number = ++typed;
    const position = field.selectionStart;
    const found = await ask(`/completions?${new URLSearchParams({ text: field.value, position })}`).catch(() => []);
    if (number !== typed || document.activeElement !== field) return;
    const before = offered[at]?.text;
    offered = found.slice(0, 12);
    at = before === undefined ? -1 : offered.findIndex((one) => one.text === before);
    list.replaceChildren(...offered.map((one, k) => make("li", { role: "option", id: `completion-${k}`, "aria-selected": "false", onpointerdown: (event) => { event.preventDefault(); take(k); } }, one.text, make("span", {}, one.what))));
    list.hidden = !offered.length;
    mark();
    field.setAttribute("aria-expanded", !list.hidden);
  };
  field.addEventListener("input", () => { wrong(null); suggest(); });
  field.addEventListener("blur", () => { typed += 1; hide(); });
  field.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) suggest(); else { at = (at + (event.key === "ArrowDown" ? 1 : -1) + offered.length) % offered.length; mark(); }
    } else if (event.key === "Tab" && !list.hidden && at >= 0) {
      event.preventDefault();
      take(at);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (at >= 0 && !list.hidden) take(at); else { typed += 1; hide(); again(); }
    } else if (event.key === "Escape") { hide(); field.blur(); element(chosen)?.focus(); }
  });
  field.addEventListener("change", again);

  // Keys

  document.addEventListener("keydown", async (event) => {
    if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) {
      if (event.key === "Escape" && event.target.id === "note") event.target.blur();
      return;
    }
    if (opening) { event.preventDefault(); return; } // a note's first letters are no verdicts
    const wide = () => getComputedStyle(get("gallery")).gridTemplateColumns.split(" ").length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -wide(), ArrowDown: wide(), Home: -1e9, End: 1e9 }[event.key];
    const here = detail?.streak.id ?? rows[chosen]?.id;
    if (step !== undefined) { event.preventDefault(); choose(chosen + step); }
    else if (event.key === "Enter" && event.target.matches(".thumb, body, main")) { event.preventDefault(); if (rows[chosen]) open(rows[chosen].id); }
    else if (event.key === "Escape") close();
    else if (event.key === "/") { event.preventDefault(); field.focus(); field.select(); }
    else if (!may || event.repeat) return;
    else if (event.key === "z") undo();
    else if (!here) return;
    else if (event.key === "m") judge(here, () => ({ marked: !(rows.find((one) => one.id === here)?.mine ?? detail?.mine)?.marked }));
    else if (event.key === "n") {
      event.preventDefault();
      if (detail?.streak.id !== here) { opening = true; await open(here); opening = false; }
      if (detail?.streak.id === here) get("note")?.focus();
    }
    else if (KEYS[event.key]) {
      const change = KEYS[event.key];
      const moves = "verdict" in change && rows[chosen]?.id === here;
      const from = chosen;
      if (moves && chosen < rows.length - 1) choose(chosen + 1); // at once: the answer may take a while
      if (!(await judge(here, change)) && moves) choose(from);
    }
  });
  progress().then(() => {
    const asked = new URLSearchParams(location.search).get("queue");
    if (QUEUES.includes(asked)) line(asked);
    load();
  });
})();
