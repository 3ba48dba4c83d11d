// Sort a table by a column: a click on its head, again for the other direction.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const value = (row) => row.cells[head.cellIndex].dataset.sort ?? "";
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // missing ones last, either way
      const known = [x, y].every((text) => Number.isFinite(Number(text)));
      const compared = known ? Number(x) - Number(y) : x.localeCompare(y);
      return down ? -compared : compared;
    };
    body.append(...[...body.rows].sort(order));
  });
}
