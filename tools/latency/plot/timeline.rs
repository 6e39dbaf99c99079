//! Latency and throughput over time, with the stalls.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::canvas::{Drawn, Entry, LatencyAxis, Look, Picture, colour};
use super::{Named, with_unit};
use crate::report::thousands;
use crate::results::Run;
use crate::timeline::INTERVALS_MAX;

/// Columns that a picture has room for; more intervals than that are put together.
const COLUMNS_MAX: usize = 450;
/// A column wants about so many completions, or its percentiles say nothing.
const COMPLETIONS_MIN: f64 = 20.0;
/// A time without completions is a stall if that is what so many mean distances of completions would take.
const STALL_DISTANCES: f64 = 20.0;
/// Stalls that are drawn for each run, the longest ones.
const STALLS_MAX: usize = 40;

/// The timelines of all runs.
pub struct Timelines {
    lines: Vec<Named<Line>>,
}

/// What is drawn of one run. Latencies in microseconds, times in seconds.
struct Line {
    columns: Vec<Column>,
    column_seconds: f64,
    /// Beginning and end.
    stalls: Vec<(f64, f64)>,
    per_second: f64,
    longest_gap_us: f64,
    /// When a command was run, and which.
    command: Option<(f64, String)>,
}

/// What a line shows of a column.
type Value = fn(&Column) -> f64;

/// The completions of a part of the time.
#[derive(Clone, Copy, Default)]
struct Column {
    completions: u64,
    p50: f64,
    p99: f64,
    max: f64,
}

impl Timelines {
    /// `None` if no run has a timeline.
    pub fn of(runs: &[Named<Run>]) -> Option<Timelines> {
        let with_timeline = runs.iter().filter(|run| !run.results.timeline.completions.is_empty());
        let lines: Vec<_> =
            with_timeline.map(|run| Named { name: run.name.clone(), results: Line::of(&run.results) }).collect();
        (!lines.is_empty()).then_some(Timelines { lines })
    }

    /// A line for each run, and one for the kinds of lines.
    pub fn legend(&self) -> Vec<Entry> {
        let text = |Named { name, results }: &Named<Line>| {
            let (per_second, gap) = (thousands(results.per_second), with_unit(results.longest_gap_us));
            format!("{name}:  {per_second} operations a second,  longest time without a completion {gap}")
        };
        let mut legend: Vec<_> =
            self.lines.iter().enumerate().map(|(i, line)| Entry { colour: Some(i), text: text(line) }).collect();
        let kinds = "p50 thick line,  p99 thin line,  max pale line;  a time without completions is shaded";
        legend.push(Entry { colour: None, text: kinds.to_owned() });
        legend
    }

    fn seconds(&self) -> f64 {
        let length = |line: &Line| line.columns.len() as f64 * line.column_seconds;
        self.lines.iter().map(|line| length(&line.results)).fold(0.0, f64::max)
    }

    fn draw_latencies<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, look: Look) -> Drawn<DB> {
        let columns = || self.lines.iter().flat_map(|line| &line.results.columns);
        let y_axis = LatencyAxis::around(columns().flat_map(|column| [column.p50, column.max]));
        let ends = y_axis.ends();
        let mut chart = ChartBuilder::on(area)
            .x_label_area_size(look.px(12))
            .y_label_area_size(look.px(78))
            .build_cartesian_2d(0.0..self.seconds(), y_axis)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .bold_line_style(look.grid())
            .light_line_style(TRANSPARENT)
            .axis_style(look.axis())
            .label_style(look.text())
            .axis_desc_style(look.text())
            .y_desc("latency")
            .draw()?;
        for (i, Named { results, .. }) in self.lines.iter().enumerate() {
            let bands = results
                .stalls
                .iter()
                .map(|&(from, to)| Rectangle::new([(from, ends.start), (to, ends.end)], colour(i).mix(0.18).filled()));
            chart.draw_series(bands)?;
            let longest = results.stalls.iter().max_by(|a, b| (a.1 - a.0).total_cmp(&(b.1 - b.0)));
            if let Some(&(from, to)) = longest {
                let own = colour(i);
                let style = look.text().pos(Pos::new(HPos::Center, VPos::Top)).color(&own);
                let text = format!("nothing for {}", with_unit((to - from) * 1e6));
                let at = ((from + to) / 2.0, ends.end * 0.95);
                chart.draw_series([Text::new(text, at, style)])?;
            }
            if let Some((seconds, command)) = &results.command {
                let line = [(*seconds, ends.start), (*seconds, ends.end)];
                chart.draw_series([PathElement::new(line, look.axis())])?;
                // On the side that has more room.
                let is_late = *seconds > self.seconds() / 2.0;
                let (side, text) =
                    if is_late { (HPos::Right, format!("{command} ")) } else { (HPos::Left, format!(" {command}")) };
                let style = look.text().pos(Pos::new(side, VPos::Bottom));
                chart.draw_series([Text::new(text, (*seconds, ends.start * 1.05), style)])?;
            }
            let lines: [(Value, ShapeStyle); 3] = [
                (|column| column.max, look.line(i, 0.35, 2)),
                (|column| column.p99, look.line(i, 0.85, 2)),
                (|column| column.p50, look.line(i, 1.0, 5)),
            ];
            for (value, style) in lines {
                // A line ends where there is nothing to draw, and another begins behind it.
                for piece in results.pieces() {
                    let points = piece.map(|index| (results.middle(index), value(&results.columns[index])));
                    chart.draw_series(LineSeries::new(points, style))?;
                }
            }
        }
        Ok(())
    }

    fn draw_throughput<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, look: Look) -> Drawn<DB> {
        let per_second = |line: &Line, column: &Column| column.completions as f64 / line.column_seconds;
        let all = self.lines.iter().map(|line| &line.results);
        let top = all.flat_map(|line| line.columns.iter().map(|column| per_second(line, column))).fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(area)
            .x_label_area_size(look.px(48))
            .y_label_area_size(look.px(78))
            .build_cartesian_2d(0.0..self.seconds(), 0.0..top * 1.1)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .y_labels(4)
            .bold_line_style(look.grid())
            .light_line_style(TRANSPARENT)
            .axis_style(look.axis())
            .label_style(look.text())
            .axis_desc_style(look.text())
            .x_desc("seconds since the measurement began")
            .y_desc("operations/s")
            .y_label_formatter(&|&value| thousands(value))
            .draw()?;
        for (i, Named { results, .. }) in self.lines.iter().enumerate() {
            let points = (0..results.columns.len())
                .map(|index| (results.middle(index), per_second(results, &results.columns[index])));
            chart.draw_series(LineSeries::new(points, look.line(i, 1.0, 3)))?;
        }
        Ok(())
    }
}

