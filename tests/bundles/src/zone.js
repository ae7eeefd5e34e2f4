import "zone.js";

export const init = () => ({
  run: () =>
    Zone.current.fork({ name: "child", properties: { key: 7 } }).run(() => {
      const before = [Zone.current.name, Zone.current.get("key")];
      return new Promise((done) => setTimeout(done, 1)).then(() => [...before, Zone.current.name]);
    }),
});
