// Reads and writes CSV files with the library Papa Parse, which is loaded when it is first needed.

const library = () => import("papaparse").then((module) => module.default);

/** Read a CSV file into objects. Column names become lower case, with underscores for spaces. */
export async function readCsv(file) {
  const { parse } = await library();
  const nameOf = (head) => head.trim().toLowerCase().replaceAll(" ", "_");
  const options = { header: true, skipEmptyLines: "greedy", transformHeader: nameOf };
  return parse(await file.text(), options).data;
}

/**
 * Write objects as CSV. A cell that a spreadsheet would run as a formula gets a quote as its first
 * character.
 */
export async function writeCsv(rows) {
  const { unparse } = await library();
  return unparse(rows, { escapeFormulae: true });
}
