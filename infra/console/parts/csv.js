// Reads and writes CSV files with the library Papa Parse, which is loaded when it is first needed.

const library = () => import("papaparse").then((module) => module.default);

/**
 * Cells to which `writeCsv` adds a quote: formulas, which a spreadsheet program would run, and cells
 * that would otherwise lose a quote of their own when they are read.
 */
const QUOTED = /^'*[=+\-@\t\r]/;

/**
 * Read a CSV file into objects. The objects' property names are the column names in lower case,
 * with underscores for spaces.
 */
export async function readCsv(file) {
  const { parse } = await library();
  const nameOf = (head) => head.trim().toLowerCase().replaceAll(" ", "_");
  const transform = (cell) => (QUOTED.test(cell) ? cell.replace(/^'/, "") : cell);
  const options = { header: true, skipEmptyLines: "greedy", transformHeader: nameOf, transform };
  return parse(decode(await file.arrayBuffer()), options).data;
}

/** Decode UTF-8, or the encoding in which spreadsheet programs on Windows save CSV files. */
function decode(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("windows-1252").decode(bytes);
  }
}

/**
 * Write objects as CSV. If a spreadsheet program would run a cell as a formula, the cell gets a
 * quote as its first character.
 */
export async function writeCsv(rows) {
  const { unparse } = await library();
  return unparse(rows, { escapeFormulae: QUOTED });
}
