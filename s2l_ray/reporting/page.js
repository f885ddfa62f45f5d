// Draws figures, those in closed boxes when they come into view; sorts tables on a click; filters the shown rows.
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Set();

function theme() {
  const style = getComputedStyle(document.documentElement);
  const [text, line] = ["--text", "--line"].map((name) => style.getPropertyValue(name).trim());
  return { text, line };
}

function themed(layout) {
  const { text, line } = theme();
  const colored = { ...layout, font: { color: text, family: "system-ui, sans-serif" } };
  for (const name of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
    colored[name] = { ...layout[name], gridcolor: line, zerolinecolor: line, linecolor: line };
  }
  return colored;
}

function draw(element) {
  const { data, layout } = figures[element.dataset.figure];
  Plotly.react(element, data, themed(layout), { responsive: true, displaylogo: false, displayModeBar: false });
  drawn.add(element);
}

const observer = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((one) => one.isIntersecting)) {
    observer.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "400px" });
const all = [...document.querySelectorAll(".figure")];
for (const element of all) {
  element.style.minHeight = `${figures[element.dataset.figure].layout.height ?? 0}px`;
  observer.observe(element);
}

// One at a time, so that the page reacts meanwhile.
function drawNext(elements) {
  const element = elements.find((one) => !drawn.has(one));
  if (element === undefined) return;
  observer.unobserve(element);
  draw(element);
  setTimeout(() => drawNext(elements));
}
drawNext(all.filter((element) => !element.closest("details")));
dark.addEventListener("change", () => drawn.forEach(draw));

function sortBy(header) {
  const body = header.closest("table").tBodies[0];
  const column = header.cellIndex;
  const descending = header.getAttribute("aria-sort") !== "descending";
  header.parentElement.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const numeric = header.classList.contains("n");
  const order = (a, b) => (numeric ? value(a) - value(b) : value(a).localeCompare(value(b)));
  const rows = [...body.rows].sort((a, b) => (descending ? -order(a, b) : order(a, b)));
  body.append(...rows);
}
document.querySelectorAll(".sortable th").forEach((header) => header.addEventListener("click", () => sortBy(header)));

// Rows without the text are hidden, and so are the boxes in which no row is left.
function search(text) {
  const wanted = text.trim().toLowerCase();
  let found = 0;
  for (const box of document.querySelectorAll("details:has(.row)")) {
    let left = 0;
    for (const row of box.querySelectorAll(".row")) {
      row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
      left += row.hidden ? 0 : 1;
    }
    box.hidden = left === 0;
    box.open = wanted !== "" && left > 0;
    found += left;
  }
  document.getElementById("found").textContent = wanted ? `${found} rows` : "";
}
document.getElementById("search")?.addEventListener("input", (event) => search(event.target.value));

function openTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
addEventListener("hashchange", openTarget);
openTarget();
