"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.tHead.querySelectorAll("button").forEach((button, column) => {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const up = head.getAttribute("aria-sort") === "descending" || !head.hasAttribute("aria-sort") && column === 0;
      for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = row => {
        const cell = row.cells[column];
        return "v" in cell.dataset ? Number(cell.dataset.v) : cell.textContent;
      };
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
        const sign = up ? 1 : -1;
        return typeof x === "number" ? sign * (x - y) : sign * x.localeCompare(y, undefined, { numeric: true });
      };
      body.append(...[...body.rows].sort(order));
    });
  });
}
const source = document.getElementById("answer-data");
if (source) {
  const data = JSON.parse(source.textContent);
  const at = id => document.getElementById(id);
  const [first, second, filter, search, body, count, more] =
    ["first", "second", "filter", "search", "answer-rows", "answer-count", "more"].map(at);
  const text = (column, row) => data.texts[data.columns[column].rows[row]];
  const right = (column, row) => text(column, row).trim() === data.texts[data.labels[row]].trim();
  const tests = {
    differ: (row, a, b) => text(a, row) !== text(b, row),
    one: (row, a, b) => right(a, row) !== right(b, row),
    wrong: (row, a, b) => !right(a, row) || !right(b, row),
    both: (row, a, b) => !right(a, row) && !right(b, row),
    all: () => true,
  };
  let found = [], shown = 0;
  const cell = (value, name) => {
    const td = document.createElement("td");
    td.textContent = value;
    if (name) td.className = name;
    return td;
  };
  const show = () => {
    const [a, b] = [Number(first.value), Number(second.value)];
    const wanted = [...new Set([...data.columns.keys()].filter(c => data.columns[c].base).concat([a, b]))];
    const head = at("answer-head");
    for (const row of found.slice(shown, shown + 50)) {
      const tr = document.createElement("tr");
      tr.append(cell(row + 1, "n"), cell(data.texts[data.questions[row]], "q"), cell(data.texts[data.labels[row]]));
      for (const c of wanted) tr.append(cell(text(c, row), right(c, row) ? "hit" : "miss"));
      body.append(tr);
    }
    shown = Math.min(shown + 50, found.length);
    head.replaceChildren(...["row", "question", "label", ...wanted.map(c => data.columns[c].title)].map(name => {
      const th = document.createElement("th");
      th.scope = "col";
      th.textContent = name;
      return th;
    }));
    count.textContent = `${found.length} of ${data.labels.length} rows, ${shown} shown`;
    more.hidden = shown >= found.length;
  };
  const begin = () => {
    const [a, b, words] = [Number(first.value), Number(second.value), search.value.toLowerCase()];
    found = [];
    for (let row = 0; row < data.labels.length; row++) {
      if (!tests[filter.value](row, a, b)) continue;
      const all = [data.texts[data.questions[row]], data.texts[data.labels[row]], text(a, row), text(b, row)];
      if (!words || all.some(each => each.toLowerCase().includes(words))) found.push(row);
    }
    body.replaceChildren();
    shown = 0;
    show();
  };
  for (const control of [first, second, filter]) control.addEventListener("change", begin);
  search.addEventListener("input", begin);
  more.addEventListener("click", show);
  begin();
}
