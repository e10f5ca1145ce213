// Bundles the local Supabase's gateway: `node infra/release/gateway.mjs MODULE FOLDER` writes the
// main module MODULE with its npm packages into the folder, and the licenses of these packages.
//
// The package `postgres` is copied instead, because the gateway recognizes its errors by their path.

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
  // Some packages call `require`, which a module must create.
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
