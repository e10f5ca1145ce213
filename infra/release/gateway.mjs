// Bundles the API gateway of the local Supabase. `node infra/release/gateway.mjs MODULE FOLDER`
// writes the main module MODULE with its npm packages into the folder, and writes the licenses of
// the packages.
//
// The package `postgres` is copied and not bundled, because the gateway recognizes errors of this
// package by their file path.

import { cp, mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { build } from "esbuild";
import { licensesOf } from "./licenses.mjs";

const ROOT = join(import.meta.dirname, "../..");
const DRIVER = "node_modules/postgres";
const [module, folder] = process.argv.slice(2);

await rm(folder, { recursive: true, force: true });
await mkdir(folder, { recursive: true });
const { metafile } = await build({
  absWorkingDir: ROOT,
  entryPoints: [module],
  outfile: join(folder, "server.mjs"),
  bundle: true,
  // Some packages call `require`, which does not exist in an ES module, so the bundle creates it.
  banner: {
    js: 'import{createRequire}from"node:module";const require=createRequire(import.meta.url);',
  },
  external: ["postgres"],
  format: "esm",
  metafile: true,
  nodePaths: [join(ROOT, "node_modules")],
  platform: "node",
  target: "node22",
});
await writeFile(join(folder, "licenses.txt"), await licensesOf(metafile, ROOT));
for (const part of ["package.json", "src"])
  await cp(join(ROOT, DRIVER, part), join(folder, DRIVER, part), { recursive: true });