impl Picture for Timelines {
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, look: Look) -> Drawn<DB> {
        let (_, height) = area.dim_in_pixel();
        let (upper, lower) = area.split_vertically(height * 62 / 100);
        self.draw_latencies(&upper, look)?;
        self.draw_throughput(&lower, look)
    }
}

impl Line {
    fn of(run: &Run) -> Line {
        let rows = &run.timeline;
        // What an open loop got after the measurement belongs to its latencies and not to its time.
        let whole = ((run.seconds / rows.interval_seconds).round() as usize).max(1);
        let latencies = rows.p50_us.iter().zip(&rows.p99_us).zip(&rows.max_us);
        let mut columns: Vec<_> = rows.completions.iter().zip(latencies).map(column).take(whole).collect();
        // What came to nothing at the end has no rows.
        columns.resize(whole.min(INTERVALS_MAX), Column::default());
        let per_interval = run.operations_per_second * rows.interval_seconds;
        let stalls = stalls(&columns, rows.interval_seconds, STALL_DISTANCES / run.operations_per_second.max(1e-3));
        let wanted = (COMPLETIONS_MIN / per_interval.max(1e-9)).ceil() as usize;
        let together = columns.len().div_ceil(COLUMNS_MAX).max(wanted.min(columns.len().div_ceil(20)));
        Line {
            columns: columns.chunks(together).map(merge).collect(),
            column_seconds: together as f64 * rows.interval_seconds,
            stalls,
            per_second: run.operations_per_second,
            longest_gap_us: run.longest_gap_us,
            command: run.during.as_ref().and_then(|during| Some((during.began_seconds?, during.command.clone()))),
        }
    }

    /// The time that a column stands for.
    fn middle(&self, index: usize) -> f64 {
        (index as f64 + 0.5) * self.column_seconds
    }

    /// Columns with completions, as ranges without gaps.
    fn pieces(&self) -> Vec<std::ops::Range<usize>> {
        let mut pieces: Vec<std::ops::Range<usize>> = Vec::new();
        for (index, _) in self.columns.iter().enumerate().filter(|(_, column)| column.completions > 0) {
            match pieces.last_mut() {
                Some(piece) if piece.end == index => piece.end = index + 1,
                _ => pieces.push(index..index + 1),
            }
        }
        pieces
    }
}

fn column((completions, ((p50, p99), max)): (&u64, ((&f64, &f64), &f64))) -> Column {
    Column { completions: *completions, p50: *p50, p99: *p99, max: *max }
}

/// Some columns as one: the mean of their medians, the highest of the others.
fn merge(columns: &[Column]) -> Column {
    let completions = columns.iter().map(|column| column.completions).sum::<u64>();
    let weighted: f64 = columns.iter().map(|column| column.p50 * column.completions as f64).sum();
    Column {
        completions,
        p50: weighted / completions.max(1) as f64,
        p99: columns.iter().map(|column| column.p99).fold(0.0, f64::max),
        max: columns.iter().map(|column| column.max).fold(0.0, f64::max),
    }
}

/// Beginning and end, in seconds, of the times of at least `least_seconds` without a completion.
fn stalls(columns: &[Column], interval_seconds: f64, least_seconds: f64) -> Vec<(f64, f64)> {
    let mut stalls = Vec::new();
    let mut began = 0;
    for index in 0..=columns.len() {
        if columns.get(index).is_none_or(|column| column.completions > 0) {
            if (index - began) as f64 * interval_seconds >= least_seconds.max(interval_seconds) {
                stalls.push((began as f64 * interval_seconds, index as f64 * interval_seconds));
            }
            began = index + 1;
        }
    }
    stalls.sort_by(|a, b| (b.1 - b.0).total_cmp(&(a.1 - a.0)));
    stalls.truncate(STALLS_MAX);
    stalls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_a_time_in_which_much_was_to_be_expected() {
        let columns: Vec<Column> =
            [3, 0, 0, 0, 2, 0, 1, 0, 0].map(|completions| Column { completions, ..Column::default() }).into();
        assert_eq!(stalls(&columns, 0.02, 0.03), [(0.02, 0.08), (0.14, 0.18)]);
        assert_eq!(stalls(&columns, 0.02, 0.0).len(), 3);
        assert_eq!(stalls(&columns, 0.02, 1.0), []);
    }

    #[test]
    fn columns_that_are_put_together_keep_the_highest() {
        let column = |completions, p50, max| Column { completions, p50, p99: max, max };
        let merged = merge(&[column(1, 10.0, 30.0), column(3, 20.0, 25.0), Column::default()]);
        assert_eq!((merged.completions, merged.p50, merged.p99, merged.max), (4, 17.5, 30.0, 30.0));
    }
}
