// The search: sections with an excerpt, lessons before reference. It takes the place of Sphinx's own,
// whose excerpts need to fetch pages, which a page opened as a file may not do.
"use strict";

(() => {
  const MOST = 40; // results shown
  const AROUND = 110; // letters of an excerpt on each side of the first word found
  const stemmer = new Stemmer();
  const stems = new Map();

  function stem(word) {
    const small = word.toLowerCase();
    if (!stems.has(small)) stems.set(small, stemmer.stemWord(small));
    return stems.get(small);
  }

  /** The places [start, end] of the words of `text` that have one of the stems `wanted`. */
  function places(text, wanted) {
    const found = [];
    for (const match of text.matchAll(/[\p{L}\p{N}_]+/gu)) {
      const own = stem(match[0]);
      const which = wanted.findIndex((want) => own === want || (want.length > 3 && own.startsWith(want)));
      if (which >= 0) found.push({ start: match.index, end: match.index + match[0].length, which });
    }
    return found;
  }

  /** 0: the glossary's entry for these very words; then lessons, other pages, the library. */
  function rank(page, title, wanted) {
    if (page === "book/glossary" && splitQuery(title).map(stem).join(" ") === wanted.join(" ")) return 0;
    if (page.startsWith("notebooks/")) return 1;
    return page.startsWith("book/api/") ? 3 : 2;
  }

  function find(wanted) {
    const results = [];
    for (const [page, pageTitle, anchor, title, text] of courseSections) {
      const [inTitle, inText] = [places(title, wanted), places(text, wanted)];
      const all = [...places(pageTitle, wanted), ...inTitle, ...inText];
      const different = new Set([...inTitle, ...inText].map((place) => place.which)).size;
      if (!different || new Set(all.map((place) => place.which)).size < wanted.length) continue;
      const score = 5 * inTitle.length + Math.min(inText.length, 10) + 3 * (all.length - inTitle.length - inText.length);
      results.push({ page, pageTitle, anchor, title, text, inText, score, rank: rank(page, title, wanted) });
    }
    return results.sort((a, b) => a.rank - b.rank || b.score - a.score); // else in reading order
  }

  /** Some words around the first one found, with those found marked. */
  function excerpt({ text, inText }) {
    const first = inText[0]?.start ?? 0;
    let from = Math.max(0, first - AROUND);
    if (from) from = text.indexOf(" ", from) + 1 || from;
    let to = Math.min(text.length, first + 2 * AROUND);
    if (to < text.length) to = Math.max(first, text.lastIndexOf(" ", to));
    const line = document.createElement("p");
    let at = from;
    for (const { start, end } of inText) {
      if (start < at || end > to) continue;
      const mark = document.createElement("mark");
      mark.textContent = text.slice(start, end);
      line.append(text.slice(at, start), mark);
      at = end;
    }
    line.append(text.slice(at, to));
    line.prepend(from ? "… " : "");
    line.append(to < text.length ? " …" : "");
    return line;
  }

  function item(result) {
    const entry = document.createElement("li");
    const link = document.createElement("a");
    link.href = `${result.page}.html#${result.anchor}`;
    const own = result.title === result.pageTitle;
    link.textContent = own ? result.pageTitle : `${result.pageTitle} › ${result.title}`;
    entry.append(link, excerpt(result));
    return entry;
  }

  Search.performSearch = (query) => {
    const wanted = [...new Set(splitQuery(query).map(stem))];
    const results = wanted.length ? find(wanted) : [];
    const pages = new Set(results.map((result) => result.page)).size;
    const said = document.createElement("p");
    said.setAttribute("role", "status");
    const many = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
    const shown = results.length > MOST ? ` The first ${MOST} are shown.` : "";
    const list = document.createElement("ol");
    list.className = "course-results";
    list.append(...results.slice(0, MOST).map(item));
    document.getElementById("search-results").replaceChildren(said, list);
    said.textContent = results.length
      ? `${many(results.length, "section")} on ${many(pages, "page")} hold “${query.trim()}”.${shown}`
      : `No section holds all of these words: “${query.trim()}”. Try fewer words, or look into the glossary.`;
  };
})();
