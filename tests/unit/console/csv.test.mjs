// Tests that a CSV file keeps its values, and that a spreadsheet program runs none of them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { readCsv, writeCsv } from "../../../infra/console/parts/csv.js";

const FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=1\n2", "'=1"];
const TEXTS = ["Zwölf 🙂", "a,b;c", 'say "hi"', "two\nlines", " spaces ", "'quote", "a=1", ""];
const rowsOf = (texts) => texts.map((text, id) => ({ id: `${id}`, text }));

for (const formula of FORMULAS)
  test(`the formula ${JSON.stringify(formula)} is written as text`, async () => {
    const cell = (await writeCsv([{ formula }])).split("\r\n")[1];
    assert.match(cell, /^"?'/);
  });

test("numbers are written as numbers", async () => {
  assert.equal(await writeCsv([{ a: -1, b: null }]), "a,b\r\n-1,");
});

test("a file that was written has the same values when it is read", async () => {
  const rows = rowsOf([...TEXTS, ...FORMULAS]);
  assert.deepEqual(await readCsv(new Blob([await writeCsv(rows)])), rows);
});

test("a file of a spreadsheet program on Windows is read", async () => {
  const file = new Blob([Buffer.from("Name ;Employee Count\r\nZwölf;12\r\n;\r\n", "latin1")]);
  assert.deepEqual(await readCsv(file), [{ name: "Zwölf", employee_count: "12" }]);
});

test("a file in UTF-8 is read without its byte order mark", async () => {
  assert.deepEqual(await readCsv(new Blob(["\ufeffname\nZwölf\n"])), [{ name: "Zwölf" }]);
});
