"use strict";
// Filters, a search and sorting for the long tables of a report. The page is whole without this file: it makes its own
// controls, hides and moves rows, and loads nothing. Texts of the page go into new elements as text, never as HTML.
//
// What the page says of a table:  <table data-rows="its name">
// of a column with a filter:      <th data-filter>
// of a cell with a number:        <td data-value="87.6">; cells without one (words such as "not run") are sorted last.
//
// What is chosen stands in the address, so that a link shows the same rows:
//     #rows?NAME.defense=mta&NAME.defense=rtpt&NAME-search=AdvPT&NAME-sort=down+clean
// Other fragments (#record-...) lead where they always do and change no table.
(() => {
  const PREFIX = "#rows?";
  const LONG = 20; // rows, from which on a table scrolls below its heads
  const inWords = new Intl.Collator("en", { numeric: true }); // "4 shots" before "16 shots"

  /** A new element with properties and children; strings become text. */
  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  /** The first words of a cell, without the links and notes behind them. */
  const wordsOf = (cell) => cell?.firstChild?.textContent.trim() ?? "";

  /** The checkboxes of a column: none ticked shows every row. */
  class Filter {
    constructor(column, label, texts, changed) {
      Object.assign(this, { column, label });
      this.boxes = texts.map((value) => make("input", { type: "checkbox", value, autocomplete: "off" }));
      this.summary = make("summary");
      const rows = this.boxes.map((box) => make("label", {}, box, ` ${box.value || "(empty)"}`));
      const legend = make("legend", {}, `${label}: show only rows with`);
      this.element = make("details", {}, this.summary, make("fieldset", {}, legend, ...rows));
      this.element.addEventListener("change", changed);
    }

    get ticked() {
      return this.boxes.filter((box) => box.checked).map((box) => box.value);
    }

    set ticked(values) {
      this.boxes.forEach((box) => (box.checked = values.includes(box.value)));
    }

    /** Write into the summary how many are ticked. */
    tell() {
      const ticked = this.ticked.length;
      this.summary.textContent = `${this.label}: ${ticked ? `${ticked} of ${this.boxes.length}` : "all"}`;
    }

    /** What is ticked, in words. */
    get words() {
      return this.ticked.length ? [`${this.label}: ${this.ticked.map((text) => text || "(empty)").join(" or ")}`] : [];
    }

    keeps(row) {
      return !this.ticked.length || this.ticked.includes(wordsOf(row.cells[this.column]));
    }
  }

  /** A table, its controls above it, and what is chosen: filters, the search, and the column that it is sorted by. */
  class Rows {
    constructor(table, name, title) {
      this.name = name;
      this.body = table.tBodies[0];
      this.rows = [...this.body.rows]; // in the order of the file
      this.heads = [...table.tHead.rows[0].cells];
      this.labels = this.heads.map(wordsOf);
      const textOf = (row) => [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      this.texts = new Map(this.rows.map((row) => [row, textOf(row)]));
      this.sorted = null; // or { column, down }
      const changed = () => this.show(true);
      this.filters = this.heads.flatMap((head, column) => {
        const texts = new Set(this.rows.map((row) => wordsOf(row.cells[column])));
        return "filter" in head.dataset ? [new Filter(column, this.labels[column], [...texts], changed)] : [];
      });
      this.search = make("input", { type: "search", autocomplete: "off" });
      this.search.addEventListener("input", changed);
      const reset = make("button", { type: "button" }, "Reset");
      reset.addEventListener("click", () => this.set([], "", null, true));
      this.status = make("p", { className: "shown" });
      this.status.setAttribute("role", "status"); // read out when it changes
      const controls = make("div", { className: "choose" });
      controls.setAttribute("role", "group");
      controls.setAttribute("aria-label", `Rows of ${title}`);
      const filters = this.filters.map((filter) => filter.element);
      controls.append(...filters, make("label", {}, "Search rows ", this.search), reset);
      const region = table.closest(".scroll");
      region.before(controls, this.status);
      region.classList.toggle("long", this.rows.length >= LONG);
      this.heads.forEach((_, column) => this.addButton(column));
    }

    /** Make the words of a head a button that sorts: numbers highest first, then lowest first, then as in the file. */
    addButton(column) {
      const words = this.heads[column].firstChild, button = make("button", { type: "button" });
      if (!words) return;
      words.replaceWith(button);
      button.append(words);
      button.addEventListener("click", () => {
        const first = this.hasNumbers(column), now = this.sorted;
        if (now?.column !== column) this.sorted = { column, down: first };
        else this.sorted = now.down === first ? { column, down: !first } : null;
        this.show(true);
      });
    }

    hasNumbers(column) {
      return this.rows.some((row) => row.cells[column]?.dataset.value);
    }

    /** The rows in the order that is chosen; equal ones stay in the order of the file. */
    ordered() {
      if (!this.sorted) return this.rows;
      const { column, down } = this.sorted, numbers = this.hasNumbers(column);
      const key = (row) => {
        const text = numbers ? row.cells[column]?.dataset.value : wordsOf(row.cells[column]);
        return text ? (numbers ? Number(text) : text) : null;
      };
      return [...this.rows].sort((one, other) => {
        const a = key(one), b = key(other);
        if (a === null || b === null) return (a === null) - (b === null);
        return (down ? -1 : 1) * (numbers ? a - b : inWords.compare(a, b));
      });
    }

    /** Show what is chosen; `write` it into the address, too. */
    show(write) {
      const sought = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of this.rows) {
        const matches = sought.every((word) => this.texts.get(row).includes(word));
        row.hidden = !(matches && this.filters.every((filter) => filter.keeps(row)));
      }
      this.body.append(...this.ordered());
      for (const [column, head] of this.heads.entries()) {
        head.removeAttribute("aria-sort");
        if (this.sorted?.column !== column) continue;
        head.setAttribute("aria-sort", this.sorted.down ? "descending" : "ascending");
      }
      for (const filter of this.filters) filter.tell();
      const shown = this.rows.filter((row) => !row.hidden).length, all = this.rows.length;
      const why = this.filters.flatMap((filter) => filter.words);
      if (sought.length) why.push(`search: ${sought.join(" ")}`);
      const left = all - shown, because = why.length ? ` (${why.join("; ")})` : "";
      this.status.textContent = `${shown} of ${all} rows shown${left ? `, ${left} left out` : ""}${because}.`;
      this.status.classList.toggle("part", left > 0); // then it is printed
      if (write) remember();
    }

    set(ticked, search, sorted, write = false) {
      for (const [i, filter] of this.filters.entries()) filter.ticked = ticked[i] ?? [];
      this.search.value = search;
      this.sorted = sorted;
      this.show(write);
    }

    save(chosen) {
      for (const { label, ticked } of this.filters) {
        for (const text of ticked) chosen.append(`${this.name}.${label}`, text);
      }
      if (this.search.value) chosen.set(`${this.name}-search`, this.search.value);
      if (!this.sorted) return;
      chosen.set(`${this.name}-sort`, `${this.sorted.down ? "down" : "up"} ${this.labels[this.sorted.column]}`);
    }

    /** Take what is chosen from the address, and say whether that is anything. */
    load(chosen) {
      const ticked = this.filters.map((filter) => chosen.getAll(`${this.name}.${filter.label}`));
      const search = chosen.get(`${this.name}-search`) ?? "", sort = chosen.get(`${this.name}-sort`) ?? "";
      const column = this.labels.indexOf(sort.slice(sort.indexOf(" ") + 1));
      const sorted = column < 0 ? null : { column, down: sort.startsWith("down ") };
      this.set(ticked, search, sorted);
      return Boolean(sorted || search || ticked.some((texts) => texts.length));
    }
  }

  function remember() {
    const chosen = new URLSearchParams();
    for (const table of tables) table.save(chosen);
    const text = chosen.toString();
    if (!text && !location.hash.startsWith(PREFIX)) return; // another fragment stays
    try {
      history.replaceState(null, "", text ? PREFIX + text : location.pathname + location.search);
    } catch {} // where a page may not change its address, rows are chosen all the same
  }

  /** Choose what the address says; the tables that it names. */
  function recall() {
    if (!location.hash.startsWith(PREFIX)) return [];
    const chosen = new URLSearchParams(location.hash.slice(PREFIX.length));
    return tables.filter((table) => table.load(chosen));
  }

  const tables = [];
  for (const table of document.querySelectorAll("table[data-rows]")) {
    let name = table.dataset.rows;
    while (tables.some((other) => other.name === name)) name += "'";
    tables.push(new Rows(table, name, table.closest(".scroll").getAttribute("aria-label")));
  }
  for (const table of tables) table.show(false);
  recall()[0]?.status.scrollIntoView();
  addEventListener("hashchange", recall);
})();
