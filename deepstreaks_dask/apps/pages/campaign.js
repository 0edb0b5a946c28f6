addEventListener("DOMContentLoaded", () => {
  const { send, on, make, count } = window.deepstreaks;
  const $ = (id) => document.getElementById(id);
  const table = (heads, rows, none) => (rows.length ? make("table", { class: "left" },
    ...(heads ? [make("tr", {}, ...heads.map((h) => make("th", { scope: "col" }, h)))] : []),
    ...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, String(cell)))))) : make("p", { class: "soft" }, none));
  on("standing", ({ share, tiles, cells, failures, failed, members, facts, command }) => {
    $("share").value = share;
    $("tiles").replaceChildren(...tiles.map((t) => make("section", { class: "card tile" }, make("h3", {}, t.title), make("div", { class: "value" }, t.value), make("p", {}, t.note))));
    $("cells").replaceChildren(...cells.map((c) => {
      const shards = c.first === c.last ? `shard ${c.first}` : `shards ${c.first} to ${c.last}`;
      const cell = make("i", { class: c.failed ? "failed" : "", title: `${shards}: ${Math.round(100 * c.done)} % done${c.failed ? `, ${c.failed} failed` : ""}` });
      if (!c.failed) cell.style.background = `color-mix(in srgb, var(--green) ${100 * c.done}%, var(--shade))`;
      return cell;
    }));
    $("cells").setAttribute("aria-label", `${Math.round(100 * share)} % of the shards are done, ${failed} failed`);
    $("failures").replaceChildren(table(["first row", "last row", "reason"], failures.map(([a, b, why]) => [count(a), count(b - 1), why]), "No shard failed."));
    $("members").replaceChildren(table(["name", "version", "family", "SHA-256 of the weights"], members, "None."));
    $("facts").replaceChildren(table(null, facts, "None."));
    $("command").textContent = command;
  });
  // The campaign's state, and the buttons that it allows

  let who = null; // name, role and csrf, if there is an API and a session
  let vocabulary = null; // the API's roles and states
  let now = null;
  const may = () => Boolean(vocabulary?.roles.find((role) => role.name === who?.role)?.may_administer);
  const here = $("main").dataset;
  const ask = async (path, body) => {
    const headers = { "X-CSRF-Token": who?.csrf ?? "", ...(body && { "Content-Type": "application/json" }) };
    const answer = await fetch(`/api/v1${path}`, { method: body === undefined ? "GET" : "POST", headers, body: body && JSON.stringify(body) }).catch(() => { throw new Error("The server does not answer. Is it running?"); });
    const said = await answer.json().catch(() => ({}));
    if (answer.ok) return said;
    const detail = Array.isArray(said.detail) ? said.detail.map((one) => `${one.loc?.at(-1) ?? ""}: ${one.msg}`).join("; ") : said.detail;
    throw new Error(answer.status === 401 ? "You are signed out: reload this page." : detail ?? `The server failed (${answer.status}). Its log says why.`);
  };
  const doing = async (words, work) => {
    const place = $("control-words") ?? $("begin-words");
    const buttons = document.querySelectorAll("#control button, #begin button");
    buttons.forEach((button) => { button.disabled = true; });
    place.textContent = words;
    try { await work(); } catch (error) { place.textContent = ""; window.deepstreaks.clearProblem(); $("problem").textContent = error.message; $("problem").hidden = false; $("problem").scrollIntoView({ block: "nearest" }); }
    buttons.forEach((button) => { button.disabled = false; });
  };
  const buttons = () => {
    if (!$("control") || !now) return;
    const state = vocabulary?.campaign_states.find((one) => one.name === now.state);
    const mayPause = may() && now.mine && state.may_pause;
    const mayResume = may() && state.may_resume;
    $("pause").hidden = !mayPause;
    $("resume").hidden = !mayResume;
    $("control").hidden = !mayPause && !mayResume;
  };
  on("campaign", (told) => {
    if (now && now.state !== told.state && $("control-words")) $("control-words").textContent = "";
    now = told;
    if (!$("status")) return;
    $("status").textContent = told.state;
    $("words").textContent = told.words;
    $("last").hidden = !told.last;
    $("last").textContent = told.last && `Error: ${told.last}`;
    const local = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
    $("dask").hidden = !told.workers;
    $("dask").replaceChildren(`${count(told.workers ?? 0)} worker${told.workers === 1 ? "" : "s"}, ${count(told.threads ?? 0)} threads. `, ...(!told.dashboard ? [] : local || !/^https?:\/\/(localhost|127\.|\[::1\])/.test(told.dashboard)
      ? [make("a", { href: told.dashboard, target: "_blank", rel: "noopener noreferrer" }, "Dask's own dashboard"), ` on ${told.host}`]
      : [`Dask's own dashboard has no password and therefore listens only on ${told.host} itself: ${told.dashboard}`]));
    buttons();
  });
  const begin = async () => {
    if (here.control !== "yes") return;
    try { [who, vocabulary] = await Promise.all([ask("/session"), ask("/vocabulary")]); } catch (error) { $("begin-words").textContent = error.message; return; }
    $("begin").hidden = !may();
    $("begin-words").textContent = may() ? "The campaign continues when this page is closed, and when the server stops." : "Only an administrator can start, pause and resume campaigns.";
    if (who.name !== "you") {
      $("nav").hidden = false;
      $("nav").replaceChildren(make("a", { href: "/review" }, "Review"), make("a", { href: "/explore" }, "Explore"), make("a", { href: "/account" }, "Account"));
    }
    buttons();
  };
  begin();
  $("begin")?.addEventListener("submit", (event) => {
    event.preventDefault();
    const { run, families, workers } = event.target.elements;
    doing("Starting", async () => {
      const body = { run: run.value, families: families.value.split(",").map((name) => name.trim()), workers: Number(workers.value) };
      await ask("/campaigns", body);
      location.search = new URLSearchParams({ run: run.value });
    });
  });
  $("resume")?.addEventListener("click", () => doing("Resuming", () => ask("/campaigns", { run: here.run })));
  $("pause")?.addEventListener("click", () => doing("Pausing", () => ask(`/campaigns/${encodeURIComponent(here.run)}/pause`, {})));
  on("all", ({ rows }) => {
    const line = ([run, ...rest]) => make("tr", {}, make("th", { scope: "row" }, make("a", { href: `?${new URLSearchParams({ run })}`, ...(run === here.run && { "aria-current": "page" }) }, run)), ...rest.map((cell) => make("td", {}, cell)));
    $("all").replaceChildren(rows.length ? make("table", { class: "left" }, make("thead", {}, make("tr", {}, ...["run", "state", "scored", "started", "last update", "networks"].map((h) => make("th", { scope: "col" }, h)))), make("tbody", {}, ...rows.map(line))) : make("p", { class: "soft" }, "None yet."));
  });
  on("quarantine", ({ reasons, total, rows }) => {
    const words = Object.entries(reasons).map(([reason, n]) => `${count(n)} ${reason}`).join(", ");
    $("quarantine").replaceChildren(
      ...(total ? [make("p", { class: "soft small" }, `${count(total)} input${total === 1 ? "" : "s"} were refused: ${words}.${total > rows.length ? ` The first ${rows.length}:` : ""}`)] : []),
      table(["source", "night", "reason", "detail"], rows, "No input was refused."));
  });
  $("run")?.addEventListener("change", (event) => { location.search = new URLSearchParams({ run: event.target.value }); });
  $("repeat")?.addEventListener("change", (event) => send({ do: "repeat", on: event.target.checked }));
  $("copy")?.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText($("command").textContent);
      $("copy-words").textContent = "Copied. Paste it into a terminal.";
    } catch {
      getSelection().selectAllChildren($("command"));
      $("copy-words").textContent = "The browser does not allow this page to copy. The command is selected: press Ctrl+C.";
    }
  });
});
