//! Empty: this package consists of its tests, see `e2e/`.
