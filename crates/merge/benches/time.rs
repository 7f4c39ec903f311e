//! Benchmarks of times, without a server: `cargo bench -p mana_sync_merge`.
//!
//! The benchmarks that need a backend are in the extension (`src/benches.rs`).

use divan::black_box;
use mana_sync_merge::time::Time;

fn main() {
    divan::main();
}

#[divan::bench]
fn time_of_rfc_3339() -> Option<Time> {
    Time::parse(black_box(b"2026-01-01T12:34:56.789Z"))
}
