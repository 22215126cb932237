"use strict";
/* Sorts and filters the tables; everything they hold is in the page already. */
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
const UNITS = { n: 1e-9, "µ": 1e-6, m: 1e-3, k: 1e3, M: 1e6, G: 1e9 };
function value(row, column) {
  const text = row.cells[column].firstChild ? row.cells[column].firstChild.textContent.trim() : "";
  const found = text.match(/^(-?[\d.]+)\s*([nµmkMG]?)J?\b/u);
  return found && /^[-\d]/.test(text) ? Number(found[1]) * (UNITS[found[2]] || 1) : text.toLowerCase();
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button"), name = head.textContent;
    button.type = "button"; button.textContent = name;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const order = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending", sign = order === "ascending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows], known = v => typeof v === "number";
      rows.sort((a, b) => {
        const x = value(a, column), y = value(b, column);
        return known(x) !== known(y) ? (known(x) ? -1 : 1) : sign * (x < y ? -1 : x > y ? 1 : 0);
      });
      table.tBodies[0].append(...rows);
      heads.forEach(each => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
    });
  });
}
for (const field of document.querySelectorAll("input.filter"))
  field.addEventListener("input", () => {
    for (const row of document.getElementById(field.dataset.table).tBodies[0].rows)
      row.hidden = !row.textContent.toLowerCase().includes(field.value.toLowerCase());
  });
document.documentElement.dataset.ready = "yes";
