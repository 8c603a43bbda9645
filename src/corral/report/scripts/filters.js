// Which runs, which class and which rows are shown. An element says in data-run and data-class whose it is.
const hiddenRuns = new Set();
let shownClass = "";

function isShown(element) {
  const runs = element.dataset.run, kind = element.dataset.class;
  if (runs !== undefined && runs.split(" ").every((run) => hiddenRuns.has(run))) return false;
  if (kind !== undefined && shownClass !== "" && kind !== shownClass) return false;
  return !element.dataset.unmatched;
}

function showWhatIsChosen() {
  for (const element of document.querySelectorAll("main [data-run], main [data-class], tbody tr")) {
    if (element.closest(".filters")) continue;
    element.toggleAttribute("hidden", !isShown(element));
  }
  for (const table of document.querySelectorAll(".scroll > table")) {
    hideColumns(table);
    tellRows(table);
  }
}

// A column is of the run that its heading names.
function hideColumns(table) {
  const headers = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  if (!headers.some((header) => header.dataset.run !== undefined)) return;
  for (const row of table.tBodies[0].rows) headers.forEach((header, i) => { row.cells[i].hidden = header.hidden; });
}

function checkbox(text, checked, changed) {
  const label = document.createElement("label"), box = document.createElement("input");
  box.type = "checkbox";
  box.checked = checked;
  box.addEventListener("change", () => changed(box.checked));
  label.append(box, text);
  return label;
}

function runBoxes(runs) {
  const group = document.createElement("fieldset"), title = document.createElement("legend"), boxes = [];
  title.textContent = "Runs";
  group.append(title);
  runs.forEach((run, number) => {
    const box = checkbox(run, true, (checked) => {
      if (checked) hiddenRuns.delete(String(number)); else hiddenRuns.add(String(number));
      showWhatIsChosen();
    });
    boxes.push(box.firstChild);
    group.append(box);
  });
  const all = document.createElement("button");
  all.type = "button";
  all.textContent = "All or none";
  all.addEventListener("click", () => {
    const checked = boxes.some((box) => !box.checked);
    for (const box of boxes) if (box.checked !== checked) box.click();
  });
  group.append(all);
  return group;
}

function classChoice(classes) {
  const group = document.createElement("fieldset"), title = document.createElement("legend");
  const choice = document.createElement("select");
  title.textContent = "Class";
  choice.setAttribute("aria-label", "Class");
  choice.add(new Option("all", ""));
  classes.forEach((name, number) => choice.add(new Option(name, String(number))));
  choice.addEventListener("change", () => { shownClass = choice.value; showWhatIsChosen(); });
  group.append(title, choice);
  return group;
}

const filters = document.querySelector(".filters");
if (filters) {
  const { runs, classes } = JSON.parse(document.getElementById("filtered").textContent);
  if (runs.length > 1) filters.append(runBoxes(runs));
  if (classes.length > 1) filters.append(classChoice(classes));
  filters.hidden = filters.children.length < 2;
}
