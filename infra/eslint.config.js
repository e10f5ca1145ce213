// Rules of eslint for mistakes that prettier and the types do not find: unused and shadowed names,
// and wrong use of hooks and promises.

import js from "@eslint/js";
import globals from "globals";

const IMPORT = ":matches(ImportDeclaration, ImportExpression, ExportNamedDeclaration)";

/** Forbid imports of paths that match, in files of the console. */
const forbid = (path, files) => ({
  files: [`infra/console/${files}`],
  rules: {
    "no-restricted-syntax": [
      "error",
      {
        selector: `${IMPORT}[source.value=/${path}/]`,
        message: "This module is of a higher layer.",
      },
    ],
  },
});

export default [
  { ignores: ["**/node_modules/**", "**/build/**", "**/*.d.ts"] },
  js.configs.recommended,
  {
    files: ["**/*.js", "**/*.mjs", "**/*.cjs"],
    languageOptions: { ecmaVersion: 2024, globals: { ...globals.browser, ...globals.node } },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      eqeqeq: ["error", "smart"],
      "no-shadow": "error",
      "no-unused-vars": ["error", { argsIgnorePattern: "^_", caughtErrorsIgnorePattern: "^_" }],
      "no-var": "error",
      "prefer-const": "error",
      "no-implicit-coercion": ["error", { boolean: false }],
      "no-self-compare": "error",
      "array-callback-return": "error",
    },
  },
  // The layers are, from the bottom: lib/jobs, lib, api.js, parts, views, app.js.
  forbid("^\\.\\.", "lib/**"),
  forbid("parts|views|app\\.js", "api.js"),
  forbid("views|app\\.js", "parts/**"),
  forbid("^\\.[^.]|app\\.js", "views/**"), // no view imports another view
];
