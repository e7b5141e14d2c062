#!/usr/bin/env bash
# Breaks the engine in one place after another, in a copy, and counts the simulated meshes until one notices.
# At most SEEDS (400) for each, from FIRST (1) on; arguments pick mutations by name. A table comes out; 1 if one was missed.
#
# How it works: every mutation is put into the copy at once, each behind a look at the environment, so that one build
# serves all of them. A substitution that fits nothing any more is an error.
set -euo pipefail
cd "$(git rev-parse --show-toplevel)"
seeds=${SEEDS:-400} first=${FIRST:-1}
copy=target/mutations

# name | file | what is broken | substitution (perl, over the whole file; M(name) stands for "this one is on")
mutations() {
    cat <<'END'
unbroken | src/lib.rs | nothing | s/\z/\n/
committer-takes-older | src/core/store/version.rs | the committer does not look again whether a newer version came | s/existing\.version\(\) >= version => Some/existing.version() == version || (!M \&\& existing.version() > version) => Some/
deleted-is-served | src/core/store/state.rs | reads do not filter by tombstones | s/record\.version_ms <= version_ms/!M \&\& record.version_ms <= version_ms/
cursor-runs-ahead | src/core/bootstrap/pass.rs | the cursor is saved before its page is settled | s/(        let \(settled, next\) = tokio::join!)/        if M { source.page_settled().await?; }\n$1/; s/(summary\.add\(&settled\?\);\n)        source\.page_settled\(\)\.await\?;\n/$1        if !M { source.page_settled().await?; }\n/
follower-runs-ahead | src/core/bootstrap/follow.rs | the same while following | s/(        settle_page\(&pass, page\)\.await\?;)/        if M { source.page_settled().await?; }\n$1/; s/(fetch_beside\(&pass, large, &mut beside\)\.await\?;\n)        source\.page_settled\(\)\.await\?;\n/$1        if !M { source.page_settled().await?; }\n/
body-digest-unchecked | src/core/bootstrap/fetch.rs | a body is taken whatever its digest | s/ && record\.digest != body\.digest \{/ \&\& record.digest != body.digest \&\& !M {/
page-digest-unchecked | src/core/mesh/feed_frames.rs | a feed page is taken whatever its digest | s/if Digest::of\(before\)\.as_bytes\(\)\.as_slice\(\) == digest \{/if M || Digest::of(before).as_bytes().as_slice() == digest {/
listing-digest-unchecked | src/core/mesh/client.rs | a JSON listing is taken whatever its digest | s/Some\(digest\) if digest\.as_bytes\(\)/Some(digest) if !M \&\& digest.as_bytes()/
unsettled-is-forgotten | src/core/bootstrap/wanted.rs | what did not arrive is not noted | s/if unsettled\.is_empty\(\) \{/if M || unsettled.is_empty() {/
epoch-is-ignored | src/core/store/epochs.rs | a cursor of an unknown epoch counts | s/(else \{) return Ok\(CursorCheck::Void\) (\};)/$1\n        return Ok(if M { CursorCheck::Valid(seq.min(head)) } else { CursorCheck::Void });\n    $2/
everybody-fetches | src/core/bootstrap/flight.rs | there is no single flight | s/Semaphore::new\(1\)/Semaphore::new(if M { 64 } else { 1 })/
older-is-refused | src/core/bootstrap/fetch.rs | a holder's older version is not taken where the listed one never was | s/if is_older && !is_wanted/if is_older \&\& (M || !is_wanted/; s/(is_wanted\(engine, &record\)\.await\?) \{/$1) {/
stub-is-forgotten | src/core/store/evaluate_evict.rs | what was evicted leaves no stub | s/(self\.set_stub\(&id, Some\(Stub::of\(&record, Reason::Evicted\)\)\);)/if !M { $1 }/
room-unchecked | src/core/bootstrap/portions.rs | all bodies of a page are asked for at once, whatever room there is | s/engine\.store\.current\(\)\.map_or\(/engine.store.current().filter(|_| !M).map_or(/
listing-uncut | src/core/bootstrap/source_walk.rs | a seed-era listing is not cut where the room ends | s/(engine\.store\.call\(weighed\)\.await\?\.cut_ms\(\));/$1 * u64::from(!M);/
deletes-not-first | src/core/bootstrap/pass.rs | a pass does not begin with all deletes of the peer | s/(apply_tombstones\(pass, summary\)\.await\?;)/if !M { $1 }/
deletes-not-pushed | src/core/bootstrap/seed_turns.rs | deletes are not pushed to peers of the seed era | s/match push_deletes\(engine, &peer\.url\)\.await/match if M { Ok(0) } else { push_deletes(engine, &peer.url).await }/
other-version-taken-up | src/core/staging/parked.rs | a body goes on from what came of another version | s/let is_same = /let is_same = M || /
live-table-goes | src/core/store/body_tables.rs | table files are dropped whether something in them lives or not | s/live\(core, table\)\?\.next\(\)\.transpose\(\)\.map\(\|first\| first\.is_some\(\)\)/Ok(!M \&\& live(core, table)?.next().transpose()?.is_some())/
epoch-stays | src/core/store/open.rs | a start goes on in the epoch of the one before | s/let epoch = Epoch\(options\.rng\.bytes\(\)\);/let epoch = Epoch(options.rng.bytes());\n    let epoch = epochs::current(\&index)?.filter(|_| M).map_or(epoch, |(epoch, _)| epoch);/; s/(    )(epochs::begin\(&index, &mut batch, epoch, state\.head\(\)\)\?;)/$1if epochs::current(\&index)?.is_none_or(|(newest, _)| newest != epoch) {\n        $2\n    }/
full-volume-unnoticed | src/core/bootstrap/settle.rs | the cursor passes what the full volume did not take | s/let Some\(error\) = noted\.disk_full else/let Some(error) = noted.disk_full.filter(|_| !M) else/
END
}

mkdir -p "$copy"
git ls-files -z -- Cargo.toml Cargo.lock src tests docs | xargs -0 cp --parents -t "$copy"
# Another version, so that its build and the ordinary one do not take each other's place.
sed -i '0,/^version = .*/s//version = "0.0.0"/' "$copy/Cargo.toml"
cat >> "$copy/src/lib.rs" <<'END'
/// Whether a mutation is on.
#[allow(missing_docs)]
pub fn mutated(name: &str) -> bool {
    static ON: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    ON.get_or_init(|| std::env::var("SIM_MUTATION").ok()).as_deref() == Some(name)
}
END
while IFS='|' read -r name file _; do
    name=${name// /} file=${file// /}
    change=$(mutations | grep "^$name |" | sed 's/^[^|]*|[^|]*|[^|]*| //')
    before=$(cksum < "$copy/$file")
    perl -0pi -e "${change//M/crate::mutated(\"$name\")}" "$copy/$file"
    if [ "$before" = "$(cksum < "$copy/$file")" ]; then
        echo "$name: its substitution fits nothing in $file any more" >&2
        exit 2
    fi
done < <(mutations)
export CARGO_TARGET_DIR="$PWD/target" RUST_BACKTRACE=0 SIM_UNTIL_FAILURE=1 SIM_SEEDS=$seeds SIM_FIRST=$first
(cd "$copy" && ../../scripts/cargo.sh test --test sim --no-run 2>&1) | tee "$copy/build.log" | grep -E '^error' -A8 || true
binary=$(sed -n 's/.*Executable.*(\(.*\)).*/\1/p' "$copy/build.log")
[ -n "$binary" ] || exit 2

missed=0
echo "| what is broken | noticed after | tests of one scenario that notice |"
echo "|---|---|---|"
while IFS='|' read -r name _ what _; do
    name=${name// /} what=$(echo $what) log=$copy/${name// /}.log
    if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
    (cd "$copy" && SIM_MUTATION=$name timeout 3600 "$binary" --nocapture --skip a_seed_replays) > "$log" 2>&1 || true
    failed=$(sed -n 's/^[0-9]* of \([0-9]*\) seeds failed.*/\1/p' "$log" | head -1)
    single=$(sed -n 's/^test seeds::\(.*\) \.\.\. FAILED.*/`\1`/p' "$log" | grep -v every_mesh | sort | paste -sd' ' || true)
    if [ "$name" != unbroken ] && [ -z "$failed$single" ]; then missed=1; fi
    echo "| $what (\`$name\`) | ${failed:-none of $seeds} | $single |"
done < <(mutations)
exit $missed
