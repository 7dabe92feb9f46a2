"use strict";
// Columns sort by a button in their heads: a second press turns the order around.
const order = (cell) => cell.dataset.order === undefined ? cell.textContent : Number(cell.dataset.order);
const compare = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b
    : typeof a === typeof b ? a.localeCompare(b, "en", { numeric: true })
      : typeof a === "number" ? -1 : 1;
for (const table of document.querySelectorAll(".table table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const values = [order(a.cells[column]), order(b.cells[column])];
        // What has no number stays last, whatever the order.
        if (typeof values[0] !== typeof values[1]) return compare(...values);
        return descending ? compare(values[1], values[0]) : compare(...values);
      });
      table.tBodies[0].append(...rows);
    });
  });
}
