// Long tables are sorted and searched by DataTables; a short one stays as it is.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.sortable, .cell_output table, .output table")) {
    const rows = table.tBodies.length ? table.tBodies[0].rows.length : 0;
    if (!table.tHead || rows < 2 || (rows <= 15 && !table.classList.contains("sortable"))) continue;
    new DataTable(table, {
      order: [], autoWidth: false, pageLength: 25, paging: rows > 25, info: rows > 25, lengthMenu: [25, 100, { label: "all", value: -1 }],
    });
  }
});
