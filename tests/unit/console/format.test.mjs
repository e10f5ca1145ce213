// Numbers, times and texts, at the edges where they change their unit.

import assert from "node:assert/strict";
import { test } from "node:test";
import * as format from "../../../infra/console/lib/format.js";

const NOW = Date.parse("2026-11-20T08:00:00Z");
const cases = {
  number: [
    [[12345], "12,345"],
    [[0], "0"],
    [[null], "–"],
    [[Number.NaN], "–"],
  ],
  counted: [
    [[1, "job"], "1 job"],
    [[0, "job"], "0 jobs"],
    [[2, "reply", "replies"], "2 replies"],
    [[1200, "job"], "1,200 jobs"],
  ],
  // the exception's type before its message, and none before the engine's own words
  errorLine: [
    [[{ error_message: "'XAU'", error_data: { type: "KeyError" } }], "KeyError: 'XAU'"],
    [[{ error_message: "slow", error_data: { type: "httpx.ReadTimeout" } }], "ReadTimeout: slow"],
    [
      [{ error_message: "AssertionError", error_data: { type: "AssertionError" } }],
      "AssertionError",
    ],
    [[{ error_message: "no customer", error_data: { type: "Fail" } }], "no customer"],
    [[{ error: "KeyError: 1", error_message: "1" }], "KeyError: 1"],
    [[{}], null],
  ],
  percent: [
    [[1], "100 %"],
    [[0], "0 %"],
    [[0.983], "98.3 %"],
    [[Number.NaN], "–"],
  ],
  percentage: [
    [[{ percentage: 99.9 }], 99],
    [[{ percentage: 140 }], 100],
    [[{ percentage: -1 }], 0],
    [[{}], 0],
    [[null], 0],
  ],
  duration: [
    [[-5], "0 ms"],
    [[999.4], "999 ms"],
    [[1000], "1.0 s"],
    [[60_000], "1 min 00 s"],
    [[245_000], "4 min 05 s"],
    [[3_600_000], "1 h 00 min"],
    [[11_520_000], "3 h 12 min"],
    [[86_400_000], "1 d 0 h"],
    [[187_200_000], "2 d 4 h"],
    [[Number.NaN], "–"],
  ],
  between: [
    [["2026-11-20T08:00:00Z", "2026-11-20T08:00:01.5Z"], 1500],
    [[null, "x"], Number.NaN],
  ],
  relative: [
    [["2026-11-20T08:00:40Z", NOW], "in 40s"],
    [["2026-11-20T07:57:00Z", NOW], "3m ago"],
    [["2026-11-20T08:00:01Z", NOW], "now"],
    [["2026-11-20T06:00:00Z", NOW], "2h ago"],
    [["2026-11-18T08:00:00Z", NOW], "2d ago"],
    [["never", NOW], "–"],
  ],
  utc: [
    [["2026-11-20T08:36:55.585Z"], "2026-11-20 08:36:55.585 UTC"],
    [["never"], "–"],
  ],
  codeOf: [
    [[{ commit: "0a1b2c3d4e5f", version: "7" }], "0a1b2c3d4"],
    [[{ commit: "0a1b2c3d4e5f-dirty" }], "0a1b2c3d4-dirty"],
    [[{ commit: null, version: "7" }], "7"],
    [[{}], "–"],
  ],
  clock: [
    [["2026-11-20T08:36:55.585Z"], "08:36:55.585"],
    [[null], "–"],
  ],
  shortId: [
    [["019ab-0123456789"], "23456789"],
    [[null], ""],
  ],
  money: [
    [[0.000012], "$0.000012"],
    [["1.5"], "$1.500000"],
    [[0], "–"],
    [[null], "–"],
  ],
  bytes: [
    [[0], "0 B"],
    [[999], "999 B"],
    [[12_300], "12.3 kB"],
    [[2_500_000], "2.5 MB"],
    [[7e12], "7000.0 GB"],
    [[undefined], "–"],
  ],
  safeUrl: [
    [["https://a.test/x"], "https://a.test/x"],
    [["javascript:alert(1)"], null],
    [["data:text/html,x"], null],
    [["no address"], null],
  ],
  pretty: [
    [[{ a: 1 }], '{\n  "a": 1\n}'],
    [[undefined], "undefined"],
  ],
};

for (const [name, examples] of Object.entries(cases)) {
  test(name, () => {
    for (const [given, expected] of examples)
      assert.deepEqual(format[name](...given), expected, JSON.stringify(given));
  });
}

test("every exported function has its examples", () => {
  assert.deepEqual(Object.keys(format).sort(), Object.keys(cases).sort());
});
