//! `kura bootstrap` against peers of the seed era: what they have arrives, what they lack is named, nothing leaks.

#[cfg(test)]
mod joining;
#[cfg(test)]
mod peer;
#[cfg(test)]
mod runs;
