"use strict";
document.getElementById("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const words = document.getElementById("login-words");
  const button = event.target.querySelector("button");
  words.textContent = "";
  button.disabled = true;
  try {
    await site.ask("/login", { method: "POST", body: { name: event.target.name.value, password: event.target.password.value } });
    location.assign("/review");
  } catch (error) {
    words.textContent = error.status === 401 ? "Name and password do not belong together." : error.message;
    event.target.password.select();
  }
  button.disabled = false;
});
