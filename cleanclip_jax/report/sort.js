/* Sorts a table by the column whose head is clicked, and opens the place that a link leads to. */
(() => {
  "use strict";
  const number = (text) => {
    const match = text.trim().replace(/,(?=\d{3})/g, "").match(/^[-+]?\d*\.?\d+(e[-+]?\d+)?/i);
    return match ? Number(match[0]) : NaN;
  };
  /* Of texts, the order of their rows: numbers by value, others by letter after them, "" last. */
  const order = (texts, down) => {
    const sign = down ? -1 : 1;
    const rank = (text) => (text.trim() === "" ? 2 : Number.isNaN(number(text)) ? 1 : 0);
    return texts.map((_, row) => row).sort((a, b) => {
      const one = texts[a], other = texts[b], by = rank(one) - rank(other);
      if (by) return by;
      const less = rank(one) ? one.localeCompare(other) : number(one) - number(other);
      return sign * less || a - b;
    });
  };
  const sort = (table, column, head) => {
    const body = table.tBodies[0], rows = [...body.rows];
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const each of head.parentNode.children) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    for (const row of order(rows.map((r) => r.cells[column].textContent), down)) {
      body.appendChild(rows[row]);
    }
  };
  for (const table of document.querySelectorAll("table.sort")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.addEventListener("click", () => sort(table, column, head));
      head.replaceChildren(button);
    });
  }
  const open = () => {
    const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (place && place.tagName === "DETAILS") {
      place.open = true;
      place.scrollIntoView();
    }
  };
  window.addEventListener("hashchange", open);
  open();
})();
