"use strict";
document.getElementById("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const words = document.getElementById("login-words");
  const button = event.target.querySelector("button");
  words.textContent = "";
  button.disabled = true;
  try {
    await site.ask("/login", { method: "POST", body: { name: event.target.name.value, password: event.target.password.value, code: event.target.code.value } });
    location.assign("/review");
  } catch (error) {
    const field = document.getElementById("code-field");
    if (error.codeNeeded) {
      field.hidden = false;
      event.target.code.focus();
    } else {
      words.textContent = error.status === 401 ? `${error.message[0].toUpperCase()}${error.message.slice(1)}.` : error.message;
      (field.hidden ? event.target.password : event.target.code).select();
    }
  }
  button.disabled = false;
});
