//! Every parser of what comes from outside over its corpus, and over changed copies of that: it must come back.
//!
//! The targets are functions over bytes ([`targets`]); `make fuzz` runs the same ones under libFuzzer, from the same
//! corpus. A crash it finds goes into the corpus as a file, and is a test from then on.

#[cfg(test)]
mod multipart;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod targets;

#[cfg(test)]
#[path = "../support/bodies.rs"]
#[expect(dead_code, reason = "only its generator is used here")]
mod bodies;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::bodies::SplitMix;
    use super::seeds::seeds;
    use super::targets::{TARGETS, Target};

    /// Changed copies of each file of a corpus.
    const CHANGES: usize = 60;

    /// Of a longer file only this much is cut byte by byte.
    const CUTS_MAX: usize = 300;

    fn corpus(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
    }

    fn run(name: &str, target: Target, data: &[u8]) {
        let outcome = std::panic::catch_unwind(|| target(data));
        assert!(outcome.is_ok(), "{name} does not come back from {}", hex::encode(data));
    }

    fn changed(data: &[u8], random: &mut SplitMix) -> Vec<u8> {
        let mut data = data.to_vec();
        for _ in 0..=random.next() % 3 {
            let at = random.next() as usize % data.len().max(1);
            match (random.next() % 4, data.get_mut(at)) {
                (0, Some(byte)) => *byte ^= 1 << (random.next() % 8),
                (1, Some(byte)) => *byte = random.next() as u8,
                (2, Some(_)) => drop(data.remove(at)),
                _ => data.insert(at.min(data.len()), random.next() as u8),
            }
        }
        data
    }

    #[test]
    fn every_target_comes_back_from_its_corpus_cut_and_changed() {
        let mut random = SplitMix::new(1);
        for (name, target) in TARGETS {
            run(name, target, b"");
            let files = std::fs::read_dir(corpus(name)).expect("a corpus").flatten();
            let mut files: Vec<PathBuf> = files.map(|file| file.path()).collect();
            files.sort();
            for file in files {
                let data = std::fs::read(file).expect("reading the corpus");
                run(name, target, &data);
                (0..data.len().min(CUTS_MAX)).for_each(|cut| run(name, target, &data[..cut]));
                (0..CHANGES).for_each(|_| run(name, target, &changed(&data, &mut random)));
            }
        }
    }

    /// So that the corpus begins with what really travels; `KURA_GENERATE=1` writes it.
    #[test]
    fn the_corpus_holds_every_seed() {
        for (name, number, seed) in seeds() {
            let path = corpus(name).join(format!("seed-{number}"));
            if std::env::var_os("KURA_GENERATE").is_some() {
                std::fs::create_dir_all(corpus(name)).expect("making a corpus");
                std::fs::write(&path, &seed).expect("writing a seed");
            }
            let held = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(held == seed, "{} is another one; KURA_GENERATE=1 writes it anew", path.display());
        }
    }
}
