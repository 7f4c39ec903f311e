//! Times of rounds, and how they are told.

use std::time::Instant;

use serde_json::{Value, json};

use crate::Result;

/// Times of the alternatives of one comparison, in rounds.
pub struct Times {
    /// What was measured.
    pub name: &'static str,
    /// Of each round.
    pub seconds: Vec<f64>,
}

impl Times {
    /// No round yet.
    pub fn new(name: &'static str) -> Times {
        Times { name, seconds: Vec::new() }
    }

    /// A round.
    pub fn measure(&mut self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        work()?;
        self.seconds.push(start.elapsed().as_secs_f64());
        Ok(())
    }

    /// The median, the least and the greatest.
    pub fn spread(&self) -> (f64, f64, f64) {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        (sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1])
    }

    /// Prints how many of `of` things were done in a second.
    pub fn print(&self, of: usize) {
        let (median, least, greatest) = self.spread();
        let rate = |seconds: f64| of as f64 / seconds;
        println!("  {:58} {:>9.0}/s  ({:.0} to {:.0})", self.name, rate(median), rate(greatest), rate(least));
    }

    /// Prints how long it took.
    pub fn print_ms(&self) {
        let (median, least, greatest) = self.spread();
        let ms = |seconds: f64| seconds * 1000.0;
        println!("  {:58} {:>9.2} ms  ({:.2} to {:.2})", self.name, ms(median), ms(least), ms(greatest));
    }

    /// For the file.
    pub fn json(&self) -> Value {
        let (median, least, greatest) = self.spread();
        json!({"name": self.name, "median": median, "least": least, "greatest": greatest})
    }
}
