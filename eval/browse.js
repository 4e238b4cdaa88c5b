"use strict";
/* The table of all answers: questions down, combinations across, and any one answer in full.

   What is looked at stands in the address after `#answers?`, so that every view and every answer is a link. The index
   is read with the page, the answers as they are wanted: data arrives through `fulcrum.index` and `fulcrum.answers`,
   because a page from a disk may load scripts and nothing else. All that models and documents wrote becomes text. */

const fulcrum = {};
{
  const LINE = 30; // pixels of a row, as in browse.css
  const SPARE = 6; // rows that are drawn above and below those in sight
  const KEPT = 12; // files of answers that are remembered

  const $ = (id) => document.getElementById(id);
  const make = (tag, props, ...children) => {
    const element = Object.assign(document.createElement(tag), props);
    element.append(...children);
    return element;
  };

  let data; // the index
  let order; // how many combinations get each question right, and the questions in lower case
  let shown = []; // the questions that are selected, in order
  let view; // what the address says
  let drawn = ""; // the same, as the grid has it
  let rows = []; // the rows of the grid that are drawn, used again and again
  let active = { place: 0, cell: 0 }; // where the keyboard is

  // ---- What is looked at

  const fresh = () => ({
    text: "", slice: "", cell: data.cells[0], is: "", other: data.cells[data.baseline], cause: "", seen: "", sort: "",
    id: "", of: "",
  });

  function read(address) {
    const found = new URLSearchParams(address.startsWith("#answers?") ? address.slice(9) : "");
    const plain = fresh();
    const known = Object.keys(plain).filter((key) => found.has(key));
    const read = { ...plain, ...Object.fromEntries(known.map((key) => [key, found.get(key)])) };
    for (const key of ["cell", "other"]) if (!data.cells.includes(read[key])) read[key] = plain[key];
    return read;
  }

  function address(view) {
    const plain = fresh();
    const told = Object.entries(view).filter(([key, value]) => value !== plain[key]);
    return "#answers?" + new URLSearchParams(told);
  }

  /** Show another view; one that opens an answer can be left by going back. */
  function go(change, how = "replaceState") {
    view = { ...view, ...change };
    history[how](null, "", address(view));
    show();
  }

  // ---- Which questions

  const ASKED = {
    right: (mine) => mine === 1,
    wrong: (mine) => mine !== null && mine < 1,
    unanswered: (mine, _, code) => mine === null && code !== "-",
    better: (mine, theirs) => mine !== null && theirs !== null && mine > theirs,
    worse: (mine, theirs) => mine !== null && theirs !== null && mine < theirs,
    unlike: (mine, theirs) => mine !== null && theirs !== null && mine !== theirs,
  };

  const ORDERS = {
    hard: () => (a, b) => order.solved[a] - order.solved[b],
    easy: () => (a, b) => order.solved[b] - order.solved[a],
    low: (scores) => (a, b) => (scores[a] ?? 2) - (scores[b] ?? 2),
    letters: () => (a, b) => (order.words[a] < order.words[b] ? -1 : 1),
  };

  function select(view) {
    const [cell, other] = [data.cells.indexOf(view.cell), data.cells.indexOf(view.other)];
    const [mine, theirs, codes] = [data.scores[cell], data.scores[other], data.codes[cell]];
    const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
    const slice = data.slices.indexOf(view.slice);
    const code = data.leaves.find((leaf) => leaf[1] === view.cause)?.[0];
    const asked = ASKED[view.is];
    const found = [];
    data.questions.forEach(([, , part, seen], q) => {
      if (slice >= 0 && part !== slice) return;
      if (code && codes[q] !== code) return;
      if (view.seen && (view.seen === "yes") !== Boolean(seen)) return;
      if (asked && !asked(mine[q], theirs[q], codes[q])) return;
      if (words.every((word) => order.words[q].includes(word))) found.push(q);
    });
    return ORDERS[view.sort] ? found.sort(ORDERS[view.sort](mine)) : found;
  }

  // ---- What an answer came to

  /** [class, sign, words]: never by colour alone. */
  function mark(cell, q) {
    const score = data.scores[cell][q];
    if (score === null) return data.codes[cell][q] === "-" ? ["unasked", "", "not asked"] : ["none", "?", "no answer"];
    if (score === 1) return ["yes", "✓", "right"];
    return score === 0 ? ["no", "×", "wrong"] : ["part", String(Math.round(100 * score)), `score ${score}`];
  }

  const leaf = (cell, q) => data.leaves.find(([code]) => code === data.codes[cell][q]);

  // ---- The grid: only the rows in sight exist

  function drawHead() {
    const heads = data.cells.map((name, cell) => {
      const button = make("button", { type: "button", tabIndex: -1, title: name, textContent: name });
      button.onclick = () => go({ cell: name, sort: view.cell === name && view.sort !== "low" ? "low" : view.sort });
      return make("div", { role: "columnheader", ariaColIndex: cell + 2, className: "mark" }, button);
    });
    $("head").replaceChildren(make("div", { role: "columnheader", ariaColIndex: 1, className: "asked", textContent: "question" }), ...heads);
    $("grid").ariaColCount = data.cells.length + 1;
    $("grid").style.setProperty("--columns", data.cells.length);
  }

  function drawRows() {
    const grid = $("grid");
    const first = Math.max(0, Math.floor(grid.scrollTop / LINE) - SPARE);
    const last = Math.min(shown.length, Math.ceil((grid.scrollTop + grid.clientHeight) / LINE) + SPARE);
    while (rows.length < last - first) rows.push(newRow());
    for (let place = first; place < last; place++) fill(rows[place % rows.length], place);
    for (const row of rows) row.element.hidden = row.place < first || row.place >= last;
    const row = rows[active.place % rows.length];
    const there = row && row.place === active.place && !row.element.hidden;
    there ? grid.setAttribute("aria-activedescendant", row.cells[active.cell].id) : grid.removeAttribute("aria-activedescendant");
    grid.querySelector(".active")?.classList.remove("active");
    if (there) row.cells[active.cell].classList.add("active");
  }

  function newRow() {
    const name = make("div", { role: "rowheader", ariaColIndex: 1, className: "asked" });
    const cells = data.cells.map((_, cell) => make("div", { role: "gridcell", id: `at-${rows.length}-${cell}`, ariaColIndex: cell + 2 }));
    const element = make("div", { role: "row", className: "row" }, name, ...cells);
    $("body").append(element);
    return { element, name, cells, place: -1, q: -1 };
  }

  function fill(row, place) {
    if (row.place !== place) {
      row.place = row.element.place = place;
      row.element.style.transform = `translateY(${place * LINE}px)`;
      row.element.ariaRowIndex = place + 2;
    }
    if (row.q === shown[place]) return;
    row.q = shown[place];
    const [, question, , seen] = data.questions[row.q];
    row.name.textContent = seen ? `⚑ ${question}` : question;
    row.name.title = question;
    row.cells.forEach((cell, number) => {
      const [kind, sign, words] = mark(number, row.q);
      if (cell.textContent !== sign) cell.textContent = sign;
      cell.className = `mark ${kind}`;
      cell.ariaLabel = words;
      if (kind === "part") cell.style.setProperty("--v", data.scores[number][row.q]);
    });
  }

  function move(places, cells) {
    const within = (value, end) => Math.min(Math.max(value, 0), Math.max(end - 1, 0));
    active = { place: within(active.place + places, shown.length), cell: within(active.cell + cells, data.cells.length) };
    const grid = $("grid");
    const [top, room] = [active.place * LINE, grid.clientHeight - $("head").offsetHeight - LINE];
    if (top < grid.scrollTop) grid.scrollTop = top;
    if (top > grid.scrollTop + room) grid.scrollTop = top - room;
    drawRows();
    rows[active.place % rows.length]?.cells[active.cell].scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  const KEYS = {
    ArrowDown: () => move(1, 0), ArrowUp: () => move(-1, 0), ArrowRight: () => move(0, 1), ArrowLeft: () => move(0, -1),
    PageDown: () => move(10, 0), PageUp: () => move(-10, 0),
    Home: (event) => move(event.ctrlKey ? -shown.length : 0, -data.cells.length),
    End: (event) => move(event.ctrlKey ? shown.length : 0, data.cells.length),
    Enter: () => openAt(active.place, active.cell), " ": () => openAt(active.place, active.cell),
  };

  function openAt(place, cell) {
    if (shown[place] === undefined) return;
    active = { place, cell };
    go({ id: data.questions[shown[place]][0], of: data.cells[cell] }, "pushState");
  }

  // ---- One answer

  const loaded = new Map();
  const waiting = new Map();

  /** The file that has the answers to this question. */
  function fetchAnswers(q) {
    const number = data.parts.findLastIndex(([first]) => first <= q);
    if (!loaded.has(number)) {
      loaded.set(number, new Promise((resolve, reject) => {
        waiting.set(number, resolve);
        const gone = () => (loaded.delete(number), reject(Error(data.parts[number][1])));
        const script = make("script", { src: `report_data/${data.parts[number][1]}`, onerror: gone });
        script.onload = () => script.remove();
        document.head.append(script);
      }));
      if (loaded.size > KEPT) loaded.delete(loaded.keys().next().value);
    }
    return loaded.get(number).then((chunk) => [chunk, chunk.questions[q - data.parts[number][0]]]);
  }

  const isOpen = () => $("answer").matches(":popover-open");

  async function openAnswer() {
    const [q, cell] = [data.questions.findIndex(([id]) => id === view.id), data.cells.indexOf(view.of)];
    const dialog = $("answer");
    if (q < 0 || cell < 0) return isOpen() && dialog.hidePopover();
    const coming = fetchAnswers(q); // before anything is drawn, which takes as long as reading
    drawDoors(q, cell);
    if (!isOpen()) dialog.showPopover(); // no showModal: that makes all of the page inert, and styles all of it anew
    try {
      const [chunk, one] = await coming;
      if (view.id !== data.questions[q][0] || view.of !== data.cells[cell]) return; // meanwhile another is wanted
      const compared = ["better", "worse", "unlike"].includes(view.is) ? [data.cells.indexOf(view.other)] : [];
      const asked = [...new Set([cell, ...compared])];
      $("about").replaceChildren(...aboutQuestion(q, one));
      $("said").replaceChildren(...asked.map((number) => anAnswer(number, q, one.answers[number], chunk)));
      dialog.scrollTop = 0;
    } catch (error) {
      $("said").replaceChildren(make("p", { className: "loss", textContent:
        `report_data/${error.message} is not there: reload this page if its report was made again meanwhile; else copy the folder beside it.` }));
    }
  }

  /** The ways out of an answer: to other combinations, to the questions before and after it. */
  function drawDoors(q, cell) {
    $("of").replaceChildren(...data.cells.map((name, number) => {
      const [, sign] = mark(number, q);
      return make("option", { value: name, selected: number === cell, textContent: `${sign || "·"} ${name}` });
    }));
    const place = shown.indexOf(q);
    $("place").textContent = place < 0 ? "" : `${place + 1} of ${shown.length}`;
    for (const [name, next] of [["before", place - 1], ["after", place + 1]]) {
      $(name).disabled = place < 0 || shown[next] === undefined;
      $(name).onclick = () => { active.place = next; go({ id: data.questions[shown[next]][0] }); };
    }
  }

  const entry = (name, ...content) => (content.length ? [make("dt", { textContent: name }), make("dd", {}, ...content)] : []);

  function aboutQuestion(q, one) {
    const [id, , slice] = data.questions[q];
    const seen = one.seen.map(([material, kind, text]) => make("div", {}, `${material}, ${kind}: “${text}”`));
    return [
      make("h3", { id: "asked", textContent: one.question }),
      make("dl", {},
        ...entry("expected", one.gold.join(" / ")),
        ...(one.evidence.length ? entry("evidence", one.evidence.join(", ")) : []),
        ...entry("id", data.slices.length > 1 ? `${id}, in ${data.slices[slice]}` : id),
        ...(seen.length ? entry("seen before", ...seen) : [])),
    ];
  }

  function anAnswer(cell, q, answer, chunk) {
    const [kind, sign, words] = mark(cell, q);
    const [, cause, fault, meaning] = leaf(cell, q) ?? [];
    const title = make("h4", {}, make("span", { className: `mark ${kind}`, textContent: sign || "·", ariaHidden: "true" }), make("code", { textContent: data.cells[cell] }));
    const why = make("p", { className: "note" }, ...(cause ? [make("span", { className: `blame ${fault}`, textContent: cause }), meaning] : [words]));
    return make("article", {}, title, why, ...(answer ? (answer.length === 2 ? failed(answer, chunk) : given(answer, chunk)) : []));
  }

  const failed = ([reason, attempts], chunk) => [make("p", { textContent: `${chunk.texts[reason]} (attempts: ${attempts})` })];

  function given([prompt, sources, text, scores, before, after, seconds, ended, notes = {}, steps = []], chunk) {
    const found = chunk.sources[sources].map(([passage, score]) => make("li", {}, make("code", { textContent: chunk.texts[passage] }), ` ${score}`));
    const turns = chunk.prompts[prompt].flatMap(([role, pieces]) =>
      entry(role, make("pre", { textContent: pieces.map((piece) => chunk.texts[piece]).join("") })));
    const noted = Object.entries(notes).map(([name, value]) => `${name} ${value}`);
    const calls = steps.map((step) => make("li", { textContent: chunk.texts[step] || "nothing" }));
    const cut = { length: " (cut off)", context_length_exceeded: " (the prompt is longer than the model can read)" }[chunk.texts[ended]] ?? "";
    return [
      make("dl", {},
        ...entry("said", make("code", { className: "reply", textContent: chunk.texts[text] || "nothing" }), cut),
        ...entry("scores", data.scorers.map((name, number) => `${name} ${scores[number]}`).join(" · ")),
        ...(noted.length ? entry("notes", noted.join(" · ")) : []),
        ...entry("took", `${before} + ${after} tokens, ${seconds.toFixed(2)} s`),
        ...(found.length ? entry("sources", make("ol", {}, ...found)) : []),
        ...(calls.length ? entry("calls", make("ol", { className: "calls" }, ...calls)) : [])),
      make("h5", { textContent: "the prompt" }),
      make("dl", { className: "prompt" }, ...turns),
    ];
  }

  // ---- All of it

  function show() {
    for (const input of $("choice").elements) if (input.name in view) input.value = view[input.name];
    $("against").hidden = !["better", "worse", "unlike"].includes(view.is);
    const { id, of, ...chosen } = view;
    const now = JSON.stringify(chosen);
    if (drawn !== now) {
      drawn = now;
      shown = select(view);
      active.place = Math.min(active.place, Math.max(shown.length - 1, 0));
      $("count").textContent = `${shown.length.toLocaleString("en")} of ${data.questions.length.toLocaleString("en")} questions`;
      $("body").style.height = `${shown.length * LINE}px`;
      $("grid").ariaRowCount = shown.length + 1;
      $("grid").scrollTop = 0;
      for (const [cell, head] of [...$("head").children].slice(1).entries()) head.ariaCurrent = String(data.cells[cell] === view.cell);
      drawRows();
    }
    openAnswer();
  }

  function follow() {
    const mine = location.hash.startsWith("#answers?");
    view = mine ? read(location.hash) : { ...view, id: "", of: "" };
    show();
    if (mine && !view.id) $("answers").scrollIntoView();
  }

  function options(name, entries) {
    $("choice").elements[name].append(...entries.map((text) => make("option", { value: text, textContent: text })));
  }

  function wire() {
    options("slice", data.slices);
    options("cell", data.cells);
    options("other", data.cells);
    options("cause", data.leaves.filter(([code]) => data.codes.some((codes) => codes.includes(code))).map((leaf) => leaf[1]));
    $("slicing").hidden = data.slices.length < 2;
    $("flagging").hidden = !data.questions.some((one) => one[3]);
    const choice = $("choice");
    choice.oninput = (event) => go({ [event.target.name]: event.target.value });
    choice.onsubmit = (event) => event.preventDefault();
    choice.onreset = (event) => { event.preventDefault(); go(fresh()); };
    const grid = $("grid");
    grid.onscroll = drawRows;
    grid.onkeydown = (event) => { if (event.target === grid && KEYS[event.key] && !event.altKey && !event.metaKey) { event.preventDefault(); KEYS[event.key](event); } };
    $("body").onclick = (event) => {
      const row = event.target.closest(".row");
      if (!row) return;
      const cell = [...row.children].indexOf(event.target.closest("[role]")) - 1;
      openAt(row.place, cell < 0 ? data.cells.indexOf(view.cell) : cell);
    };
    new ResizeObserver(drawRows).observe(grid);
    $("of").onchange = (event) => go({ of: event.target.value });
    const dialog = $("answer");
    dialog.ontoggle = () => !isOpen() && view.id && go({ id: "", of: "" });
    dialog.addEventListener("focusout", ({ relatedTarget: to }) => to && !dialog.contains(to) && dialog.hidePopover());
    $("shut").onclick = () => dialog.hidePopover();
    addEventListener("popstate", follow);
  }

  fulcrum.index = (index, parts) => {
    data = { ...index, parts };
    order = {
      words: data.questions.map(([id, question]) => `${question} ${id}`.toLowerCase()),
      solved: data.questions.map((_, q) => data.scores.reduce((sum, scores) => sum + (scores[q] ?? 0), 0)),
    };
    view = fresh();
    $("absent").hidden = true;
    $("present").hidden = false;
    wire();
    drawHead();
    follow();
  };

  fulcrum.answers = (number, chunk) => waiting.get(number)?.(chunk);
}
