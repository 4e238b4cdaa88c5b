/* What a person does with the table of answers, timed in the page: `await timed(step, turns)` is a list of ms. */
const timed = (() => {
  const $ = (id) => document.getElementById(id);
  const frame = () => new Promise((go) => requestAnimationFrame(() => setTimeout(go)));
  const tell = (input, kind) => input.dispatchEvent(new Event(kind, { bubbles: true }));
  const field = (name) => $("choice").elements[name];
  const set = (name, value) => ((field(name).value = value), tell(field(name), "input"));
  const nth = (list, turn) => ((list.selectedIndex = (turn * 7) % list.options.length), list);
  const press = (key) => $("grid").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const click = (turn) => {
    const rows = document.querySelectorAll("#body .row:not([hidden])");
    rows[turn % rows.length].querySelectorAll(".mark")[turn % 40].click();
  };
  const close = async () => ($("shut").click(), await frame());
  const link = (turn) => {
    const row = (turn * 4111) % ($("grid").ariaRowCount - 1);
    const view = { sort: ["hard", "easy"][turn % 2], id: `q${String(row).padStart(4, "0")}`, of: field("cell").options[turn].value };
    location.hash = `#answers?${new URLSearchParams(view)}`;
  };
  const open = async () => (($("grid").scrollTop = 0), await frame(), click(0), await answered());
  const mark = () => { for (const one of $("said").children) one.dataset.old = "yes"; };
  const answered = async () => { while (!document.querySelector("#said > :not([data-old])")) await frame(); };

  const STEPS = {
    "filter by words": { act: (turn) => set("text", ["a", "ka", "which", "q00"][turn % 4]) },
    "filter by answer": { act: (turn) => set("is", ["wrong", "right", "better", "unlike", ""][turn % 5]) },
    "choose a combination": { act: (turn) => tell(nth(field("cell"), turn), "input") },
    "sort": { act: (turn) => set("sort", ["hard", "easy", "letters", "low", ""][turn % 5]) },
    "scroll far": { act: (turn) => { $("grid").scrollTop = (turn % 2 ? 0.9 : 0.1) * $("grid").scrollHeight - turn * 300; } },
    "scroll sideways": { act: (turn) => { $("grid").scrollLeft = (turn % 2) * 900; } },
    "arrow keys": { act: (turn) => press(["ArrowDown", "ArrowRight", "PageDown", "End", "Home"][turn % 5]) },
    "open an answer": { before: async (turn) => (await close(), ($("grid").scrollTop = turn * 4111), await frame()), act: click, opens: true },
    "follow a link": { before: close, act: link, opens: true },
    "next question": { begin: open, act: () => $("after").click(), opens: true },
    "another combination": { begin: open, act: (turn) => tell(nth($("of"), turn), "change"), opens: true },
  };

  return async (name, turns) => {
    const { begin, before, act, opens } = STEPS[name];
    await close();
    $("answers").scrollIntoView(); // what is out of sight is not painted
    tell($("choice"), "reset");
    await begin?.();
    const times = [];
    for (let turn = 1; turn <= turns; turn++) {
      await before?.(turn);
      await frame();
      mark();
      const from = performance.now();
      act(turn);
      if (opens) await answered();
      await frame();
      times.push(performance.now() - from);
    }
    return times;
  };
})();
