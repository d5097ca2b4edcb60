//! How long it takes from the text of a policy to its tables, and what they weigh.

mod rules;

use agentguard::policy::{Capabilities, load_text};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn compile(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10);
    for count in [10, 100, 1_000, 10_000] {
        let text = rules::policy(count, &rules::KINDS);
        let loaded = load_text("made-up.toml", &text, &Capabilities::all())
            .unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
        let stats = loaded.profile.stats;
        println!(
            "{count} rules: {} automata, {} states, {} edges, {} KiB",
            stats.automata,
            stats.states,
            stats.edges,
            loaded.profile.len_bytes() / 1024,
        );
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(
            BenchmarkId::from_parameter(count),
            &text,
            |bencher, text| {
                bencher.iter(|| load_text("made-up.toml", text, &Capabilities::all()));
            },
        );
    }
    group.finish();
}

criterion_group!(benches, compile);
criterion_main!(benches);
