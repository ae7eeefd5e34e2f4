//! Nothing here: this package is its tests, see `e2e/`.
