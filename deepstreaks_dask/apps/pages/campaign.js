addEventListener("DOMContentLoaded", () => {
  const { send, on, make, count } = window.deepstreaks;
  const $ = (id) => document.getElementById(id);
  const table = (heads, rows, none) => (rows.length ? make("table", { class: "left" },
    ...(heads ? [make("tr", {}, ...heads.map((h) => make("th", { scope: "col" }, h)))] : []),
    ...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, String(cell)))))) : make("p", { class: "soft" }, none));
  on("standing", ({ status, share, tiles, cells, failures, failed, members, facts, command }) => {
    $("status").textContent = status;
    $("share").value = share;
    $("tiles").replaceChildren(...tiles.map((t) => make("section", { class: "card tile" }, make("h3", {}, t.title), make("div", { class: "value" }, t.value), make("p", {}, t.note))));
    $("cells").replaceChildren(...cells.map((c) => {
      const shards = c.first === c.last ? `shard ${c.first}` : `shards ${c.first} to ${c.last}`;
      const cell = make("i", { class: c.failed ? "failed" : "", title: `${shards}: ${Math.round(100 * c.done)} % done${c.failed ? `, ${c.failed} failed` : ""}` });
      if (!c.failed) cell.style.background = `color-mix(in srgb, var(--green) ${100 * c.done}%, var(--shade))`;
      return cell;
    }));
    $("cells").setAttribute("aria-label", `${Math.round(100 * share)} % of the shards are done, ${failed} failed`);
    $("failures").replaceChildren(table(["first row", "last row", "why"], failures.map(([a, b, why]) => [count(a), count(b - 1), why]), "No shard failed."));
    $("members").replaceChildren(table(["name", "version", "family", "SHA-256 of the weights"], members, "None."));
    $("facts").replaceChildren(table(null, facts, "None."));
    $("command").textContent = command;
  });
  on("quarantine", ({ reasons, total, rows }) => {
    const words = Object.entries(reasons).map(([reason, n]) => `${count(n)} ${reason}`).join(", ");
    $("quarantine").replaceChildren(
      ...(total ? [make("p", { class: "soft small" }, `${count(total)} input${total === 1 ? "" : "s"} could not become a cutout: ${words}.${total > rows.length ? ` The first ${rows.length}:` : ""}`)] : []),
      table(["source", "night", "reason", "detail"], rows, "Every input became a cutout."));
  });
  $("run")?.addEventListener("change", (event) => { location.search = new URLSearchParams({ run: event.target.value }); });
  $("repeat")?.addEventListener("change", (event) => send({ do: "repeat", on: event.target.checked }));
  $("copy")?.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText($("command").textContent);
      $("copy-words").textContent = "Copied. Paste it into a terminal.";
    } catch {
      getSelection().selectAllChildren($("command"));
      $("copy-words").textContent = "The browser does not let this page copy: it is selected, copy it with Ctrl+C.";
    }
  });
});
