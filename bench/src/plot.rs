//! Draws the curves of a report, one file for each plot.

use std::collections::BTreeSet;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::Result;
use crate::report::{Curve, Report, digits, whole};

const SIZE: (u32, u32) = (720, 400);
const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(127, 127, 127), RGBColor(44, 160, 44)];

/// Writes an SVG file for each plot.
pub fn write_all(report: &Report, directory: &Path) -> Result<()> {
    let curves: Vec<&Curve> = report.parts.iter().flat_map(|part| &part.curves).collect();
    let plots: BTreeSet<&str> = curves.iter().map(|curve| curve.plot.as_str()).collect();
    for plot in plots {
        let curves: Vec<&Curve> = curves.iter().copied().filter(|curve| curve.plot == plot).collect();
        let file = directory.join(file_name(plot));
        draw(plot, &curves, &file)?;
    }
    Ok(())
}

/// Returns the file name of a plot.
pub fn file_name(plot: &str) -> String {
    plot.replace(',', "").replace(' ', "-") + ".svg"
}

fn draw(plot: &str, curves: &[&Curve], file: &Path) -> Result<()> {
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
    let least = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::INFINITY, f64::min);
    let (x, y) = (|point: &(f64, f64)| point.0, |point: &(f64, f64)| point.1);
    let (left, right) = (least(x), most(x));
    let (x_name, y_name) = match plot {
        _ if plot.starts_with("throughput") => ("clients", "transactions a second"),
        _ if plot.starts_with("page cost") => ("page", "ms"),
        _ if plot.ends_with("spaces") => ("spaces", "ms"),
        _ => ("rows of others", "ms"),
    };
    // Orders of magnitude get a logarithmic scale; costs are drawn from zero.
    let (low, high) = (least(y), most(y));
    match (right / left >= 50.0 && !plot.starts_with("page cost"), high / low >= 20.0) {
        (true, true) => {
            chart(&area, plot, (x_name, y_name), (left..right).log_scale(), (low * 0.7..high * 1.4).log_scale(), curves)
        }
        (true, false) => chart(&area, plot, (x_name, y_name), (left..right).log_scale(), 0.0..high * 1.1, curves),
        (false, _) => chart(&area, plot, (x_name, y_name), left..right, 0.0..high * 1.1, curves),
    }
}

fn chart<X, Y>(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    (x_name, y_name): (&str, &str),
    x: X,
    y: Y,
    curves: &[&Curve],
) -> Result<()>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .margin_right(40)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)?;
    let format = |value: &f64| match value.fract() == 0.0 {
        true => whole(*value),
        false => digits(*value),
    };
    chart
        .configure_mesh()
        .x_desc(x_name)
        .y_desc(y_name)
        .x_label_formatter(&format)
        .y_label_formatter(&format)
        .light_line_style(WHITE)
        .draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        chart
            .draw_series(LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2)))?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        if curve.points.len() < 20 {
            chart.draw_series(curve.points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
        }
    }
    let labels = SeriesLabelPosition::UpperLeft;
    chart
        .configure_series_labels()
        .position(labels)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(area.present()?)
}
