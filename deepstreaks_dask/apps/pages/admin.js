"use strict";
(() => {
  const { ask, make, show, time, clear, vocabulary } = site;
  const get = (id) => document.getElementById(id);
  const roles = vocabulary.roles.map((one) => one.name);
  const PAGE = 100;
  let shown = 0;
  const change = async (name, body, words) => {
    try {
      await ask(`/users/${encodeURIComponent(name)}`, { method: "PATCH", body });
      clear();
      get("user-words").textContent = words;
    } catch (error) { show(error); }
    await refresh().catch(show);
  };
  const line = (user) => {
    const role = make("select", { "aria-label": `Role of ${user.name}`, onchange: (event) => change(user.name, { role: event.target.value }, `${user.name} is a ${event.target.value} now.`) }, ...roles.map((one) => make("option", { selected: one === user.role }, one)));
    const form = make("form", { class: "row", onsubmit: (event) => { event.preventDefault(); change(user.name, { password: event.target.elements[0].value }, `${user.name} has a new password.`); } }, make("input", { type: "password", required: true, minlength: 12, maxlength: 256, autocomplete: "new-password", "aria-label": `New password of ${user.name}`, placeholder: "new password", size: 14 }), make("button", {}, "Set"));
    return make("tr", {}, make("th", { scope: "row" }, user.name), make("td", {}, role), make("td", {}, user.created.slice(0, 10)),
      make("td", {}, make("button", { type: "button", "aria-label": `${user.active ? "Disable" : "Enable"} ${user.name}`, onclick: () => change(user.name, { active: !user.active }, `${user.name} is ${user.active ? "disabled" : "enabled"}.`) }, user.active ? "Disable" : "Enable"), " ", make("span", { class: "soft small" }, user.active ? "active" : "disabled")),
      make("td", {}, user.second_factor ? make("button", { type: "button", "aria-label": `Remove the one-time passwords of ${user.name}`, onclick: () => change(user.name, { second_factor: false }, `${user.name} logs in with the password alone now.`) }, "Remove") : make("span", { class: "soft small" }, "off")),
      make("td", {}, form));
  };
  const tokens = async () => {
    const all = await ask("/all-tokens");
    const lines = all.map((one) => make("tr", {}, make("th", { scope: "row" }, one.user), ...[one.name, one.scope, time(one.expires), time(one.used) || "never"].map((words) => make("td", {}, words)), make("td", {}, make("button", { type: "button", "aria-label": `Revoke ${one.name} of ${one.user}`, onclick: () => ask(`/all-tokens/${one.id}`, { method: "DELETE" }).then(refresh).catch(show) }, "Revoke"))));
    get("all-tokens").replaceChildren(...(lines.length ? lines : [make("tr", {}, make("td", { colspan: 6, class: "soft" }, "There are no tokens."))]));
  };
  let asked = 0, listed = 0;
  const audit = async (offset) => {
    const number = ++asked;
    const log = await ask(`/audit?limit=${PAGE}&offset=${offset}`);
    if (number !== asked) return; // asked again meanwhile
    const lines = log.map((one) => make("tr", {}, ...[time(one.at), one.who, one.what, one.detail, one.address].map((words) => make("td", {}, words))));
    if (!offset) get("audit").replaceChildren();
    get("audit").append(...lines);
    shown = offset + log.length;
    get("older").hidden = log.length < PAGE;
  };
  const refresh = async () => {
    const number = ++listed;
    const users = await ask("/users");
    if (number !== listed) return;
    get("users").replaceChildren(...users.map(line));
    await tokens();
    await audit(0);
  };
  get("older").addEventListener("click", () => audit(shown).catch(show));
  get("new-user").addEventListener("submit", async (event) => {
    event.preventDefault();
    const { user, password, role } = event.target.elements;
    try {
      await ask("/users", { method: "POST", body: { name: user.value, password: password.value, role: role.value } });
      clear();
      get("user-words").textContent = `${user.value} was added.`;
      event.target.reset();
      await refresh();
    } catch (error) { show(error); }
  });
  refresh().catch(show);
})();
