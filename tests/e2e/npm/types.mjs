// What database.d.ts declares, as JSON: {tables: {name: {column: nullable}}, views, functions:
// {name: {argument: optional}}}. Argument: the folder of an unpacked package, and TypeScript's.

import { createRequire } from "node:module";
import { join } from "node:path";

const [, , folder, compiler] = process.argv;
const ts = createRequire(import.meta.url)(compiler);
const file = join(folder, "jobs/database.d.ts");
const program = ts.createProgram([file], { strict: true, module: ts.ModuleKind.NodeNext });
const checker = program.getTypeChecker();
const [declared] = checker
  .getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(file)))
  .filter((symbol) => symbol.name === "Minutehand");
const whole = checker.getDeclaredTypeOfSymbol(declared);

const typeOf = (type, name) => checker.getTypeOfSymbol(type.getProperty(name));
const members = (type, report) =>
  Object.fromEntries(type.getProperties().map((one) => [one.name, report(one)]));
const rows = (type) =>
  members(type, (table) =>
    members(typeOf(checker.getTypeOfSymbol(table), "Row"), (column) => {
      const found = checker.getTypeOfSymbol(column);
      return (found.types ?? [found]).some((part) =>
        Boolean(part.flags & (ts.TypeFlags.Null | ts.TypeFlags.Unknown)),
      );
    }),
  );

process.stdout.write(
  JSON.stringify({
    tables: rows(typeOf(whole, "Tables")),
    views: rows(typeOf(whole, "Views")),
    functions: members(typeOf(whole, "Functions"), (fn) =>
      members(typeOf(checker.getTypeOfSymbol(fn), "Args"), (argument) =>
        Boolean(argument.flags & ts.SymbolFlags.Optional),
      ),
    ),
  }),
);
