// Every table in a .scroll box can be sorted, filtered and saved; without this script it is a table all the same.
const FEWEST_FILTERED = 4;

const text = (cell) => cell.textContent.trim().replace(/\s+/g, " ");
const exact = (cell) => cell.dataset.value ?? text(cell);
const shown = (elements) => [...elements].filter((element) => !element.hidden);
// A bar draws the number beside it.
const saved = (elements) => shown(elements).filter((element) => !element.classList.contains("bar"));

function number(cell) {
  const found = exact(cell).replace(/,/g, "").match(/^[-+−]?\d+(\.\d+)?(e[-+]?\d+)?(\/\d+)?/i);
  if (!found) return null;
  const [above, below] = found[0].replace("−", "-").split("/");
  return Number(above) / Number(below ?? 1);
}

function sorted(rows, column, direction) {
  const cells = new Map(rows.map((row) => [row, row.cells[column]]));
  const known = rows.filter((row) => !["", "–"].includes(text(cells.get(row))));
  const numeric = known.every((row) => number(cells.get(row)) !== null);
  const compare = numeric
    ? (a, b) => number(cells.get(a)) - number(cells.get(b))
    : (a, b) => text(cells.get(a)).localeCompare(text(cells.get(b)), undefined, { numeric: true });
  return [...known.sort((a, b) => direction * compare(a, b)), ...rows.filter((row) => !known.includes(row))];
}

function makeSortable(table) {
  const body = table.tBodies[0], given = [...body.rows];
  const headers = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      // Numbers begin with the highest; the third press gives the first order again.
      const turns = header.classList.contains("number") ? ["descending", "ascending"] : ["ascending", "descending"];
      const next = turns[turns.indexOf(header.getAttribute("aria-sort")) + 1];
      for (const other of headers) other.removeAttribute("aria-sort");
      if (next) header.setAttribute("aria-sort", next);
      body.append(...(next ? sorted(given.slice(), column, next === "ascending" ? 1 : -1) : given));
    });
  });
}

function tellRows(table) {
  const told = table.parentElement.previousElementSibling?.querySelector("output");
  const all = table.tBodies[0].rows;
  if (told) told.textContent = shown(all).length === all.length ? "" : `${shown(all).length} of ${all.length} rows`;
}

function headings(table) {
  const rows = [...table.tHead.rows], last = saved(rows.pop().cells).map(text);
  if (!rows.length) return last;
  // Titles above several columns go before the names of these.
  const above = saved(rows[0].cells).flatMap((cell) => Array(cell.colSpan).fill(text(cell)));
  return last.map((name, i) => (above[i] ? `${above[i]}: ${name}` : name));
}

function asRows(table) {
  return [headings(table), ...shown(table.tBodies[0].rows).map((row) => saved(row.cells).map(exact))];
}

function asCsv(rows) {
  const quoted = (cell) => (/[",\n]/.test(cell) ? `"${cell.replace(/"/g, '""')}"` : cell);
  return rows.map((row) => row.map(quoted).join(",") + "\r\n").join("");
}

function asObjects([names, ...rows]) {
  return rows.map((row) => Object.fromEntries(row.map((cell, i) => [names[i], cell])));
}

function save(name, kind, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function button(words, label, pressed) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = words;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", pressed);
  return made;
}

function tools(table) {
  const bar = document.createElement("div"), caption = text(table.caption), told = document.createElement("output");
  const file = `${document.body.dataset.name}-${table.dataset.name}`;
  bar.className = "tools";
  if (table.tBodies[0].rows.length >= FEWEST_FILTERED) {
    const field = document.createElement("input");
    field.type = "search";
    field.placeholder = "Filter rows";
    field.setAttribute("aria-label", `Filter rows: ${caption}`);
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase();
      for (const row of table.tBodies[0].rows) {
        if (text(row).toLowerCase().includes(wanted)) delete row.dataset.unmatched; else row.dataset.unmatched = "1";
      }
      showWhatIsChosen();
    });
    bar.append(field);
  }
  bar.append(
    button("CSV", `Download CSV: ${caption}`, () => save(`${file}.csv`, "text/csv", asCsv(asRows(table)))),
    button("JSON", `Download JSON: ${caption}`, () =>
      save(`${file}.json`, "application/json", JSON.stringify(asObjects(asRows(table)), null, 2))),
    told,
  );
  return bar;
}

for (const table of document.querySelectorAll(".scroll > table")) {
  makeSortable(table);
  table.parentElement.before(tools(table));
}

for (const place of document.querySelectorAll(".records")) {
  for (const record of document.querySelectorAll("script.record")) {
    const name = record.dataset.name;
    place.append(button(`${name}.json`, `Download record ${name}.json`, () =>
      save(`${name}.json`, "application/json", record.textContent)));
  }
  place.hidden = place.children.length === 0;
}
