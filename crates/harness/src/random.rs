//! The seed of a run. A seed repeats what each thread does. It does not repeat the whole run, because threads race.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Returns the seed of this run: `MANA_SYNC_SEED`, or else `default`. It is printed, so that the next run can use it.
pub fn seed(test: &str, default: u64) -> u64 {
    let seed = match std::env::var("MANA_SYNC_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("MANA_SYNC_SEED={text} is not a number")),
        Err(_) => default,
    };
    println!("{test}: seed {seed} (MANA_SYNC_SEED={seed} repeats it)");
    seed
}

/// Makes the source of random numbers for one thread of a run.
pub fn rng(seed: u64, thread: u64) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(thread))
}

/// Returns a random size of a page, from a single row to everything.
pub fn page_size(rng: &mut StdRng) -> i32 {
    [1, 2, 7, 30, 100, 300, 1000, 5000][rng.random_range(0..8)]
}
