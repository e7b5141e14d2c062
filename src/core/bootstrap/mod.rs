//! Catching up from peers: one engine behind `serve` and `kura bootstrap`.
