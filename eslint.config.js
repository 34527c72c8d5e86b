import js from "@eslint/js";
import { defineConfig } from "eslint/config";
import prettier from "eslint-config-prettier";
import tseslint from "typescript-eslint";

/** What a driver, a protocol, the bus and the host's state machines may not reach for: it is handed to them. */
const ambientGlobals = [
  "Buffer",
  "Date",
  "performance",
  "process",
  "crypto",
  "setTimeout",
  "setInterval",
  "setImmediate",
  "queueMicrotask",
];

export default defineConfig(
  { ignores: ["**/dist/**", "**/node_modules/**", "**/.turbo/**", "**/.cache/**"] },
  js.configs.recommended,
  tseslint.configs.strictTypeChecked,
  tseslint.configs.stylisticTypeChecked,
  {
    languageOptions: { parserOptions: { project: ["./tsconfig.json"] } },
    rules: {
      "@typescript-eslint/switch-exhaustiveness-check": [
        "error",
        { considerDefaultExhaustiveForUnions: true },
      ],
      "@typescript-eslint/consistent-type-imports": "error",
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
      // On packet paths the index is already checked; `!` costs nothing where `?? 0` would branch.
      "@typescript-eslint/no-non-null-assertion": "off",
      // `number & {}` keeps open enumerations open; see the wire formats.
      "@typescript-eslint/no-empty-object-type": "off",
      "@typescript-eslint/no-redundant-type-constituents": "off",
      "@typescript-eslint/unified-signatures": "off",
      eqeqeq: "error",
    },
  },
  {
    files: ["packages/*/src/**/*.ts"],
    ignores: ["packages/*/src/node/**", "packages/*/src/bin/**", "packages/platform-node/**"],
    rules: {
      "no-restricted-globals": ["error", ...ambientGlobals],
      "no-restricted-properties": ["error", { object: "Math", property: "random" }],
      "no-restricted-imports": [
        "error",
        { patterns: [{ group: ["node:*", "**/node/*", "**/bin/*"] }] },
      ],
    },
  },
  // Plain JavaScript is checked by tsc (checkJs); its JSDoc casts mean nothing to the linter.
  { files: ["**/*.{js,mjs}"], ...tseslint.configs.disableTypeChecked },
  {
    files: ["**/*.{js,mjs}"],
    languageOptions: { globals: { console: "readonly", process: "readonly", URL: "readonly" } },
  },
  prettier,
);
