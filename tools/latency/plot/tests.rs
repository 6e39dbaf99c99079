//! What can be seen in a picture: its words, and its lines by their colours.

use std::fs;
use std::path::Path;

use super::*;
use crate::results::to_json;

/// A run of 2 s at 1,000 operations a second of which none ends from 0.5 s to 1.0 s.
const RUN: &str = r#"{"op": "set", "size_bytes": 100, "servers": ["s"], "connections": 4, "rate": 1000.0, "threads": 1,
    "keys": 10, "warmup_seconds": 0.0, "seconds": 2.0, "operations": 1500, "operations_per_second": 750.0,
    "longest_gap_us": 512000.0, "latency_us": {"set": {"count": 1500, "p50": 800.0, "p90": 900.0, "p99": 2500.0,
    "p99.9": 30000.0, "p99.99": 700000.0, "max": 700000.0, "mean": 900.0,
    "curve": [[0.0, 300.0], [0.5, 800.0], [0.9, 900.0], [0.99, 2500.0], [0.999, 30000.0], [1.0, 700000.0]]}},
    "sent_bytes_per_second": 0.0, "received_bytes_per_second": 0.0, "generator_cpu_us_per_op": 0.0,
    "generator_cpu_cores": 0.0, "prepare_seconds": 0.0, "clean_up_seconds": 0.0, "faults": {"error_replies": 0,
    "error_codes": {}, "wrong_replies": 0, "connections_lost": 0, "unanswered": 0, "messages": []},
    "timeline": {"interval_seconds": 0.1, "completions": [C], "p50_us": [L], "p99_us": [L], "max_us": [L]}}"#;

