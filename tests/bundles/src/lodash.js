import _ from "lodash";

const greet = _.template("hi <%= name %>!");

export const init = () => ({
  run: () => [
    _.chunk([1, 2, 3, 4, 5], 2),
    _.camelCase("Foo bar-baz"),
    greet({ name: "you" }),
    _.merge({ a: { b: 1 } }, { a: { c: 2 } }),
    _.isPlainObject({}),
    _.cloneDeep({ at: new Date(0) }),
  ],
});
