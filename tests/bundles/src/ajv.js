import Ajv from "ajv";

const check = new Ajv({ allErrors: true }).compile({
  type: "object",
  properties: { a: { type: "integer", minimum: 2 }, b: { type: "string", pattern: "^x" } },
  required: ["a"],
  additionalProperties: false,
});

export const init = () => ({
  run: () => [
    check({ a: 3, b: "xy" }),
    check({ a: 1, b: "y", c: 1 }),
    check.errors.map((error) => `${error.instancePath} ${error.message}`),
  ],
});
