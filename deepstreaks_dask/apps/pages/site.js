"use strict";
// What all pages of the review share: theme, asking the API, making elements.
window.site = (() => {
  const me = document.body.dataset;
  const vocabulary = JSON.parse(document.getElementById("vocabulary").textContent); // as /api/v1/vocabulary gives it
  const role = vocabulary.roles.find((one) => one.name === me.role);
  const dark = () => document.documentElement.dataset.theme === "dark";
  const setTheme = (theme) => {
    document.documentElement.dataset.theme = theme;
    document.cookie = `deepstreaks_theme=${theme}; path=/; max-age=31536000; SameSite=Strict`;
    document.querySelector("#theme span").textContent = theme === "dark" ? "Light" : "Dark";
  };
  const kept = document.cookie.match(/deepstreaks_theme=(dark|light)/)?.[1];
  setTheme(kept ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => setTheme(dark() ? "light" : "dark"));
  const problem = document.getElementById("problem");
  problem.addEventListener("click", () => { problem.hidden = true; });

  // ask("/verdicts", {method: "POST", body: {...}}): the answer as JSON; an Error with status, start and end
  const ask = async (path, { method = "GET", body, raw = false } = {}) => {
    const headers = { "X-CSRF-Token": me.csrf };
    if (body) headers["Content-Type"] = "application/json";
    let answer;
    try {
      answer = await fetch(`/api/v1${path}`, { method, headers, body: body && JSON.stringify(body) });
    } catch {
      throw new Error("The server does not answer. Is it running?");
    }
    if (!answer.ok) {
      if (answer.status === 401 && me.name) {
        location.assign("/login");
        return new Promise(() => {});
      }
      const said = await answer.json().catch(() => ({}));
      const detail = Array.isArray(said.detail) ? said.detail.map((one) => `${one.loc?.at(-1) ?? ""}: ${one.msg}`).join("; ") : said.detail;
      throw Object.assign(new Error(detail ?? `That failed on the server's side (${answer.status}).`), { status: answer.status, start: said.start, end: said.end, codeNeeded: said.code_needed });
    }
    if (raw) return answer;
    return answer.status === 204 ? null : answer.json();
  };
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (typeof value === "boolean" && !name.startsWith("aria-")) element.toggleAttribute(name, value);
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  const show = (error) => {
    problem.textContent = error.message;
    problem.hidden = false;
    problem.scrollIntoView({ block: "nearest" });
  };
  document.getElementById("logout")?.addEventListener("click", async () => {
    await ask("/logout", { method: "POST" }).catch(show);
    location.assign("/login");
  });
  const date = (night) => (night ? String(night).replace(/^(\d{4})(\d\d)(\d\d)$/, "$1-$2-$3") : "not known");
  const time = (iso) => (iso ? iso.replace("T", " ").replace(/\+00:00$/, " UTC") : "");
  return { me, role, vocabulary, ask, make, show, date, time, clear: () => { problem.hidden = true; }, count: (n) => Number(n).toLocaleString("en") };
})();
