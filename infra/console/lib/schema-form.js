// Converts a JSON Schema to form fields, and the fields to a payload. Pure.

const without = (schema, ...names) =>
  Object.fromEntries(Object.entries(schema).filter(([name]) => !names.includes(name)));

/** Resolve a schema's reference within the document and merge both schemas. */
function resolve(schema, root, depth = 0) {
  if (!schema || typeof schema !== "object" || depth > 8) return {};
  if (typeof schema.$ref === "string" && schema.$ref.startsWith("#/")) {
    const target = schema.$ref
      .slice(2)
      .split("/")
      .reduce((node, part) => node?.[part.replaceAll("~1", "/").replaceAll("~0", "~")], root);
    return { ...resolve(target, root, depth + 1), ...without(schema, "$ref") };
  }
  // pydantic writes an optional field as anyOf [type, null]
  const choices = (schema.anyOf ?? schema.oneOf)?.filter((one) => one.type !== "null");
  if (choices?.length === 1)
    return { ...resolve(choices[0], root, depth + 1), ...without(schema, "anyOf", "oneOf") };
  if (schema.allOf?.length === 1)
    return { ...resolve(schema.allOf[0], root, depth + 1), ...schema, allOf: undefined };
  return schema;
}

const SIMPLE = new Set(["string", "integer", "number", "boolean"]);

/** Return a payload's fields in the schema's order, or null if it has no properties. */
export function fieldsOf(root) {
  const schema = resolve(root, root);
  if (!schema.properties || Object.keys(schema.properties).length === 0) return null;
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties).map(([name, given]) => {
    const field = resolve(given, root);
    const type = Array.isArray(field.type) ? field.type.find((one) => one !== "null") : field.type;
    const kind =
      field.enum || "const" in field
        ? "choice"
        : !SIMPLE.has(type)
          ? "json"
          : type === "boolean"
            ? "flag"
            : type === "string"
              ? (field.maxLength ?? 0) > 200
                ? "long"
                : "text"
              : "number";
    return {
      name,
      label: name,
      hint: hintOf(field, type),
      kind,
      isRequired: required.has(name),
      schema: { ...field, type },
      choices: field.enum ?? ("const" in field ? [field.const] : []),
    };
  });
}

function hintOf(field, type) {
  const parts = [field.description, field.format, type === "array" ? "a list" : null];
  if (field.minimum !== undefined || field.maximum !== undefined)
    parts.push(`${field.minimum ?? "…"} to ${field.maximum ?? "…"}`);
  if (field.maxLength !== undefined) parts.push(`up to ${field.maxLength} characters`);
  if (field.pattern) parts.push(field.pattern);
  return parts.filter(Boolean).join(" · ");
}

/** Return a form's initial texts from a payload or the schema's defaults. */
export function draftOf(fields, payload = {}) {
  return Object.fromEntries(
    fields.map(({ name, kind, schema }) => {
      const value = payload[name] ?? schema.default;
      if (kind === "flag")
        return [name, value === undefined || value === null ? "" : String(value)];
      if (value === undefined || value === null) return [name, ""];
      return [name, kind === "json" ? JSON.stringify(value, null, 2) : String(value)];
    }),
  );
}

/** Convert a draft to a payload and a problem by field. Empty optional fields are omitted. */
export function payloadOf(fields, draft) {
  const payload = {};
  const problems = {};
  for (const { name, kind, isRequired, schema, choices } of fields) {
    const text = draft[name] ?? "";
    if (text === "") {
      if (isRequired && (kind !== "text" || schema.minLength > 0)) problems[name] = "is required";
      else if (isRequired) payload[name] = "";
      continue;
    }
    if (kind === "number") {
      const value = Number(text);
      if (!Number.isFinite(value) || (schema.type === "integer" && !Number.isInteger(value)))
        problems[name] = schema.type === "integer" ? "must be a whole number" : "must be a number";
      else payload[name] = value;
    } else if (kind === "flag") payload[name] = text === "true";
    else if (kind === "choice") payload[name] = choices.find((one) => String(one) === text) ?? text;
    else if (kind === "json") {
      try {
        payload[name] = JSON.parse(text);
      } catch (error) {
        problems[name] = `must be JSON: ${error.message}`;
      }
    } else payload[name] = text;
  }
  return { payload, problems };
}
