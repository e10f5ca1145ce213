// Reads and writes CSV files with the library Papa Parse, which is loaded when it is first needed.

const library = () => import("papaparse").then((module) => module.default);

/** The quote that `writeCsv` adds to a cell that a spreadsheet program would run as a formula. */
const ADDED_QUOTE = /^'(?=[=+\-@\t\r])/;

/**
 * Read a CSV file into objects. The objects' property names are the column names in lower case,
 * with underscores for spaces.
 */
export async function readCsv(file) {
  const { parse } = await library();
  const nameOf = (head) => head.trim().toLowerCase().replaceAll(" ", "_");
  const transform = (cell) => cell.replace(ADDED_QUOTE, "");
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
  return unparse(rows, { escapeFormulae: true });
}
