//! `kura bootstrap` against peers of the seed era: what they have arrives, what they lack is named, nothing leaks.

#[cfg(test)]
mod joining;
#[cfg(test)]
#[expect(dead_code, reason = "stalled bodies are ordered elsewhere")]
mod peer;
#[cfg(test)]
mod runs;
