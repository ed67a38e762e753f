// What the book's theme leaves out. What readers move or choose is in course_lib/teaching/page.
"use strict";

// --- What the theme leaves out for readers with a keyboard or a screen reader -------------------

// A box that scrolls sideways must be reachable without a mouse, and its cut edge must show.
function reachable(box) {
  const wider = box.scrollWidth > box.clientWidth + 1;
  const scrolls = wider && getComputedStyle(box).overflowX !== "visible";
  box.classList.toggle("course-scrolls", scrolls);
  atEnd(box);
  const inside = "a, button, input, summary"; // which the keyboard reaches, and the box with them
  if (!scrolls || box.hasAttribute("tabindex") || box.querySelector(inside)) return;
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  const kind = box.matches("pre") ? "Code or output" : "Table or formula";
  box.setAttribute("aria-label", box.matches("p") ? "Drawing" : kind);
}

function atEnd(box) {
  const rest = box.scrollWidth - box.clientWidth - box.scrollLeft;
  box.classList.toggle("course-at-end", rest < 2);
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
// A box has a width only once it is shown: a drawing when it is loaded, a table when its gate opens.
const shown = new ResizeObserver((boxes) => boxes.forEach(({ target }) => reachable(target)));
const wide = "pre, .pst-scrollable-table-container, div.math, p:has(> img), .cell_output .text_html";
document.querySelectorAll(wide).forEach((box) => {
  shown.observe(box);
  box.addEventListener("scroll", () => atEnd(box), { passive: true });
});
nameThemeControls();

// The theme's toggles in the list of pages have a picture and no name.
for (const toggle of document.querySelectorAll(".bd-links summary")) {
  if (!toggle.textContent.trim()) toggle.setAttribute("aria-label", "Pages of this section");
}

// The list of pages stands outside of every landmark.
const side = document.getElementById("pst-primary-sidebar");
side?.setAttribute("role", "complementary");
side?.setAttribute("aria-label", "The book");

// --- Paper: black on white, and each lesson's hints and solutions at its end ---------------------

const page = document.documentElement;
const home = new Map(); // what was moved -> the mark that holds its place

/** Hints and solutions of a lesson, under the titles of the exercises that they belong to. */
function solutionsOf(lesson) {
  const found = [...lesson.querySelectorAll(".tag_hide-cell, details.sd-dropdown")];
  if (!found.length) return;
  const end = document.createElement("section");
  end.className = "course-solutions";
  end.innerHTML = "<h2>Hints and solutions</h2>";
  let exercise = null;
  for (const part of found) {
    const here = part.closest("section");
    if (here !== exercise) {
      const title = document.createElement("h3");
      title.textContent = here.querySelector("h1, h2, h3").firstChild.textContent;
      end.append(title);
      exercise = here;
    }
    const mark = document.createComment("");
    part.replaceWith(mark);
    home.set(part, mark);
    end.append(part);
  }
  lesson.append(end);
}

addEventListener("beforeprint", () => {
  page.dataset.shown = page.dataset.theme;
  page.dataset.theme = "light";
  document.querySelectorAll("section:has(> h1)").forEach(solutionsOf);
});

addEventListener("afterprint", () => {
  page.dataset.theme = page.dataset.shown;
  for (const [part, mark] of home) mark.replaceWith(part);
  home.clear();
  document.querySelectorAll(".course-solutions").forEach((end) => end.remove());
});
