//! Pictures of results, as PNG and as SVG, several results over each other.
//!
//! What is drawn follows from the results: runs give a percentile curve and a timeline, sweeps a latency-throughput
//! curve. Each picture has the same frame, [`canvas`]; the three kinds differ in what they put into it.

mod canvas;
mod percentiles;
mod throughput;
mod timeline;

use std::path::{Path, PathBuf};

use canvas::{Entry, Frame, Picture, save};

use crate::options::PlotOptions;
use crate::report;
use crate::results::{Results, Run, Sweep};

/// Results with the name that the legend has for them.
struct Named<T> {
    name: String,
    results: T,
}

/// Draws what the options name and says which files were written.
pub fn run(options: &PlotOptions) -> Result<Vec<PathBuf>, String> {
    let mut runs = Vec::new();
    let mut sweeps = Vec::new();
    for argument in &options.results {
        let (name, file) = name_and_file(argument);
        match Results::read(file)? {
            Results::Run(run) => runs.push(Named { name, results: *run }),
            Results::Sweep(sweep) => sweeps.push(Named { name, results: sweep }),
        }
    }
    let title = options.title.clone().unwrap_or_else(|| title(&runs, &sweeps));
    let mut pictures = Pictures { out: &options.out, title, files: Vec::new() };
    if let Some(picture) = percentiles::Percentiles::of(&runs) {
        pictures.draw("percentiles", "latency by percentile", picture.legend(), &picture)?;
    }
    if let Some(picture) = timeline::Timelines::of(&runs) {
        pictures.draw("timeline", "latency over time", picture.legend(), &picture)?;
    }
    if let Some(picture) = throughput::Curves::of(&sweeps) {
        pictures.draw("throughput", "latency by throughput", picture.legend(), &picture)?;
    }
    if pictures.files.is_empty() {
        Err("there is nothing to draw in these results".to_owned())
    } else {
        Ok(pictures.files)
    }
}

/// What has been drawn.
struct Pictures<'a> {
    out: &'a Path,
    title: String,
    files: Vec<PathBuf>,
}

impl Pictures<'_> {
    /// Draws a picture in both forms.
    fn draw(&mut self, kind: &str, about: &str, legend: Vec<Entry>, picture: &impl Picture) -> Result<(), String> {
        let frame = Frame { title: format!("{}: {about}", self.title), legend };
        for extension in ["png", "svg"] {
            let mut name = self.out.as_os_str().to_owned();
            name.push(format!("-{kind}.{extension}"));
            let file = PathBuf::from(name);
            save(&file, &frame, picture)?;
            self.files.push(file);
        }
        Ok(())
    }
}

/// `name=file`, or a file whose own name will do.
fn name_and_file(argument: &str) -> (String, &Path) {
    match argument.split_once('=') {
        // A path may hold the sign too.
        Some((name, file)) if !name.contains('/') && !Path::new(argument).exists() => {
            (name.to_owned(), Path::new(file))
        }
        _ => {
            let file = Path::new(argument);
            (file.file_stem().unwrap_or_default().to_string_lossy().into_owned(), file)
        }
    }
}

/// What was measured, as far as all results have it in common.
fn title(runs: &[Named<Run>], sweeps: &[Named<Sweep>]) -> String {
    let steps = sweeps.iter().filter_map(|sweep| sweep.results.steps.first());
    let all: Vec<&Run> = runs.iter().map(|run| &run.results).chain(steps).collect();
    let Some((first, others)) = all.split_first() else { return String::new() };
    for describe in [report::describe, report::what] {
        let text = describe(first);
        if others.iter().all(|other| describe(other) == text) && sweeps.is_empty() {
            return text;
        }
    }
    let what = report::what(first);
    if others.iter().all(|other| report::what(other) == what) { what } else { "several loads".to_owned() }
}

/// A latency with a unit that suits it.
fn with_unit(us: f64) -> String {
    let (value, unit) = match us {
        us if us < 1e3 => (us, "µs"),
        us if us < 1e6 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    if value < 10.0 && value.fract() > 0.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

#[cfg(test)]
mod tests;
