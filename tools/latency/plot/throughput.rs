//! The latency-throughput curve of a sweep: what more load costs.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::Named;
use super::canvas::{Drawn, Entry, LatencyAxis, Look, Picture, colour};
use crate::report::thousands;
use crate::results::{Latency, Sweep};

/// A line of each curve.
struct LineKind {
    name: &'static str,
    value: fn(&Latency) -> f64,
    /// Length of dash and of space; a full line without.
    dash: Option<(u32, u32)>,
}

const LINES: [LineKind; 3] = [
    LineKind { name: "p50 full line", value: |latency| latency.p50, dash: None },
    LineKind { name: "p99 dashed", value: |latency| latency.p99, dash: Some((9, 5)) },
    LineKind { name: "p99.9 dotted", value: |latency| latency.p99_9, dash: Some((2, 4)) },
];

/// One point of a curve.
struct Step {
    per_second: f64,
    latency: Latency,
}

/// The curves of all kinds of operations of all sweeps.
pub struct Curves {
    curves: Vec<Named<Vec<Step>>>,
}

impl Curves {
    /// `None` without sweeps.
    pub fn of(sweeps: &[Named<Sweep>]) -> Option<Curves> {
        let mut curves = Vec::new();
        for Named { name, results } in sweeps {
            let kinds: std::collections::BTreeSet<_> =
                results.steps.iter().flat_map(|step| step.latency_us.keys()).collect();
            for kind in &kinds {
                let step = |step: &crate::results::Run| {
                    let latency = step.latency_us.get(*kind)?.clone();
                    Some(Step { per_second: step.operations_per_second, latency })
                };
                let name = if kinds.len() > 1 { format!("{name}, {kind}") } else { name.clone() };
                curves.push(Named { name, results: results.steps.iter().filter_map(step).collect() });
            }
        }
        (!curves.is_empty()).then_some(Curves { curves })
    }

    /// A line for each curve, and one for the kinds of lines.
    pub fn legend(&self) -> Vec<Entry> {
        let text = |Named { name, results }: &Named<Vec<Step>>| {
            let top = results.iter().map(|step| step.per_second).fold(0.0, f64::max);
            format!("{name}:  up to {} operations a second", thousands(top))
        };
        let mut legend: Vec<_> =
            self.curves.iter().enumerate().map(|(i, curve)| Entry { colour: Some(i), text: text(curve) }).collect();
        legend.push(Entry { colour: None, text: LINES.map(|line| line.name).join(",  ") });
        legend
    }
}

impl Picture for Curves {
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, look: Look) -> Drawn<DB> {
        let steps = || self.curves.iter().flat_map(|curve| &curve.results);
        let end = steps().map(|step| step.per_second).fold(1.0, f64::max) * 1.04;
        let y_axis = LatencyAxis::around(steps().flat_map(|step| LINES.map(|line| (line.value)(&step.latency))));
        let mut chart = ChartBuilder::on(area)
            .x_label_area_size(look.px(50))
            .y_label_area_size(look.px(78))
            .build_cartesian_2d(0.0..end, y_axis)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(look.grid())
            .light_line_style(TRANSPARENT)
            .axis_style(look.axis())
            .label_style(look.text())
            .axis_desc_style(look.text())
            .x_desc("operations a second")
            .y_desc("latency")
            .x_label_formatter(&|&per_second| thousands(per_second))
            .draw()?;
        for (i, curve) in self.curves.iter().enumerate() {
            for LineKind { value, dash, .. } in LINES {
                let points = curve.results.iter().map(|step| (step.per_second, value(&step.latency)));
                match dash {
                    None => chart.draw_series(LineSeries::new(points.clone(), look.line(i, 1.0, 5)))?,
                    Some((dash, space)) => {
                        let style = look.line(i, 0.9, 3);
                        chart.draw_series(DashedLineSeries::new(
                            points.clone(),
                            look.px(dash),
                            look.px(space),
                            style,
                        ))?
                    }
                };
                let dots = points.map(|at| Circle::new(at, look.px(3), colour(i).filled()));
                chart.draw_series(dots)?;
            }
        }
        Ok(())
    }
}
