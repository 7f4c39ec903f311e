//! The times of rounds of measurement.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::Result;

/// The times of one of the things that are measured in turns.
pub struct Times {
    /// The name of the thing that was measured.
    pub name: String,
    /// The seconds of each round.
    pub seconds: Vec<f64>,
}

/// The median of some values, their least and their greatest.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least value.
    pub least: f64,
    /// The greatest value.
    pub greatest: f64,
}

impl Spread {
    /// Computes the spread of at least one value.
    pub fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        Spread { median: values[values.len() / 2], least: values[0], greatest: values[values.len() - 1] }
    }

    /// Applies a monotonic function to the values, increasing or decreasing.
    pub fn map(self, f: impl Fn(f64) -> f64) -> Spread {
        let (a, b) = (f(self.least), f(self.greatest));
        Spread { median: f(self.median), least: a.min(b), greatest: a.max(b) }
    }
}

impl Times {
    /// Creates times without any round.
    pub fn new(name: impl Into<String>) -> Times {
        Times { name: name.into(), seconds: Vec::new() }
    }

    /// Runs `work` and adds its time as a round.
    pub fn measure<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = work()?;
        self.seconds.push(start.elapsed().as_secs_f64());
        Ok(result)
    }

    /// Returns the spread over all rounds.
    pub fn spread(&self) -> Spread {
        Spread::of(self.seconds.clone())
    }
}

/// Measures several things in turns: in each of `count` rounds, calls `work` once for each of `times`, with the round,
/// the place in `times` and the times. A warm-up round comes first and is not counted.
pub fn rounds(
    count: usize,
    times: &mut [Times],
    mut work: impl FnMut(usize, usize, &mut Times) -> Result<()>,
) -> Result<()> {
    for round in 0..=count {
        for (i, times) in times.iter_mut().enumerate() {
            work(round, i, times)?;
            if round == 0 {
                times.seconds.clear();
            }
        }
    }
    Ok(())
}

/// Measures as [`rounds`] does, with `work` that returns its own seconds.
pub fn in_turns(count: usize, times: &mut [Times], mut work: impl FnMut(usize) -> Result<f64>) -> Result<()> {
    rounds(count, times, |_, i, times| {
        times.seconds.push(work(i)?);
        Ok(())
    })
}
