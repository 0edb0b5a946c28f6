addEventListener("DOMContentLoaded", () => {
  const { send, on, make, count, clearProblem } = window.deepstreaks;
  const $ = (id) => document.getElementById(id);
  const digits = (value, n) => (value === null ? "none" : value.toFixed(n));
  const options = (select, pairs) => {
    select.replaceChildren(...pairs.map(([value, words]) => make("option", { value }, words)));
  };
  let listed = [], shown = null, epoch = 0, timer = null;

  $("run").addEventListener("change", (event) => {
    const address = new URL(location.href);
    address.searchParams.set("run", event.target.value);
    location.assign(address);
  });

  on("ready", ({ members, classes }) => {
    options($("member"), members.map((name) => [name, name]));
    const any = [["*", "any"], ...classes.map((name) => [name, name])];
    options($("truth"), [...any, ["", "unknown"]]);
    options($("taken"), [...any, ["", "not scored"]]);
  });
  on("member", ({ name, tiles, classes }) => {
    $("member").value = name;
    $("tiles").replaceChildren(...tiles.map((tile) => make("div", { class: "card tile" },
      make("h3", {}, tile.title), make("div", { class: "value" }, tile.value), make("p", {}, tile.note))));
    const cells = (row) => [
      row.name, count(row.objects),
      row.recall === null ? "none" : `${digits(row.recall, 3)} [${digits(row.recall_low, 3)}, ${digits(row.recall_high, 3)}]`,
      row.f1 === null ? "none" : `${digits(row.f1, 3)} [${digits(row.f1_low, 3)}, ${digits(row.f1_high, 3)}]`,
    ];
    $("classes").replaceChildren(classes.length ? make("table", {},
      make("tr", {}, ...["class", "objects", "recall [95 %]", "F1 [95 %]"].map((words) => make("th", {}, words))),
      ...classes.map((row) => make("tr", {}, ...cells(row).map((cell) => make("td", {}, cell))))) : "No object has a class.");
  });
  $("member").addEventListener("change", (event) => {
    $("truth").value = $("taken").value = "*"; // now, since an answer would undo what is chosen meanwhile
    send({ do: "member", name: event.target.value });
  });
  for (const id of ["truth", "taken"]) {
    $(id).addEventListener("change", () => send({ do: "list", truth: $("truth").value, taken: $("taken").value }));
  }
  $("follow").addEventListener("click", () => {
    clearProblem();
    $("follow").disabled = true;
    $("follow-words").textContent = "Computing";
    $("follow-words").classList.add("busy");
    send({ do: "follow" });
  });
  on("followed", () => {
    $("follow").disabled = false;
    $("follow-words").classList.remove("busy");
    $("follow-words").textContent = "";
  });

  on("list", ({ objects, total }) => {
    listed = objects;
    $("list-words").textContent = total > objects.length ? `The ${count(objects.length)} objects with the highest scores, of ${count(total)}.` : `${count(total)} objects, highest score first.`;
    $("list").replaceChildren(...objects.map((one) => make("li", {}, make("button", {
      type: "button", "data-row": one.row, class: one.kind && one.taken && one.kind !== one.taken ? "wrong" : "right",
      onclick: () => choose(one.row),
    }, make("b", {}, one.id), make("span", {}, `${one.kind || "class unknown"} · ${one.taken ? `${one.taken} ${one.sure.toFixed(2)}` : "not scored"}`)))));
  });
  const choose = (row) => {
    clearProblem();
    send({ do: "object", row });
  };
  const step = (by) => {
    const at = listed.findIndex((one) => shown && one.row === shown.row);
    if (listed[at + by]) choose(listed[at + by].row);
  };
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));

  const picture = (element, k, size) => {
    element.style.backgroundImage = `url(data:image/png;base64,${shown.strip})`;
    element.style.backgroundSize = `${shown.epochs.length * size}px ${size}px`;
    element.style.backgroundPosition = `${-k * size}px 0`;
  };
  on("object", (message) => {
    stop();
    shown = { ...message, online: {} };
    for (const button of $("list").querySelectorAll("button")) button.setAttribute("aria-current", button.dataset.row === String(message.row));
    $("player").hidden = false;
    $("player-title").textContent = `${message.id}: ${message.kind || "class unknown"}`;
    $("epoch").max = message.epochs.length - 1;
    $("strip").replaceChildren(...message.epochs.map((_, k) => {
      const button = make("button", { type: "button", "aria-label": `Epoch ${k + 1}`, onclick: () => go(k) });
      picture(button, k, 42);
      return button;
    }));
    go(message.epochs.length - 1);
  });
  on("probabilities", ({ row, members }) => {
    if (shown?.row !== row) return;
    shown.online = members;
    go(epoch);
  });
  const bars = (member, values, words) => {
    const classes = [...$("truth").options].map((option) => option.value).filter((name) => name !== "*" && name !== "");
    return [make("h3", {}, `${member}${words}`), ...classes.map((name, k) => {
      const filled = make("b");
      filled.style.width = `${100 * (values[k] ?? 0)}%`;
      return make("div", { class: `bar ${name === shown.kind ? "truth" : ""}` }, make("span", {}, name), make("i", {}, filled), make("span", { class: "number" }, digits(values[k], 2)));
    })];
  };
  const go = (k) => {
    if (!shown) return;
    epoch = Math.max(0, Math.min(k, shown.epochs.length - 1));
    $("epoch").value = epoch;
    picture($("stamp"), epoch, 252);
    const now = shown.epochs[epoch];
    $("said").textContent = `Epoch ${epoch + 1} of ${shown.epochs.length}, MJD ${now.mjd.toFixed(3)}, ${now.band || "no filter"}: ` +
      (now.flux === null ? "no flux" : `flux ${now.flux.toPrecision(4)} ± ${now.error.toPrecision(2)}`) +
      (now.magnitude === null ? "" : `, ${now.magnitude.toFixed(2)} mag`);
    [...$("strip").children].forEach((button, at) => button.setAttribute("aria-current", at === epoch));
    const current = $("strip").children[epoch];
    $("strip").scrollTo({ left: current.offsetLeft - $("strip").offsetLeft - $("strip").clientWidth / 2 });
    $("bars").replaceChildren(...shown.scores.flatMap(({ member, values }) => {
      const online = shown.online[member];
      return online ? bars(member, online[epoch], ` after epoch ${epoch + 1}`) : bars(member, values, " after all epochs");
    }));
    send({ do: "at", epoch });
  };
  $("epoch").addEventListener("input", (event) => { stop(); go(Number(event.target.value)); });
  const stop = () => {
    clearInterval(timer);
    timer = null;
    $("play").textContent = "Play";
    $("play").setAttribute("aria-pressed", false);
  };
  $("play").addEventListener("click", () => {
    if (timer) { stop(); return; }
    $("play").textContent = "Pause";
    $("play").setAttribute("aria-pressed", true);
    if (epoch === shown.epochs.length - 1) go(0);
    timer = setInterval(() => (epoch < shown.epochs.length - 1 ? go(epoch + 1) : stop()), 350);
  });
});
