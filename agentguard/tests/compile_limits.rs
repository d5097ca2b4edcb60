//! Ten thousand mixed rules must compile within a budget of time, memory and tables. A process of its
//! own, so that its peak memory is the compiler's.

#[path = "../benches/compile/rules.rs"]
mod rules;

use std::time::{Duration, Instant};

use agentguard::policy::{Capabilities, load_text};

const TABLE_BYTES: u64 = 16 << 20;
const PEAK_BYTES: u64 = 300 << 20;
/// For an optimised build; what an unoptimised one takes says nothing.
const TIME: Duration = Duration::from_secs(2);

#[test]
fn ten_thousand_mixed_rules_stay_within_their_budget() {
    let mut other = rules::KINDS.to_vec();
    other.extend(["/srv/**/A", "/A/*/B/**/A.C", "/home/*/.A/**"]);
    for kinds in [rules::KINDS.as_slice(), &other] {
        let text = rules::policy(10_000, kinds);
        let start = Instant::now();
        let loaded = load_text("made-up.toml", &text, &Capabilities::all())
            .unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
        let time = start.elapsed();
        let stats = loaded.profile.stats;
        println!(
            "{} kinds: {time:?}, {} automata, {} states, {} edges, {} KiB of tables, peak {} KiB",
            kinds.len(),
            stats.automata,
            stats.states,
            stats.edges,
            loaded.profile.len_bytes() / 1024,
            peak_bytes() / 1024,
        );
        assert!(loaded.profile.len_bytes() < TABLE_BYTES);
        assert!(peak_bytes() < PEAK_BYTES);
        if !cfg!(debug_assertions) {
            assert!(time < TIME, "{time:?}");
        }
    }
}

/// Most memory that this process ever had (`VmHWM` of proc(5)).
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("every process has a peak");
    let kib: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number of KiB");
    kib * 1024
}
