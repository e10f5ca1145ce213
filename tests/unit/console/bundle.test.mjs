// Measures how many bytes of the npm package a page must load.

import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

/** Maximum number of bytes of an import, minified and compressed. */
const SIZES = { enqueue: 1700, watchJobs: 6750, watchJob: 8600 };

for (const [name, limit] of Object.entries(SIZES))
  test(`${name} is small`, async () => {
    const contents = `export { ${name} } from "../../../infra/console/lib/jobs.js"`;
    const {
      outputFiles: [file],
    } = await build({
      stdin: { contents, resolveDir: import.meta.dirname },
      bundle: true,
      minify: true,
      format: "esm",
      write: false,
    });
    const { length } = gzipSync(file.contents);
    assert.ok(length <= limit, `${name} has ${length} bytes, and its limit is ${limit}`);
  });
