"use strict";
// The page's side of apps/bridge.py. Messages out have a `do`, updates in have a `what`; the models of both are in
// apps/messages.py, apps/campaign/messages.py, apps/explore/messages.py, updates.py and sequence_messages.py.
window.deepstreaks = (() => {
  const handlers = {};
  let model = null;
  const waiting = [];
  const send = (message) => (model ? model.send_msg(message) : waiting.push(message));
  const receive = (message) => handlers[message.what]?.(message);
  const dark = () => document.documentElement.dataset.theme === "dark";
  const setTheme = (theme) => {
    document.documentElement.dataset.theme = theme;
    document.cookie = `deepstreaks_theme=${theme}; path=/; max-age=31536000; SameSite=Strict`;
    const words = document.querySelector("#theme span");
    if (words) words.textContent = theme === "dark" ? "Light" : "Dark";
  };
  const kept = document.cookie.match(/deepstreaks_theme=(dark|light)/)?.[1];
  setTheme(kept ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  addEventListener("DOMContentLoaded", () => {
    setTheme(document.documentElement.dataset.theme);
    document.getElementById("theme").addEventListener("click", () => {
      setTheme(dark() ? "light" : "dark");
      send({ do: "theme", dark: dark() });
    });
    document.getElementById("problem").addEventListener("click", (event) => {
      event.currentTarget.hidden = true;
    });
  });
  handlers.error = ({ words }) => {
    const place = document.getElementById("problem");
    place.textContent = words;
    place.hidden = false;
    place.scrollIntoView({ block: "nearest" });
  };
  return {
    send,
    on: (what, handler) => { handlers[what] = handler; },
    connect: (connected) => {
      model = connected;
      model.on("msg:custom", receive);
      model.send_msg({ do: "hello", dark: dark() });
      waiting.splice(0).forEach((message) => model.send_msg(message));
    },
    // make("td", {class: "x"}, "words", child): elements without HTML in strings
    make: (tag, attributes = {}, ...children) => {
      const element = document.createElement(tag);
      for (const [name, value] of Object.entries(attributes)) {
        if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
        else if (typeof value === "boolean") element.toggleAttribute(name, value);
        else element.setAttribute(name, value);
      }
      element.append(...children);
      return element;
    },
    count: (number) => Number(number).toLocaleString("en"),
    clearProblem: () => { document.getElementById("problem").hidden = true; },
  };
})();
addEventListener("DOMContentLoaded", () => {
  for (const list of document.querySelectorAll("[role=tablist]")) {
    const tabs = [...list.querySelectorAll("[role=tab]")];
    const choose = (tab, focus) => {
      for (const other of tabs) {
        other.setAttribute("aria-selected", other === tab);
        other.tabIndex = other === tab ? 0 : -1;
        document.getElementById(other.getAttribute("aria-controls")).hidden = other !== tab;
      }
      if (focus) tab.focus();
      dispatchEvent(new Event("resize"));
      window.deepstreaks.send({ do: "tab", name: tab.dataset.name });
    };
    list.addEventListener("click", (event) => {
      const tab = event.target.closest("[role=tab]");
      if (tab) choose(tab, false);
    });
    list.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const at = tabs.indexOf(document.activeElement);
      if (step && at >= 0) choose(tabs.at((at + step) % tabs.length), true);
    });
  }
});
