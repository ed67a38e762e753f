// The front end of everything that a reader can move or choose. Python has computed every number and
// written every sentence beforehand; this script only chooses among them and draws them. It may run
// more than once on a page (each output of a notebook brings it along): what is alive stays as it is.
var coursePage = (() => {
  "use strict";

  const dataOf = (el) => JSON.parse(el.querySelector('script[type="application/json"]').textContent);
  // JupyterLab would take the arrow keys.
  const keepKeys = (el) => el.addEventListener("keydown", (event) => event.stopPropagation());

  // --- What the reader has done, kept on their own machine ----------------------------------------
  // One entry for each page of the book: {answers: {id: choice}, solved: {id: true}, steps, done}.
  // A notebook keeps nothing: its next class starts anew.

  const PREFIX = "pruning course ";
  const inBook = "content_root" in document.documentElement.dataset;
  const pageName = () => location.pathname.split("/").pop().replace(/\.html$/, "");
  // where the browser refuses storage: as long as the page is open, for all runs of this script
  const unsaved = (window.courseUnsaved ??= {});

  function progress(name = pageName()) {
    const blank = { answers: {}, solved: {}, steps: 0, done: false };
    if (!inBook) return blank;
    try {
      const saved = localStorage.getItem(PREFIX + name) ?? unsaved[name] ?? "{}";
      return { ...blank, ...JSON.parse(saved) };
    } catch {
      return { ...blank, ...JSON.parse(unsaved[name] ?? "{}") };
    }
  }

  function save(change) {
    if (!inBook) return;
    const ids = [...document.querySelectorAll("[data-step]")].map((el) => el.dataset.step);
    const now = { ...progress(), steps: ids.length };
    change(now);
    for (const part of [now.answers, now.solved]) { // questions that the page no longer asks go
      Object.keys(part).filter((id) => !ids.includes(id)).forEach((id) => delete part[id]);
    }
    keep(pageName(), now);
    document.dispatchEvent(new Event("course-progress"));
  }

  function keep(name, page) {
    unsaved[name] = JSON.stringify(page);
    try {
      localStorage.setItem(PREFIX + name, unsaved[name]);
    } catch {
      // a private window, or no room: what is unsaved lives as long as the page
    }
  }

  /** Make `el` one of the page's steps, and return what the reader answered there before. */
  function step(el, id) {
    el.dataset.step = id;
    return progress().answers[id];
  }

  const answer = (id, choice, right) => save(({ answers, solved }) => {
    answers[id] = choice;
    if (right) solved[id] = true;
  });

  /** At the end of a lesson: how much of it is done, and a box to say that all of it is. */
  function endOfLesson(article) {
    const box = make("input", { type: "checkbox" });
    const said = make("span", { role: "status" });
    const home = `${document.documentElement.dataset.content_root}book/intro.html#course-map`;
    const draw = () => {
      const { solved, steps, done } = progress();
      box.checked = done;
      const answered = steps
        ? ` ${Object.keys(solved).length} of its ${steps} questions and puzzles are solved.` : "";
      said.textContent = `${done ? "This lesson is done." : "This lesson is not marked as done."}${answered} `;
    };
    box.addEventListener("change", () => save((now) => { now.done = box.checked; }));
    document.addEventListener("course-progress", draw);
    article.append(make("div", { class: "course-done" },
      make("label", {}, box, make("span", {}, "I have done this lesson")),
      make("p", {}, said, make("a", { href: home }, "See the map of all lessons"))));
    draw();
  }

  /** On a lesson's page: one switch for the code that is not folded anyway. */
  function codeSwitch(strip) {
    const key = `${PREFIX}code`;
    const root = document.documentElement;
    const button = make("button", { type: "button", class: "course-code-switch" });
    const set = (hidden) => {
      root.toggleAttribute("data-code-hidden", hidden);
      button.textContent = hidden ? "show the code" : "hide the code";
    };
    try {
      set(localStorage.getItem(key) === "hidden");
    } catch {
      set(false);
    }
    button.addEventListener("click", () => {
      set(!root.hasAttribute("data-code-hidden"));
      try {
        localStorage.setItem(key, root.hasAttribute("data-code-hidden") ? "hidden" : "shown");
      } catch {
        // then it holds for this page
      }
    });
    strip.append(make("li", {}, button));
  }

  // --- Predict, then look -----------------------------------------------------------------------

  // The disclosures that a prediction opens: those of the book's gated cells after it, up to the
  // next prediction. A notebook has none.
  function gatesOf(form) {
    const gate = ".cell.tag_gated details.hide:not(.above-input)"; // folded code is no gate
    const marks = [...document.querySelectorAll(`.course-predict, ${gate}`)];
    const rest = marks.slice(marks.indexOf(form) + 1);
    const next = rest.findIndex((mark) => mark.matches(".course-predict"));
    return next < 0 ? rest : rest.slice(0, next);
  }

  function unlock(form, option) {
    const gates = gatesOf(form);
    const choice = option.parentElement.textContent.trim();
    const opened = gates.length ? ` Now open below: ${form.dataset.unlocks}.` : "";
    form.querySelector("[role=status]").textContent = `Your prediction: ${choice}.${opened}`;
    for (const gate of gates) {
      gate.open = true;
      let note = gate.previousElementSibling;
      if (!note || !note.matches(".course-predicted")) {
        note = document.createElement("p");
        note.className = "course-predicted";
        gate.before(note);
      }
      note.textContent = `Your prediction: ${choice}`;
    }
  }

  function predict(form) {
    keepKeys(form);
    if (!gatesOf(form).length) {
      form.querySelector("[role=status]").textContent = "Choose before you read on.";
    }
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", (event) => {
      answer(form.id, event.target.value, true); // a prediction cannot be wrong
      unlock(form, event.target);
    });
    const before = step(form, form.id);
    const option = before && form.querySelector(`input[value="${CSS.escape(before)}"]`);
    if (option) {
      option.checked = true;
      unlock(form, option);
    }
  }

  // --- Questions whose options are disclosures: the quiz, and the wrong line ----------------------

  function answers(root) {
    keepKeys(root);
    for (const group of root.querySelectorAll("[role=group]")) {
      const id = group.getAttribute("aria-labelledby");
      const options = [...group.querySelectorAll("details")];
      const before = options[step(group, id)];
      if (before) before.open = true;
      options.forEach((option, i) => option.querySelector("summary").addEventListener("click",
        () => option.open || answer(id, i, Boolean(option.querySelector(".right")))));
    }
  }

  /** A quiz that counts first choices, and then says what to read. */
  function selfTest(root) {
    const { advice, start } = dataOf(root);
    const groups = [...root.querySelectorAll("[role=group]")];
    const id = (group) => group.getAttribute("aria-labelledby");
    const draw = () => {
      const first = progress().first ?? {};
      if (!groups.every((group) => id(group) in first)) return;
      const right = groups.map((group) => first[id(group)]);
      const found = right.filter(Boolean).length;
      const read = [...new Set(advice.filter((_, i) => !right[i]))];
      root.querySelector(".advice").innerHTML = `<p>You were right at once in ${found} of `
        + `${groups.length} questions. ${read.length
          ? `Before you start, read ${read.join("; ")}. Then start` : "Start"} with ${start}.</p>`;
    };
    groups.forEach((group) => group.querySelectorAll("details").forEach((option) =>
      option.querySelector("summary").addEventListener("click", () => {
        save((now) => {
          now.first = { [id(group)]: Boolean(option.querySelector(".right")), ...now.first };
        });
        draw();
      })));
    draw();
  }

  // --- The map of the course: what is done, kept as a file or erased ------------------------------

  function map(root) {
    const items = [...root.querySelectorAll("[data-lesson]")];
    const total = make("p", { role: "status" });
    const draw = () => {
      let left = 0;
      for (const item of items) {
        const { solved, steps, done } = progress(item.dataset.lesson);
        const n = Object.keys(solved).length;
        item.querySelector(".state").textContent = done ? "✓ done" : n ? `${n} of ${steps} solved` : "";
        item.classList.toggle("done", done);
        left += done ? 0 : Number(item.dataset.minutes);
      }
      const finished = items.filter((item) => item.matches(".done")).length;
      const halves = Math.round(left / 30);
      total.textContent = `${finished} of ${items.length} lessons are done. The others take about `
        + `${Math.floor(halves / 2)}${halves % 2 ? "½" : ""} hours.`;
    };
    const button = (words, act) => {
      const made = make("button", { type: "button" }, words);
      made.addEventListener("click", act);
      return made;
    };
    root.append(total,
      make("p", { class: "note" },
        "Your answers are kept in this browser, on your own machine. Nothing is sent anywhere."),
      make("p", { class: "actions" },
        button("Save my progress as a file", exportAll),
        button("Load such a file", () => importAll((sentence) => {
          draw();
          total.textContent = `${sentence} ${total.textContent}`;
        })),
        button("Erase my progress", () => {
          eraseAll();
          draw();
          total.textContent = `Everything is erased. ${total.textContent}`;
        })));
    draw();
  }

  function savedKeys() {
    try {
      return Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
    } catch {
      return [];
    }
  }

  function exportAll() {
    const pages = new Set([...savedKeys().map((key) => key.slice(PREFIX.length)), ...Object.keys(unsaved)]);
    pages.delete("code"); // that is a setting
    const all = Object.fromEntries([...pages].sort().map((name) => [name, progress(name)]));
    const file = new Blob([JSON.stringify(all, null, 2)], { type: "application/json" });
    const link = make("a", { href: URL.createObjectURL(file), download: "course-progress.json" });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  /** Take over what `exportAll` saved, page by page; `say` hears what became of it. */
  function importAll(say) {
    const chooser = make("input", { type: "file", accept: ".json,application/json" });
    chooser.addEventListener("change", async () => {
      try {
        const all = Object.entries(JSON.parse(await chooser.files[0].text()));
        const known = ([name, page]) => /^[\w-]+$/.test(name) && typeof page.done === "boolean"
          && typeof page.steps === "number" && page.answers instanceof Object && page.solved instanceof Object;
        if (!all.length || !all.every(known)) throw new TypeError("another file");
        all.forEach(([name, page]) => keep(name, page));
        say("Your progress is loaded.");
      } catch {
        say("Nothing was loaded, because this is not a file that this page saved.");
      }
    });
    chooser.click();
  }

  function eraseAll() {
    savedKeys().forEach((key) => localStorage.removeItem(key));
    Object.keys(unsaved).forEach((name) => delete unsaved[name]);
  }

  // --- Order the lines ----------------------------------------------------------------------------

  function order(root) {
    const { answer: right, mistakes } = dataOf(root);
    const kept = root.querySelector("ol.kept");
    const out = make("ol", { class: "out", role: "list", "aria-label": "Lines taken out" });
    const status = make("p", { role: "status" });
    const lines = [...kept.children];
    const numbers = (list) => [...list.children].map((line) => Number(line.dataset.line));
    const code = (line) => line.querySelector("code").textContent;

    function place(line, list, next, button) {
      list.insertBefore(line, next);
      const [n, all] = [[...list.children].indexOf(line) + 1, list.children.length];
      status.textContent = list === out ? "Taken out." : `Now line ${n} of ${all}.`;
      button?.focus(); // moving an element takes its focus away
      answer(root.id, [numbers(kept), numbers(out)], false);
    }

    function tools(line) {
      const button = (kind, sign, words, act) => {
        const made = make("button", { type: "button", class: kind, "aria-label": `${words}: ${code(line)}` }, sign);
        made.addEventListener("click", () => act(made));
        return made;
      };
      const handle = make("span", { class: "handle", "aria-hidden": "true" }, "⠿");
      drag(line, handle, [kept, out], place);
      line.append(handle,
        button("up", "↑", "Move up", (own) =>
          place(line, kept, line.previousElementSibling ?? line.nextElementSibling, own)),
        button("down", "↓", "Move down", (own) =>
          place(line, kept, line.nextElementSibling?.nextElementSibling ?? null, own)),
        button("take", "take out", "Take out", () =>
          place(line, out, null, line.querySelector(".put"))),
        button("put", "put back", "Put back", () =>
          place(line, kept, null, line.querySelector(".take"))));
    }

    function check() {
      const now = numbers(kept);
      const at = now.findIndex((line, i) => line !== right[i]);
      const words = at < 0 ? "" : `Line ${at + 1}, ${code(kept.children[at])},`;
      const before = at > 0 ? `The lines before line ${at + 1} are right. ` : "";
      if (at < 0 && now.length === right.length) {
        status.textContent = "Right: this is the function.";
        answer(root.id, [now, numbers(out)], true);
      } else if (at < 0) {
        status.textContent = "These lines are right so far, but the function is not complete. Put a line back.";
      } else if (mistakes[now[at]]) {
        status.innerHTML = `${before}Line ${at + 1} holds a mistake: ${mistakes[now[at]]}`;
      } else {
        status.textContent = `${before}${words} comes too early: another line has to stand before it.`;
      }
    }

    function arrange([inside, outside]) {
      kept.append(...inside.map((n) => lines[n]));
      out.append(...outside.map((n) => lines[n]));
    }

    const button = (words, act) => {
      const made = make("button", { type: "button" }, words);
      made.addEventListener("click", act);
      return made;
    };
    keepKeys(root);
    kept.setAttribute("aria-label", "Lines of the function");
    lines.forEach(tools);
    kept.after(make("p", { class: "note" }, "Taken out:"), out,
      make("p", { class: "actions" }, button("Check the order", check), button("Start again", () => {
        arrange([lines.map((_, n) => n), []]);
        status.textContent = "All lines stand as they did at first.";
      })), status);
    const before = step(root, root.id);
    const valid = Array.isArray(before) && before.flat().sort((a, b) => a - b).join() === Object.keys(lines).join();
    if (valid) arrange(before);
  }

  /** Let `line` follow the finger or the mouse that holds its handle, within and between lists. */
  function drag(line, handle, lists, place) {
    const middle = (el) => el.getBoundingClientRect().top + el.offsetHeight / 2;
    const move = (event) => {
      const [kept, out] = lists;
      const list = event.clientY > out.getBoundingClientRect().top ? out : kept;
      const next = [...list.children].find((other) => other !== line && middle(other) > event.clientY) ?? null;
      if (line.parentElement !== list || line.nextElementSibling !== next) place(line, list, next);
    };
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      line.classList.add("dragged");
      const stop = () => {
        removeEventListener("pointermove", move);
        line.classList.remove("dragged");
      };
      addEventListener("pointermove", move);
      addEventListener("pointerup", stop, { once: true });
      addEventListener("pointercancel", stop, { once: true });
    });
  }

  // --- Scrub ------------------------------------------------------------------------------------

  /** What a sentence says that the one before it did not: its first new parts, for a screen reader. */
  function whatChanged(before, now) {
    const parts = (sentence) => sentence.replace(/\.$/, "").split(/[,;:.] /);
    const [old, fresh] = [parts(before), []];
    for (const part of parts(now).filter((one) => !old.includes(one))) {
      if (fresh.length > 1 && [...fresh, part].join(" ").split(" ").length > 14) break;
      fresh.push(part);
    }
    return fresh.join(", ");
  }

  function scrub(root) {
    const { sizes, shown, frames } = dataOf(root);
    const [picture, sentences] = [root.querySelector(".frame"), root.querySelectorAll("details li")];
    frames[root.dataset.frame] = picture.innerHTML; // stands there already
    const axes = [...root.querySelectorAll("[data-axis]")];
    const at = (axis) => Number(axis.querySelector("input:checked, input[type=range]").value);
    const show = () => {
      const n = axes.reduce((before, axis, i) => before * sizes[i] + at(axis), 0);
      axes.forEach((axis, i) => {
        if (!axis.matches("label")) return;
        const text = shown[i][at(axis)];
        axis.querySelector("b").textContent = text;
        axis.querySelector("input").setAttribute("aria-valuetext", text);
      });
      picture.innerHTML = frames[n];
      const [sentence, news] = [root.querySelector(".sentence"), root.querySelector("[role=status]")];
      news.textContent = whatChanged(sentence.textContent, sentences[n].textContent);
      sentence.textContent = sentences[n].textContent;
      root.dataset.frame = n;
    };
    for (const axis of axes) {
      axis.hidden = false;
      axis.addEventListener("input", show);
      keepKeys(axis);
    }
    show();
  }

  // --- Explorer: drawing ------------------------------------------------------------------------
  // Charts are SVG without a viewBox: horizontal places in percent of the width, vertical ones in
  // pixels, so that they fill any column with letters of one size and line up with their sliders.

  const TOP = 18; // room above the plot
  const PLOT = 130; // height of the plot
  const SVG_TAGS = "svg g rect line path circle text defs pattern polyline".split(" ");

  function make(tag, attributes = {}, ...children) {
    const node = SVG_TAGS.includes(tag)
      ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  const count = (n) => n.toLocaleString("en-US");
  const height = (share) => TOP + PLOT * (1 - share);
  const text = (x, y, words, anchor = "middle") =>
    make("text", { x: `${x}%`, y, "text-anchor": anchor }, words);
  const cutLine = (x) =>
    make("line", { class: "cut", x1: `${x}%`, x2: `${x}%`, y1: TOP - 10, y2: TOP + PLOT });

  /** Marks 0, step, 2 step, … below `top`, the step being 1, 2 or 5 times a power of ten. */
  function ticks(top) {
    const power = 10 ** Math.floor(Math.log10(top / 2));
    const step = power * [5, 2, 1].find((factor) => factor * power <= top / 2);
    const marks = [];
    for (let i = 0; i * step <= top; i++) marks.push(Number((i * step).toPrecision(6)));
    return marks;
  }

  /** Bars of |w|; what the cut removes is hatched, what it keeps is solid. */
  function histogram(layer, axis, threshold, hatch) {
    const width = layer.top / layer.bins.length;
    const peak = Math.max(...layer.bins);
    const bars = [];
    const bar = (from, to, n, kind) => {
      if (to <= from || !n) return;
      const y = height(n / peak);
      const size = { x: `${(100 * from) / axis}%`, width: `${(100 * (to - from)) / axis}%` };
      const paint = kind === "removed" ? { fill: `url(#${hatch})` } : {};
      bars.push(make("rect", { class: kind, y, height: TOP + PLOT - y, ...size, ...paint }));
    };
    layer.bins.forEach((n, i) => {
      const [from, to] = [i * width, (i + 1) * width];
      bar(from, Math.min(to, threshold), n, "removed");
      bar(Math.max(from, threshold), to, n, "kept");
    });
    const marks = axis ? ticks(axis) : [0];
    return [
      ...bars,
      make("line", { class: "axis", x1: "0%", x2: "100%", y1: TOP + PLOT, y2: TOP + PLOT }),
      ...marks.map((mark) => text((100 * mark) / axis || 0, TOP + PLOT + 17, `${mark}`)),
      cutLine((100 * threshold) / axis || 0),
    ];
  }

  /** Accuracy against the cut, on the sparsity slider's own scale; other curves are dashed. */
  function curves(data, scope, position) {
    const last = data.cuts.length - 1;
    const x = (cut) => (100 * cut) / last;
    const grid = [0, 50, 100].flatMap((a) => [
      make("line", { class: "grid", x2: "100%", y1: height(a / 100), y2: height(a / 100) }),
      text(0, height(a / 100) - 4, `${a} %`, "start"),
    ]);
    const lines = Object.entries(data.accuracy).map(([name, { mean }]) => {
      const points = mean.flatMap((a, cut) => (a === "none" ? [] : [`${cut},${(100 - a).toFixed(1)}`]));
      return make("polyline", { class: curveClass(name, data, scope), points: points.join(" ") });
    });
    const frame = { viewBox: `0 0 ${last} 100`, preserveAspectRatio: "none" };
    const marks = data.accuracy[scope].measured.flatMap(([cut, a, sd]) => [
      make("line", {
        class: "spread", x1: `${x(cut)}%`, x2: `${x(cut)}%`,
        y1: height(Math.min(100, a + sd) / 100), y2: height(Math.max(0, a - sd) / 100),
      }),
      make("circle", { class: "measured", cx: `${x(cut)}%`, cy: height(a / 100), r: 3.5 }),
    ]);
    const here = data.accuracy[scope].mean[position];
    return [
      ...grid,
      make("svg", { y: TOP, width: "100%", height: PLOT, ...frame }, ...lines),
      ...marks,
      cutLine(x(position)),
      ...(here === "none" ? [] : [
        make("circle", { class: "here", cx: `${x(position)}%`, cy: height(here / 100), r: 6 }),
      ]),
      ...data.ticks.map(([cut, words]) => text(x(cut), TOP + PLOT + 17, words)),
    ];
  }

  const isScope = (name) => name === "global" || name === "local";
  /** Each control has a dash of its own: with two of them, colour alone would not do. */
  function curveClass(name, data, scope) {
    if (isScope(name)) return `curve ${name === scope ? "active" : "other"}`;
    const controls = Object.keys(data.accuracy).filter((other) => !isScope(other));
    return `curve control dash-${controls.indexOf(name) % 3}`;
  }

  /** The patch of one layer: kept weights grey by |w|, removed ones only a dot. */
  function maskPicture({ columns, shades }, gone, position) {
    const squares = Array.from({ length: 6 }, () => "");
    let dots = "";
    gone.forEach((cut, i) => {
      const [x, y] = [i % columns, Math.floor(i / columns)];
      if (cut <= position) dots += `M${x + 0.5},${y + 0.5}h0`;
      else squares[shades[i]] += `M${x + 0.05},${y + 0.05}h.9v.9h-.9z`;
    });
    return [
      ...squares.map((d, i) => make("path", { d, "fill-opacity": 0.35 + 0.13 * i })),
      make("path", { class: "gone", d: dots }),
    ];
  }

  // --- Explorer: the parts ----------------------------------------------------------------------

  const SCOPE_WORDS = {
    global: "global: one threshold for all layers",
    local: "local: one threshold for each layer",
  };

  function choice(legend, names, group) {
    const inputs = names.map((_, i) => make("input", { type: "radio", name: group, value: i }));
    const labels = inputs.map((input, i) => make("label", {}, input, make("span", {}, names[i])));
    return { inputs, labels, box: make("fieldset", {}, make("legend", {}, legend), ...labels) };
  }

  function slider(name, attributes) {
    const input = make("input", { type: "range", min: 0, ...attributes });
    const value = make("span", { class: "value", "aria-hidden": "true" });
    const words = make("span", { class: "label" }, make("label", { for: input.id }, name), value);
    return { input, value, box: make("div", { class: "slider" }, words, input) };
  }

  /** The radio of every layer with its survivors: how many weights it keeps, and a bar of them. */
  function survivors(names, group) {
    const layers = choice("Layers: pick one to look into", names, group);
    layers.box.className = "layers";
    layers.rows = layers.labels.map((row) => {
      const [words, bar] = [make("span", { class: "survivors" }), make("span")];
      row.append(words, make("span", { class: "bar" }, bar));
      return { words, bar };
    });
    return layers;
  }

  const chart = () => make("svg", { class: "chart", role: "img", height: TOP + PLOT + 24 });
  const note = (words = "") => make("p", { class: "note" }, words);

  /** Every part that the reader moves or that changes, made once. */
  function makeParts(data) {
    const id = `x${Math.random().toString(36).slice(2)}`; // two views of one widget share no ids
    const scopes = Object.keys(data.scopes);
    return {
      hatchId: `${id}-hatch`,
      scope: choice("Where the cut falls", scopes.map((s) => SCOPE_WORDS[s]), `${id}-scope`),
      sparsity: slider("Sparsity", { id: `${id}-s`, max: data.cuts.length - 1, step: 1 }),
      threshold: slider("Threshold on |w|", { id: `${id}-t`, step: "any" }),
      layers: survivors(data.layers.map((l) => l.name), `${id}-layer`),
      output: make("output", { "aria-live": "off" }),
      status: make("p", { class: "heard", role: "status" }), // a screen reader hears this, no more
      curves: chart(),
      legend: make("p", { class: "legend" }),
      histogram: chart(),
      histogramNote: note(),
      mask: make("svg", { class: "mask", role: "img" }),
      maskNote: note(),
    };
  }

  function arrange(parts, data, fallback) {
    const panel = (...children) => make("div", { class: "panel" }, ...children);
    const curveNote = note(
      `${data.metric} against % of weights removed; the scale is stretched above 90 %.`);
    return make("div", { class: "frame", role: "group", "aria-label": data.title },
      hatching(parts.hatchId),
      make("p", { class: "title" }, data.title),
      ...(parts.scope.inputs.length > 1 ? [parts.scope.box] : []),
      parts.output,
      parts.status,
      make("div", { class: "panels" },
        panel(parts.sparsity.box, parts.curves, curveNote, parts.legend),
        panel(parts.threshold.box, parts.histogram, parts.histogramNote),
        panel(parts.layers.box),
        panel(parts.mask, parts.maskNote)),
      make("details", {}, make("summary", {}, "The same numbers as a table"), tables(fallback)));
  }

  function hatching(id) {
    const turn = { patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
    const line = make("line", { class: "hatch", x1: 0, x2: 0, y1: 0, y2: 5 });
    const pattern = make("pattern", { id, width: 5, height: 5, ...turn }, line);
    // not class "hidden": JupyterLab takes that off the page, and the pattern with it
    const unseen = { class: "pattern", "aria-hidden": "true", width: 0, height: 0 };
    return make("svg", unseen, make("defs", {}, pattern));
  }

  /** Python's tables of the same numbers, without the sentence that went before them. */
  function tables(fallback) {
    const holder = make("div");
    holder.innerHTML = fallback;
    holder.querySelectorAll(":scope > :not(.table)").forEach((other) => other.remove());
    return holder;
  }

  /** From the reader to the state. */
  function listen(parts, data, model, draw) {
    const { sparsity, threshold, scope, layers } = parts;
    const last = data.cuts.length - 1;
    const set = (name, value) => {
      if (model.get(name) === value) return draw(); // the slider's thumb snaps back to its cut
      model.set(name, value);
      model.save_changes();
    };
    const move = (position) => set("position", Math.max(0, Math.min(last, position)));

    sparsity.input.addEventListener("input", () => move(Number(sparsity.input.value)));
    threshold.input.addEventListener("input", () => {
      const own = thresholdsOf(data, model.get("scope"), model.get("layer"));
      const gaps = own.map((value) => Math.abs(value - Number(threshold.input.value)));
      move(gaps.indexOf(Math.min(...gaps))); // the nearest cut; the first of equals
    });
    threshold.input.addEventListener("keydown", (event) => {
      // from cut to cut: the browser's own steps in |w| would fall between two cuts and stick
      const step = {
        ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1,
        PageUp: 10, PageDown: -10, Home: -last, End: last,
      }[event.key];
      if (!step) return;
      event.preventDefault();
      move(model.get("position") + step);
    });
    Object.keys(data.scopes).forEach((name, i) =>
      scope.inputs[i].addEventListener("change", () => set("scope", name)));
    layers.inputs.forEach((input, i) => input.addEventListener("change", () => set("layer", i)));
  }

  // --- Explorer: one cut ------------------------------------------------------------------------

  /** A column of texts, one for each cut: "|" stands between them, nothing for "as before". */
  function column(packed) {
    let last = "";
    return packed.split("|").map((words) => (last = words || last));
  }

  /** `scopes` and `accuracy` with their columns unpacked. */
  function unpacked(value) {
    if (typeof value === "string") return column(value);
    if (Array.isArray(value)) return value.map(unpacked);
    if (typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, of]) => [key, unpacked(of)]));
  }

  const thresholdsOf = (data, scope, at) => data.scopes[scope].thresholds[scope === "local" ? at : 0];

  /** Everything that Python says about one cut. */
  function cutAt(data, scope, at, position) {
    const { kept, share, removed, left, csr, multiplications } = data.scopes[scope];
    const accuracy = Object.entries(data.accuracy).map(([name, { value, note }]) =>
      [name, [value[position], note[position]]]);
    return {
      threshold: thresholdsOf(data, scope, at)[position],
      kept: kept.map((layer) => layer[position]),
      share: share.map((layer) => `${layer[position]} %`),
      removed: `${removed[position]} % removed`,
      left: left[position],
      csr: csr[position],
      multiplications: multiplications[position],
      accuracy: Object.fromEntries(accuracy),
    };
  }

  /** From the state to everything that is seen, heard or read by a test. */
  function show(parts, data, scope, at, position) {
    const cut = cutAt(data, scope, at, position);
    showControls(parts, data, scope, at, position, cut);
    showSurvivors(parts.layers.rows, data, cut);
    showOutput(parts.output, data, scope, at, position, cut);
    parts.status.textContent = `${cut.removed}: ${data.metric} ${cut.accuracy[scope][0]}`;
    showCurves(parts, data, scope, position, cut);
    showHistogram(parts, data, scope, at, cut);
    showMask(parts, data.layers[at], data.scopes[scope].gone[at], position);
  }

  const widest = (data, scope, at) =>
    scope === "local" ? data.layers[at].top : Math.max(...data.layers.map((l) => l.top));

  function showControls({ scope: choices, layers, sparsity, threshold }, data, scope, at, position,
    cut) {
    choices.inputs[Object.keys(data.scopes).indexOf(scope)].checked = true;
    layers.inputs[at].checked = true;
    sparsity.input.value = position;
    sparsity.value.textContent = cut.removed;
    sparsity.input.setAttribute("aria-valuetext", cut.removed);
    const where = scope === "local" ? ` in ${data.layers[at].name}` : "";
    threshold.input.max = widest(data, scope, at);
    threshold.input.value = cut.threshold;
    threshold.value.textContent = `${cut.threshold}${where}`;
    threshold.input.setAttribute("aria-valuetext", `${cut.threshold}${where}, ${cut.removed}`);
  }

  function showSurvivors(rows, data, cut) {
    rows.forEach(({ words, bar }, i) => {
      const [kept, { n }] = [cut.kept[i], data.layers[i]];
      words.textContent =
        `${count(kept)} of ${count(n)} kept · ${kept ? cut.share[i] : "collapsed"}`;
      words.classList.toggle("collapsed", !kept);
      bar.style.width = `${(100 * kept) / n}%`;
    });
  }

  function showOutput(output, data, scope, at, position, cut) {
    const controls = Object.keys(data.accuracy).filter((name) => !isScope(name))
      .map((name) => `${name}: ${cut.accuracy[name][0]}`);
    const collapsed = data.layers.filter((_, i) => !cut.kept[i]).map((l) => l.name).join(", ");
    const fate = collapsed
      ? make("strong", {}, `Collapsed: no weight is left in ${collapsed}.`)
      : "Every layer still has weights.";
    const { weights, bytes, multiplications } = data.dense;
    output.replaceChildren(
      figure("kept weights", cut.left, `of ${weights}`),
      figure(data.metric, ...cut.accuracy[scope], ...controls),
      figure("stored as CSR", cut.csr, `(dense: ${bytes})`),
      figure("multiplications", cut.multiplications, `per image (dense: ${multiplications})`),
      make("span", { class: "fate" }, fate));
    Object.assign(output.dataset, {
      scope, position, layer: data.layers[at].name, threshold: cut.threshold,
      kept: JSON.stringify(cut.kept),
    });
  }

  const figure = (name, value, ...more) => make("span", { class: "part" },
    make("span", { class: "name" }, `${name} `),
    make("strong", {}, value),
    ...more.map((words) => make("span", { class: "more" }, ` ${words}`)));

  function showCurves({ curves: picture, legend }, data, scope, position, cut) {
    picture.replaceChildren(...curves(data, scope, position));
    describe(picture, `${data.metric} against sparsity, ${scope} threshold: `
      + `${cut.accuracy[scope].join(" ")} at ${cut.removed}.`);
    legend.replaceChildren(...Object.keys(data.accuracy).map((name) => {
      const stroke = { class: curveClass(name, data, scope), x1: 0, x2: 26, y1: 5, y2: 5 };
      const size = { width: 26, height: 10, "aria-hidden": "true" };
      return make("span", {}, make("svg", size, make("line", stroke)),
        ` ${name}${name === "random" ? " (control)" : ""}`);
    }));
  }

  function showHistogram({ histogram: picture, histogramNote, hatchId }, data, scope, at, cut) {
    const layer = data.layers[at];
    const kept = `${count(cut.kept[at])} of ${count(layer.n)}`;
    picture.replaceChildren(
      ...histogram(layer, widest(data, scope, at), cut.threshold, hatchId));
    describe(picture, `Histogram of the weights' magnitudes in ${layer.name}: `
      + `the cut at ${cut.threshold} keeps ${kept}.`);
    histogramNote.textContent = `Magnitudes |w| in ${layer.name}. Hatched: at or below the cut, `
      + `removed. Solid: the ${kept} kept.`;
  }

  function showMask({ mask, maskNote }, layer, gone, position) {
    const { rows, columns } = layer.patch;
    const kept = gone.filter((cut) => cut > position).length;
    mask.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
    mask.style.aspectRatio = `${columns} / ${rows}`;
    mask.replaceChildren(...maskPicture(layer.patch, gone, position));
    describe(mask, `Mask of a patch of ${layer.name}: ${kept} of ${gone.length} weights are kept.`);
    maskNote.textContent = `The middle of ${layer.name}: ${rows} × ${columns} of its ${layer.rows} `
      + `× ${layer.columns} weights, ${kept} kept. The stronger the grey, the larger |w|; a dot is `
      + "a weight removed.";
  }

  const describe = (picture, sentence) => picture.setAttribute("aria-label", sentence);

  /** The explorer in `el`, on a model that is anywidget's in JupyterLab and `stateful` elsewhere. */
  function render({ model, el }) {
    const raw = model.get("data");
    const data = { ...raw, scopes: unpacked(raw.scopes), accuracy: unpacked(raw.accuracy) };
    const parts = makeParts(data);
    const draw = () =>
      show(parts, data, model.get("scope"), model.get("layer"), model.get("position"));
    const changes = ["change:scope", "change:layer", "change:position"];

    el.classList.add("explorer");
    keepKeys(el);
    const frame = arrange(parts, data, model.get("fallback"));
    listen(parts, data, model, draw);
    draw(); // whatever goes wrong goes wrong before the page is touched
    el.replaceChildren(frame);
    changes.forEach((change) => model.on(change, draw));
    return () => changes.forEach((change) => model.off(change, draw));
  }

  /** A model of plain values with anywidget's five methods. */
  function stateful(state) {
    const listeners = {};
    return {
      get: (key) => state[key],
      set(key, value) {
        if (state[key] === value) return;
        state[key] = value;
        for (const heard of listeners[`change:${key}`] ?? []) heard();
      },
      on(event, heard) { (listeners[event] ??= []).push(heard); },
      off(event, heard) { listeners[event] = listeners[event]?.filter((h) => h !== heard); },
      save_changes() {},
    };
  }

  const explorer = (el) =>
    render({ el, model: stateful({ ...dataOf(el), fallback: el.innerHTML }) });

  // --- Bring to life what is not yet alive ------------------------------------------------------

  const INSTRUMENTS = { answers, explorer, map, order, predict, scrub, selfTest };
  for (const el of document.querySelectorAll("[data-course]:not([data-alive])")) {
    el.dataset.alive = "";
    try {
      INSTRUMENTS[el.dataset.course](el);
    } catch (error) {
      console.error(error); // what stands there without a script stays
    }
  }
  const strip = inBook && document.querySelector("ul.course-strip");
  if (strip && !document.querySelector(".course-done")) {
    codeSwitch(strip);
    endOfLesson(strip.closest("article") ?? document.body);
  }
  return { render };
})();