/// A directory of a test's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("ringkeeper-latency-{test}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("there is a place for temporary files");
        Scratch(dir)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let file = self.0.join(name);
        fs::write(&file, text).expect("it can be written");
        file.to_str().expect("UTF-8").to_owned()
    }

    fn plot(&self, results: &[String]) -> Result<Vec<String>, String> {
        let results = results.to_vec();
        let files = run(&PlotOptions { results, out: self.0.join("out"), title: None })?;
        let name = |file: &PathBuf| file.file_name().expect("a file").to_str().expect("UTF-8").to_owned();
        Ok(files.iter().map(name).collect())
    }

    /// The texts of a picture.
    fn words(&self, picture: &str) -> String {
        let svg = fs::read_to_string(self.0.join(picture)).expect("it has been drawn");
        let lines = svg.lines().map(str::trim).filter(|line| !line.starts_with('<'));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Whether a picture has pixels of the colour of the results with that number.
    fn has_colour(&self, picture: &str, number: usize) -> bool {
        let file = std::io::BufReader::new(fs::File::open(self.0.join(picture)).expect("it has been drawn"));
        let mut reader = png::Decoder::new(file).read_info().expect("a PNG");
        let mut pixels = vec![0; reader.output_buffer_size().expect("it fits into memory")];
        let info = reader.next_frame(&mut pixels).expect("a whole PNG");
        assert_eq!((info.width, info.height), (1920, 1080));
        let RGBColor(red, green, blue) = canvas::colour(number);
        // The legend has some too: a line across the picture has more.
        pixels.chunks(3).filter(|pixel| *pixel == [red, green, blue]).count() > 1500
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

use plotters::style::RGBColor;

fn example() -> String {
    let rows = |running: &str, stalled: &str| -> String {
        (0..20).map(|row| if (5..10).contains(&row) { stalled } else { running }).collect::<Vec<_>>().join(",")
    };
    RUN.replace("[C]", &format!("[{}]", rows("100", "0"))).replace("[L]", &format!("[{}]", rows("800.0", "0.0")))
}

#[test]
fn runs_lie_over_each_other_with_axes_units_and_legends() {
    let scratch = Scratch::new("runs");
    let first = scratch.write("first.json", &example());
    let second = scratch.write("second.json", &example().replace("1000.0, \"threads\"", "2000.0, \"threads\""));
    let files = scratch.plot(&[first, format!("other={second}")]).expect("it can be drawn");
    assert_eq!(files, ["out-percentiles.png", "out-percentiles.svg", "out-timeline.png", "out-timeline.svg"]);

    let words = scratch.words("out-percentiles.svg");
    for text in [
        "set, 100 bytes: latency by percentile",
        "first:  p50 800 µs,  p99 2.5 ms,  p99.9 30 ms,  max 700 ms",
        "other:  p50 800 µs",
        "99.9%",
        "1 ms",
        "100 ms",
        "share of the operations that took no longer",
        "latency",
    ] {
        assert!(words.contains(text), "{text} is not in {words}");
    }
    assert!(!words.contains("99.99%"), "1,500 operations have no such percentile: {words}");

    let words = scratch.words("out-timeline.svg");
    let texts = ["first:  750 operations a second,  longest time without a completion 512 ms", "nothing for 500 ms"];
    for text in texts.into_iter().chain(["seconds since the measurement began", "operations/s"]) {
        assert!(words.contains(text), "{text} is not in {words}");
    }
    for picture in ["out-percentiles.png", "out-timeline.png"] {
        // The second run lies on the first here.
        assert!(scratch.has_colour(picture, 1), "{picture} has a line for the results");
        assert!(!scratch.has_colour(picture, 2), "{picture} has no line for results that are not there");
    }
}

#[test]
fn sweeps_give_a_curve_over_throughput() {
    let scratch = Scratch::new("sweeps");
    let Ok(Results::Run(run)) = serde_json::from_str(&example()) else { panic!("the example is a run") };
    let step = |per_second: f64| Run { operations_per_second: per_second, ..(*run).clone() };
    let sweep = |top: f64| to_json(&Sweep { sweep: "rate".to_owned(), steps: vec![step(top / 2.0), step(top)] });
    let files = [scratch.write("a.json", &sweep(40_000.0)), scratch.write("b.json", &sweep(90_000.0))];
    assert_eq!(scratch.plot(&files).expect("it can be drawn"), ["out-throughput.png", "out-throughput.svg"]);
    let words = scratch.words("out-throughput.svg");
    let texts = ["set, 100 bytes: latency by throughput", "b:  up to 90,000 operations a second", "80,000", "1 ms"];
    for text in texts.into_iter().chain(["p99 dashed", "operations a second"]) {
        assert!(words.contains(text), "{text} is not in {words}");
    }
    assert!(scratch.has_colour("out-throughput.png", 0) && scratch.has_colour("out-throughput.png", 1));
}

#[test]
fn what_cannot_be_drawn_is_named() {
    let scratch = Scratch::new("bad");
    let missing = scratch.0.join("missing.json").to_str().expect("UTF-8").to_owned();
    assert!(scratch.plot(&[missing]).unwrap_err().contains("missing.json: No such file"));
    for text in ["", "{}", "[1, 2]", "{\"sweep\": \"rate\", \"steps\": []}", &example()[..500]] {
        let file = scratch.write("bad.json", text);
        let error = scratch.plot(&[file]).unwrap_err();
        assert!(error.contains("bad.json: not the results") || error.contains("bad.json: a sweep without"), "{error}");
    }
    let old = scratch.write("old.json", &example().replace("\"curve\"", "\"x\"").replace("\"timeline\"", "\"y\""));
    assert_eq!(scratch.plot(&[old]).unwrap_err(), "there is nothing to draw in these results");
}

#[test]
fn a_name_goes_before_a_file() {
    assert_eq!(name_and_file("apache=/x/run.json"), ("apache".to_owned(), Path::new("/x/run.json")));
    assert_eq!(name_and_file("/x/rate=5.json"), ("rate=5".to_owned(), Path::new("/x/rate=5.json")));
}

#[test]
fn latencies_have_the_unit_that_suits_them() {
    assert_eq!([500.0, 2_500.0, 10_000.0, 1e6, 1.25e7].map(with_unit), ["500 µs", "2.5 ms", "10 ms", "1 s", "12 s"]);
}
