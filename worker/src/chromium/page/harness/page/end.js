return freeze({ __proto__: null, take, run, collect, status, feed, locate, load });
})
