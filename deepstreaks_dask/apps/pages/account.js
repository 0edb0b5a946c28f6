"use strict";
(() => {
  const { ask, make, show, time } = site;
  const list = async () => {
    const tokens = await ask("/tokens");
    document.getElementById("tokens").replaceChildren(...(tokens.length ? tokens.map((one) => make("tr", {}, make("td", {}, one.name), make("td", {}, time(one.created)), make("td", {}, make("button", { type: "button", "aria-label": `Revoke ${one.name}`, onclick: () => ask(`/tokens/${one.id}`, { method: "DELETE" }).then(list).catch(show) }, "Revoke")))) : [make("tr", {}, make("td", { colspan: 3, class: "soft" }, "You have no tokens."))]));
  };
  document.getElementById("new-token").addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = event.target;
    try {
      const { token } = await ask("/tokens", { method: "POST", body: { name: form.label.value } });
      document.getElementById("made").replaceChildren("It is shown this once: ", make("code", {}, token), " ", make("button", { type: "button", onclick: () => navigator.clipboard?.writeText(token) }, "Copy"));
      form.reset();
      await list();
    } catch (error) { show(error); }
  });
  document.getElementById("password").addEventListener("submit", async (event) => {
    event.preventDefault();
    const words = document.getElementById("password-words");
    words.textContent = "";
    try {
      await ask("/password", { method: "POST", body: { old: event.target.elements.old.value, new: event.target.elements.new.value } });
      location.assign("/login");
    } catch (error) { words.textContent = error.message; }
  });
  list().catch(show);
})();
