// What the book's theme leaves out. What readers move or choose is in course_lib/teaching/page.
"use strict";

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
document.querySelectorAll("pre, .pst-scrollable-table-container, .math").forEach(reachable);
// Drawings have their width only when they are there.
addEventListener("load", () => document.querySelectorAll("p:has(> img)").forEach(reachable));
nameThemeControls();

// The theme's toggles in the list of pages have a picture and no name.
for (const toggle of document.querySelectorAll(".bd-links summary")) {
  if (!toggle.textContent.trim()) toggle.setAttribute("aria-label", "Pages of this section");
}
