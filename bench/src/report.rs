//! The results of a run, which are printed and written to a file.

use serde::{Deserialize, Serialize};

use crate::times::{Spread, Times};

/// The results of all parts.
#[derive(Default, Serialize, Deserialize)]
pub struct Report {
    /// The processor, the number of cores and the kernel.
    pub machine: String,
    /// The version of the server, and its relevant settings.
    pub server: String,
    /// The parts, in the order in which they were measured.
    pub parts: Vec<Part>,
}

/// The results of one part of the benchmark.
#[derive(Default, Serialize, Deserialize)]
pub struct Part {
    /// The name of the part on the command line.
    pub name: String,
    /// The conditions of the measurement.
    pub about: String,
    /// The date of the measurement (UTC), and the commit of the sources.
    pub of: String,
    /// The ratios of things that were measured in turns.
    pub comparisons: Vec<Comparison>,
    /// The absolute figures.
    pub figures: Vec<Figure>,
    /// The curves of the plots.
    pub curves: Vec<Curve>,
}

/// The ratio of two things that were measured in turns.
#[derive(Serialize, Deserialize)]
pub struct Comparison {
    /// The name of the thing that is measured.
    pub what: String,
    /// The name of the thing that it is compared with.
    pub against: String,
    /// The ratio of the medians. It says how many times as fast (or as small) as the other the measured thing is. If
    /// the contract has an upper limit, it says how many times as slow.
    pub ratio: f64,
    /// The ratios of the single rounds.
    pub of_rounds: Spread,
    /// The limit that the ratio must meet; `None` if there is none.
    pub contract: Option<Contract>,
}

/// A limit of a ratio.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub enum Contract {
    /// The ratio must not be less than this.
    AtLeast(f64),
    /// The ratio must not be greater than this.
    AtMost(f64),
}

impl Comparison {
    /// Makes the comparison of two things from the costs of their rounds.
    fn new((what, ours): (&str, &[f64]), (against, theirs): (&str, &[f64]), contract: Option<Contract>) -> Comparison {
        let ratio = |ours: f64, theirs: f64| match contract {
            Some(Contract::AtMost(_)) => ours / theirs,
            _ => theirs / ours,
        };
        let rounds = ours.iter().zip(theirs).map(|(&ours, &theirs)| ratio(ours, theirs)).collect();
        let median = |costs: &[f64]| Spread::of(costs.to_vec()).median;
        Comparison {
            what: what.into(),
            against: against.into(),
            ratio: ratio(median(ours), median(theirs)),
            of_rounds: Spread::of(rounds),
            contract,
        }
    }

    /// Returns whether the contract is met; true if there is none.
    pub fn is_met(&self) -> bool {
        match self.contract {
            Some(Contract::AtLeast(limit)) => self.ratio >= limit,
            Some(Contract::AtMost(limit)) => self.ratio <= limit,
            None => true,
        }
    }

    /// Returns the words that say what the ratio expresses.
    pub fn sense(&self) -> &'static str {
        match self.contract {
            Some(Contract::AtMost(_)) => "as much",
            _ => "as fast",
        }
    }

    /// Returns the contract in words.
    pub fn limit(&self) -> String {
        match self.contract {
            Some(Contract::AtLeast(limit)) => format!("at least {limit}"),
            Some(Contract::AtMost(limit)) => format!("at most {limit}"),
            None => String::new(),
        }
    }
}

/// An absolute figure.
#[derive(Serialize, Deserialize)]
pub struct Figure {
    /// What the figure measures.
    pub what: String,
    /// The value, in `unit`.
    pub value: Spread,
    /// The unit of the value: `ms`, `/s`, `MB`, …
    pub unit: String,
}

impl Figure {
    /// Creates a figure that was measured once.
    pub fn once(what: impl Into<String>, value: f64, unit: &str) -> Figure {
        Figure { what: what.into(), value: Spread::of(vec![value]), unit: unit.into() }
    }
}

