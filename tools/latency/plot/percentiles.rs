//! The percentile curve: which share of the operations took no longer than what.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::canvas::{Drawn, Entry, LatencyAxis, Look, Picture};
use super::{Named, with_unit};
use crate::results::{Latency, Run};

/// Labels of the axis, by the number of nines.
const SHARES: [&str; 10] =
    ["0%", "90%", "99%", "99.9%", "99.99%", "99.999%", "99.9999%", "99.99999%", "99.999999%", "99.9999999%"];
/// Where 50% stands.
const HALF: f64 = std::f64::consts::LOG10_2;

/// The curves of all kinds of operations of all runs.
pub struct Percentiles {
    curves: Vec<Named<Latency>>,
}

impl Percentiles {
    /// `None` if no run has a curve.
    pub fn of(runs: &[Named<Run>]) -> Option<Percentiles> {
        let mut curves = Vec::new();
        for Named { name, results } in runs {
            let is_mixed = results.latency_us.len() > 1;
            for (kind, latency) in results.latency_us.iter().filter(|(_, latency)| !latency.curve.is_empty()) {
                let name = if is_mixed { format!("{name}, {kind}") } else { name.clone() };
                curves.push(Named { name, results: latency.clone() });
            }
        }
        (!curves.is_empty()).then_some(Percentiles { curves })
    }

    /// A line for each curve.
    pub fn legend(&self) -> Vec<Entry> {
        let text = |Named { name, results }: &Named<Latency>| {
            let figures = [("p50", results.p50), ("p99", results.p99), ("p99.9", results.p99_9), ("max", results.max)];
            let figures: Vec<_> = figures.iter().map(|(label, us)| format!("{label} {}", with_unit(*us))).collect();
            format!("{name}:  {}", figures.join(",  "))
        };
        self.curves.iter().enumerate().map(|(i, curve)| Entry { colour: Some(i), text: text(curve) }).collect()
    }
}

/// The points of a curve: nines below the quantile, microseconds. The last is the longest latency, at the place of one
/// in all.
fn points(latency: &Latency) -> impl Iterator<Item = (f64, f64)> {
    let end = nines_of_all(latency);
    latency.curve.iter().map(move |&(quantile, us)| (-(1.0 - quantile).log10().max(-end), us))
}

fn nines_of_all(latency: &Latency) -> f64 {
    (latency.count.max(2) as f64).log10()
}

/// An axis of nines, marked with shares.
struct NinesAxis {
    inner: RangedCoordf64,
    end: f64,
}

impl Ranged for NinesAxis {
    type ValueType = f64;
    type FormatOption = NoDefaultFormatting;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.inner.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let marks = [0.0, HALF].into_iter().chain((1..SHARES.len()).map(|nines| nines as f64));
        marks.filter(|&mark| mark <= self.end).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.inner.range()
    }
}

impl ValueFormatter<f64> for NinesAxis {
    fn format_ext(&self, nines: &f64) -> String {
        if *nines == HALF { "50%".to_owned() } else { SHARES[*nines as usize].to_owned() }
    }
}

impl Picture for Percentiles {
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, look: Look) -> Drawn<DB> {
        let end = self.curves.iter().map(|curve| nines_of_all(&curve.results)).fold(1.0, f64::max);
        let x_axis = NinesAxis { inner: (0.0..end).into(), end };
        let y_axis =
            LatencyAxis::around(self.curves.iter().flat_map(|curve| curve.results.curve.iter().map(|&(_, us)| us)));
        let mut chart = ChartBuilder::on(area)
            .x_label_area_size(look.px(50))
            .y_label_area_size(look.px(78))
            .build_cartesian_2d(x_axis, y_axis)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(look.grid())
            .light_line_style(TRANSPARENT)
            .axis_style(look.axis())
            .label_style(look.text())
            .axis_desc_style(look.text())
            .x_desc("share of the operations that took no longer")
            .y_desc("latency")
            .draw()?;
        for (i, curve) in self.curves.iter().enumerate() {
            chart.draw_series(LineSeries::new(points(&curve.results), look.line(i, 1.0, 4)))?;
        }
        Ok(())
    }
}
