// Measures how many bytes of the npm package a page must load.

import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

/** Maximum number of bytes of an import, minified and compressed, without modules on demand. */
const SIZES = { enqueue: 1700, watchJobs: 5200, watchJob: 6000 };

const withoutModulesOnDemand = {
  name: "without modules on demand",
  setup(bundler) {
    bundler.onResolve({ filter: /./ }, ({ path, kind }) =>
      kind === "dynamic-import" ? { path, external: true } : undefined,
    );
  },
};

async function sizeOf(contents) {
  const resolveDir = `${import.meta.dirname}/../../../infra/console/lib/jobs`;
  const {
    outputFiles: [file],
  } = await build({
    stdin: { contents, resolveDir },
    bundle: true,
    minify: true,
    format: "esm",
    write: false,
    plugins: [withoutModulesOnDemand],
  });
  return gzipSync(file.contents).length;
}

for (const [name, limit] of Object.entries(SIZES))
  test(`${name} is small`, async () => {
    const size = await sizeOf(`export { ${name} } from "../jobs.js"`);
    assert.ok(size <= limit, `${name} has ${size} bytes, and its limit is ${limit}`);
  });
