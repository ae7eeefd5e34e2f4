// The contract of the fault tests. It records the calls that it ran in its page's own state.
let count = 0;
const times = new Map();

const add = (id) => {
    count += 1;
    times.set(id, (times.get(id) ?? 0) + 1);
    return { id, times: times.get(id), count };
};

// Keeps the page busy for `ms` milliseconds.
const work = ({ id, ms }) => {
    const end = performance.now() + ms;
    while (performance.now() < end);
    return add(id);
};

// Answers after `ms` milliseconds and lets other calls run meanwhile.
const wait = ({ id, ms }) => new Promise((resolve) => setTimeout(() => resolve(add(id)), ms));

const forever = () => { for (;;); };

// Allocates memory until the page crashes.
const fill = () => { for (const all = []; ;) all.push(new Array(1e6).fill(all.length + 0.5)); };

// The given ids that were run.
const known = (ids) => ids.filter((id) => times.has(id));

// The ids that were run more than once.
const repeated = () => [...times].filter(([, n]) => n > 1).map(([id]) => id);

const init = () => ({ add, work, wait, forever, fill, known, repeated });