/// A curve of a plot.
#[derive(Serialize, Deserialize)]
pub struct Curve {
    /// The name of the plot.
    pub plot: String,
    /// The label of the curve.
    pub name: String,
    /// The points of the curve from left to right.
    pub points: Vec<(f64, f64)>,
}

impl Part {
    /// Creates a part without results.
    pub fn new(name: &str, about: impl Into<String>) -> Part {
        Part { name: name.into(), about: about.into(), ..Part::default() }
    }

    /// Adds a ratio of times.
    pub fn compare(&mut self, ours: &Times, theirs: &Times, contract: Option<Contract>) {
        let (ours, theirs) = ((&*ours.name, &*ours.seconds), (&*theirs.name, &*theirs.seconds));
        self.comparisons.push(Comparison::new(ours, theirs, contract));
    }

    /// Adds two figures that do not vary, and their ratio.
    pub fn compare_figures(&mut self, ours: (&str, f64), theirs: (&str, f64), unit: &str, contract: Option<Contract>) {
        self.comparisons.push(Comparison::new((ours.0, &[ours.1]), (theirs.0, &[theirs.1]), contract));
        for (what, value) in [ours, theirs] {
            self.figures.push(Figure::once(what, value, unit));
        }
    }

    /// Adds the rate of operations per second. Each round has `of` operations.
    pub fn rate(&mut self, times: &Times, of: usize) {
        let value = times.spread().map(|seconds| of as f64 / seconds);
        self.figures.push(Figure { what: times.name.clone(), value, unit: "/s".into() });
    }

    /// Adds the duration of a round.
    pub fn duration(&mut self, times: &Times) {
        let value = times.spread().map(|seconds| seconds * 1000.0);
        self.figures.push(Figure { what: times.name.clone(), value, unit: "ms".into() });
    }

    /// Adds a point to a curve.
    pub fn point(&mut self, plot: &str, name: &str, x: f64, y: f64) {
        match self.curves.iter_mut().find(|curve| curve.plot == plot && curve.name == name) {
            Some(curve) => curve.points.push((x, y)),
            None => self.curves.push(Curve { plot: plot.into(), name: name.into(), points: vec![(x, y)] }),
        }
    }

    /// Prints the part, ratios first.
    pub fn print(&self) {
        println!("\n{}: {}", self.name, self.about);
        for comparison in &self.comparisons {
            let Spread { least, greatest, .. } = comparison.of_rounds;
            println!(
                "  {:>8} x {}  ({} to {}) {:14} {}",
                digits(comparison.ratio),
                comparison.sense(),
                digits(least),
                digits(greatest),
                match (comparison.contract, comparison.is_met()) {
                    (None, _) => String::new(),
                    (_, true) => format!("{}: met", comparison.limit()),
                    (_, false) => format!("{}: NOT MET", comparison.limit()),
                },
                format_args!("{}, beside {}", comparison.what, comparison.against),
            );
        }
        for Figure { what, value, unit } in &self.figures {
            let spread = match value.least == value.greatest {
                true => String::new(),
                false => format!("({} to {})", digits(value.least), digits(value.greatest)),
            };
            println!("  {:>8} {unit:5} {spread:20} {what}", digits(value.median));
        }
    }
}

impl Report {
    /// Replaces the parts that have this name by parts that were measured now. `order` lists the names in the order of
    /// the report.
    pub fn replace(&mut self, name: &str, order: &[&str], parts: Vec<Part>) {
        self.parts.retain(|part| part.name != name);
        self.parts.extend(parts);
        self.parts.sort_by_key(|part| order.iter().position(|name| part.name == *name));
    }

    /// Returns those ratios of all parts that have a contract.
    pub fn contracts(&self) -> impl Iterator<Item = &Comparison> {
        self.parts.iter().flat_map(|part| &part.comparisons).filter(|comparison| comparison.contract.is_some())
    }
}

/// Formats a number with three significant digits.
pub fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        1000.0.. => return whole(value),
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// Formats a number without decimals, in groups of three digits.
pub fn whole(value: f64) -> String {
    let digits = value.abs().round().to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    format!("{}{}", if value < 0.0 { "-" } else { "" }, groups.join(","))
}
