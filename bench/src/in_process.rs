//! `make bench-in-process`: runs the benchmarks of the Rust code that needs a backend (`src/benches.rs`), each in a
//! backend of its own. `cargo bench` runs the benchmarks of the crates.
//!
//! The benchmarks are written for pgrx. The server calls the functions that `cargo pgrx bench` would call. That command
//! is not used, because it starts the server as the caller, and fails if the caller is root.
//!
//! The output has the fastest sample in addition to Criterion's estimate. The estimate uses all samples, so that other
//! load on the machine increases it. The fastest sample is hardly affected.

use std::collections::BTreeMap;
use std::fs;

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::{Cluster, Options};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Result;
use crate::report::digits;

/// The prefix of the names of the functions that run a benchmark.
const RUN: &str = "__pgrx_bench_run_";

/// The part of a result of pgrx-bench that is used.
#[derive(Deserialize)]
struct Measured {
    error_text: Option<String>,
    estimates: Vec<Estimate>,
    samples: Vec<Sample>,
    comparison: Option<Comparison>,
    /// The data that pgrx-bench needs to compare the next run with this one.
    #[serde(default)]
    artifacts: Value,
}

#[derive(Deserialize)]
struct Estimate {
    estimate_kind: String,
    point_estimate_ns: f64,
    ci_lower_bound_ns: f64,
    ci_upper_bound_ns: f64,
}

#[derive(Deserialize)]
struct Sample {
    iteration_count: f64,
    elapsed_ns: f64,
}

#[derive(Deserialize)]
struct Comparison {
    mean: Change,
    summary: String,
}

#[derive(Deserialize)]
struct Change {
    point_estimate: f64,
}

/// The part of a run that is stored, so that the next run can be compared with it.
#[derive(Serialize, Deserialize)]
struct Kept {
    fastest_ns: f64,
    artifacts: Value,
}

/// Runs the benchmarks whose names contain one of `names`, or all if there are no names. Stores the results in `file`,
/// with which the next run is compared.
pub fn run(names: &[String], file: &str) -> Result<()> {
    let last = fs::read_to_string(file).ok().and_then(|text| serde_json::from_str(&text).ok());
    let mut last: BTreeMap<String, Kept> = last.unwrap_or_default();
    let cluster = Cluster::with_log(Options::default());
    let found = cluster.superuser(DATABASE).query(
        "SELECT substr(proname, length($1) + 1) FROM pg_proc
         WHERE pronamespace = 'benches'::regnamespace AND starts_with(proname, $1) ORDER BY proname",
        &[&RUN],
    )?;
    let found = found.iter().map(|row| row.get::<_, String>(0));
    let chosen: Vec<String> =
        found.filter(|bench| names.is_empty() || names.iter().any(|name| bench.contains(name))).collect();
    if chosen.is_empty() {
        return Err(format!("no benchmark's name contains {}", names.join(" or ")).into());
    }
    println!("{:30}    {:40}fastest sample; both since the last run", "", "time, with confidence of 95 %");
    for bench in chosen {
        let (before, call) = (last.get(&bench), format!("SELECT benches.{RUN}{bench}($1)"));
        let artifacts = before.map(|kept| &kept.artifacts);
        // The writes of a benchmark are rolled back, as `cargo pgrx bench` does.
        let mut client = cluster.superuser(DATABASE);
        let answer = client.transaction()?.query_one(&call, &[&artifacts]);
        let measured: Value = answer.map_err(|error| format!("{bench}: {error}"))?.get(0);
        let measured = Measured::deserialize(measured)?;
        if let Some(error) = measured.error_text {
            return Err(format!("{bench}: {error}").into());
        }
        println!("{bench:30} {}", measured.line(before).ok_or("a benchmark without an estimate")?);
        last.insert(bench, Kept { fastest_ns: measured.fastest_ns(), artifacts: measured.artifacts });
        fs::write(file, serde_json::to_string(&last)? + "\n")?;
    }
    Ok(())
}

impl Measured {
    fn fastest_ns(&self) -> f64 {
        self.samples.iter().map(|sample| sample.elapsed_ns / sample.iteration_count).fold(f64::INFINITY, f64::min)
    }

    fn line(&self, before: Option<&Kept>) -> Option<String> {
        // Criterion's rule: it uses the slope if the samples have different numbers of iterations.
        let of = |kind: &str| self.estimates.iter().find(|estimate| estimate.estimate_kind == kind);
        let time = of("slope").or_else(|| of("mean"))?;
        let (unit, divisor) = match time.point_estimate_ns {
            1e6.. => ("ms", 1e6),
            1e3.. => ("µs", 1e3),
            _ => ("ns", 1.0),
        };
        let [time, least, greatest, fastest] =
            [time.point_estimate_ns, time.ci_lower_bound_ns, time.ci_upper_bound_ns, self.fastest_ns()]
                .map(|time| digits(time / divisor));
        let percent = |change: Option<f64>| change.map_or(String::new(), |change| format!("{:+.1} %", 100.0 * change));
        let change = percent(self.comparison.as_ref().map(|comparison| comparison.mean.point_estimate));
        let of_fastest = percent(before.map(|kept| self.fastest_ns() / kept.fastest_ns - 1.0));
        let said = self.comparison.as_ref().map_or("", |comparison| &comparison.summary);
        let range = format!("{least} to {greatest}");
        let line = format!("{time:>6} {unit}  {range:18}{change:>9}  {fastest:>9} {unit}{of_fastest:>9}  {said}");
        Some(line.trim_end().into())
    }
}
