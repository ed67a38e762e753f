// What the pages do beyond plain HTML. Without this file everything still opens by hand.
"use strict";

// --- Predict, then look -------------------------------------------------------------------------

// The disclosures that a prediction opens: those of gated cells after it, up to the next prediction.
function gatesOf(form) {
  const marks = [...document.querySelectorAll(".course-predict, .cell.tag_gated details.hide")];
  const rest = marks.slice(marks.indexOf(form) + 1);
  const next = rest.findIndex((mark) => mark.matches(".course-predict"));
  return next < 0 ? rest : rest.slice(0, next);
}

function unlock(form, option) {
  const gates = gatesOf(form);
  gates.forEach((gate) => { gate.open = true; });
  const said = option.parentElement.textContent.trim();
  const opened = gates.length ? ` Now open below: ${form.dataset.unlocks}.` : "";
  form.querySelector("[role=status]").textContent = `Your prediction: ${said}.${opened}`;
  for (const gate of gates) {
    let note = gate.previousElementSibling;
    if (!note || !note.matches(".course-predicted")) {
      note = document.createElement("p");
      note.className = "course-predicted";
      gate.before(note);
    }
    note.textContent = `Your prediction: ${said}`;
  }
}

// A private window or a file:// page may refuse storage; then the choice lives as long as the page.
function remembered(key, value) {
  try {
    if (value !== undefined) sessionStorage.setItem(key, value);
    return sessionStorage.getItem(key);
  } catch {
    return null;
  }
}

function preparePrediction(form) {
  const key = `predicted ${location.pathname} ${form.id}`;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    remembered(key, event.target.value);
    unlock(form, event.target);
  });
  const before = remembered(key);
  const option = before !== null && form.querySelector(`input[value="${CSS.escape(before)}"]`);
  if (option) {
    option.checked = true;
    unlock(form, option);
  }
}

// --- What the theme leaves out for readers with a keyboard or a screen reader -------------------

// A box that scrolls sideways must be reachable without a mouse.
function reachable(box) {
  if (box.scrollWidth > box.clientWidth && !box.querySelector("a, button, input, summary")) {
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    const kind = box.matches("pre") ? "Code or output" : "Table or formula";
    box.setAttribute("aria-label", box.matches("p") ? "Drawing" : kind);
  }
}

function nameThemeControls() {
  for (const button of document.querySelectorAll("button[title]:not([aria-label])")) {
    button.setAttribute("aria-label", button.title);
  }
}

// A folded cell says on its bar what it holds; "Toggle hidden content" would be read out instead.
document.querySelectorAll("details.hide > summary").forEach((bar) => bar.removeAttribute("aria-label"));
// docutils calls its bibliography a list, but not its entries list items.
document.querySelectorAll(".citation-list[role]").forEach((box) => box.removeAttribute("role"));
document.querySelectorAll(".course-predict").forEach(preparePrediction);
document.querySelectorAll("pre, .pst-scrollable-table-container, .math").forEach(reachable);
// Drawings have their width only when they are there.
addEventListener("load", () => document.querySelectorAll("p:has(> img)").forEach(reachable));
nameThemeControls();
