"use strict";
(() => {
  const { ask, make, show, time, vocabulary, role } = site;
  const get = (id) => document.getElementById(id);
  const rows = (id, columns, lines, none) => get(id).replaceChildren(...(lines.length ? lines : [make("tr", {}, make("td", { colspan: columns, class: "soft" }, none))]));
  const cells = (...words) => words.map((one) => make("td", {}, one));
  const button = (words, label, onclick) => make("td", {}, make("button", { type: "button", "aria-label": label, onclick }, words));

  const list = async () => {
    const tokens = await ask("/tokens");
    rows("tokens", 6, tokens.map((one) => make("tr", {}, ...cells(one.name, one.scope, time(one.created), time(one.expires), time(one.used) || "never"), button("Revoke", `Revoke ${one.name}`, () => ask(`/tokens/${one.id}`, { method: "DELETE" }).then(list).catch(show)))), "You have no tokens.");
  };
  const order = vocabulary.roles.map((one) => one.name);
  const scopes = vocabulary.scopes.filter((one) => order.indexOf(one.role) <= order.indexOf(role.name));
  get("new-token").elements.scope.replaceChildren(...scopes.map((one) => make("option", {}, one.name)));
  get("new-token").addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = event.target, { label, scope, days } = form.elements;
    try {
      const { token } = await ask("/tokens", { method: "POST", body: { name: label.value, scope: scope.value, days: Number(days.value) } });
      get("made").replaceChildren("It is shown this once: ", make("code", {}, token), " ", make("button", { type: "button", onclick: () => navigator.clipboard?.writeText(token) }, "Copy"));
      form.reset();
      await list();
    } catch (error) { show(error); }
  });

  const browser = (agent) => agent.match(/(Firefox|Edg|OPR|Chrome|Safari)\/\d+/)?.[0].replace("/", " ").replace("Edg ", "Edge ").replace("OPR ", "Opera ") ?? (agent.slice(0, 40) || "not known");
  const sessions = async () => {
    const open = await ask("/sessions");
    rows("sessions", 5, open.map((one) => make("tr", {}, make("td", { title: one.agent }, browser(one.agent), one.this ? make("span", { class: "soft small" }, " this one") : ""), ...cells(one.address, time(one.opened), time(one.used)), one.this ? make("td", {}) : button("End", `End the session from ${one.address}`, () => ask(`/sessions/${one.id}`, { method: "DELETE" }).then(sessions).catch(show)))), "");
  };

  const factor = async () => {
    const state = await ask("/second-factor");
    get("factor-state").textContent = state.on
      ? `They are on. ${state.recovery_codes} recovery codes are left.`
      : `They are off. A code of your phone beside the password keeps others out who have the password.${state.required ? " Administrators of this site need them." : ""}`;
    get("factor-begin").hidden = state.on;
    get("factor-remove").hidden = !state.on;
    get("factor-new").hidden = true;
  };
  const trying = (work) => async (event) => {
    event.preventDefault();
    get("factor-words").textContent = "";
    try { await work(event.target); } catch (error) { get("factor-words").textContent = error.message; }
  };
  get("factor-begin").addEventListener("click", trying(async () => {
    const begun = await ask("/second-factor", { method: "POST" });
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", begun.path);
    get("factor-code").setAttribute("viewBox", `0 0 ${begun.modules} ${begun.modules}`);
    get("factor-code").replaceChildren(path);
    get("factor-secret").textContent = begun.secret.replace(/(.{4})/g, "$1 ").trim();
    get("factor-new").hidden = false;
    get("factor-begin").hidden = true;
    get("factor-confirm").elements.code.focus();
  }));
  get("factor-confirm").addEventListener("submit", trying(async (form) => {
    const { codes } = await ask("/second-factor/confirm", { method: "POST", body: { code: form.elements.code.value } });
    form.reset();
    get("factor-codes").replaceChildren(...codes.map((one) => make("li", {}, make("code", {}, one))));
    get("factor-recovery").hidden = false;
    await factor();
  }));
  get("factor-remove").addEventListener("submit", trying(async (form) => {
    await ask("/second-factor/remove", { method: "POST", body: { code: form.elements.code.value } });
    form.reset();
    get("factor-recovery").hidden = true;
    await factor();
  }));

  get("password").addEventListener("submit", async (event) => {
    event.preventDefault();
    const words = get("password-words");
    words.textContent = "";
    try {
      await ask("/password", { method: "POST", body: { old: event.target.elements.old.value, new: event.target.elements.new.value } });
      location.assign("/login");
    } catch (error) { words.textContent = error.message; }
  });
  for (const load of [list, sessions, factor]) load().catch(show);
})();
