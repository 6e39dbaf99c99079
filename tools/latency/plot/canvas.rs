//! The frame that all pictures share: size, fonts, colours, heading and legend, and the two kinds of files.

use std::fs::{self, File};
use std::io::BufWriter;
use std::ops::Range;
use std::path::Path;
use std::sync::Once;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

/// Width and height in the units that all sizes here are in: about what a README has room for.
const SIZE: (u32, u32) = (960, 540);
/// Pixels of a PNG for each of them, so that it is sharp on a fine screen too.
const PNG_SCALE: u32 = 2;
/// The font family: a PNG has the one that comes with this program, an SVG the one of whoever looks at it.
const FONT: &str = "sans-serif";
/// Colours that people with any kind of colour vision tell apart (Okabe and Ito), in the order of the results.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(120, 120, 120),
];
const TEXT: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(222, 222, 222);

/// The outcome of drawing on a backend.
pub type Drawn<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;

/// Something to draw inside a frame.
pub trait Picture {
    /// Draws it on the whole area.
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, look: Look) -> Drawn<DB>;
}

/// What is around a picture.
pub struct Frame {
    /// The heading.
    pub title: String,
    /// Below it, an entry a line.
    pub legend: Vec<Entry>,
}

/// An entry of a legend.
pub struct Entry {
    /// Its colour's number, or `None` for an entry that explains the kinds of lines.
    pub colour: Option<usize>,
    /// What the colour stands for.
    pub text: String,
}

/// How large things are drawn.
#[derive(Clone, Copy)]
pub struct Look {
    scale: u32,
}

impl Look {
    /// A length.
    pub fn px(self, length: u32) -> u32 {
        length * self.scale
    }

    /// The style of small text.
    pub fn text(self) -> TextStyle<'static> {
        self.sized(14)
    }

    fn sized(self, size: u32) -> TextStyle<'static> {
        (FONT, self.px(size)).into_font().color(&TEXT)
    }

    /// The lines behind the data.
    pub fn grid(self) -> ShapeStyle {
        GRID.stroke_width(self.scale)
    }

    /// The lines of the axes.
    pub fn axis(self) -> ShapeStyle {
        TEXT.stroke_width(self.scale)
    }

    /// A line of the data: the colour's number, its opacity, its width in half units.
    pub fn line(self, colour: usize, opacity: f64, half_units: u32) -> ShapeStyle {
        self::colour(colour).mix(opacity).stroke_width((half_units * self.scale).div_ceil(2))
    }
}

/// The colour of the results with that number.
pub fn colour(number: usize) -> RGBColor {
    COLOURS[number % COLOURS.len()]
}

/// Draws a picture into a file: PNG if its name ends so, or else SVG.
pub fn save(file: &Path, frame: &Frame, picture: &impl Picture) -> Result<(), String> {
    let at = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    if file.extension().is_some_and(|extension| extension == "png") {
        let (width, height) = (SIZE.0 * PNG_SCALE, SIZE.1 * PNG_SCALE);
        let mut pixels = vec![255; (width * height * 3) as usize];
        let backend = BitMapBackend::with_buffer(&mut pixels, (width, height));
        draw(backend, frame, picture, Look { scale: PNG_SCALE }).map_err(|error| at(&error))?;
        write_png(file, &pixels, width, height).map_err(|error| at(&error))
    } else {
        let mut text = String::new();
        let backend = SVGBackend::with_string(&mut text, SIZE);
        draw(backend, frame, picture, Look { scale: 1 }).map_err(|error| at(&error))?;
        fs::write(file, text).map_err(|error| at(&error))
    }
}

fn write_png(file: &Path, pixels: &[u8], width: u32, height: u32) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(file)?), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::High);
    encoder.write_header()?.write_image_data(pixels)
}

fn draw<DB: DrawingBackend>(backend: DB, frame: &Frame, picture: &impl Picture, look: Look) -> Drawn<DB> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        let known = register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
        assert!(known.is_ok(), "the font that comes with the program is a font");
    });
    let root = backend.into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.margin(look.px(10), look.px(8), look.px(14), look.px(18));
    let (head, body) = root.split_vertically(look.px(30 + 20 * frame.legend.len() as u32));
    head.draw(&Text::new(frame.title.clone(), (0, 0), look.sized(19)))?;
    for (row, entry) in (0..).zip(&frame.legend) {
        let y = look.px(38 + 20 * row) as i32;
        let mut x = 0;
        if let Some(number) = entry.colour {
            x = look.px(30) as i32;
            let style = colour(number).stroke_width(look.px(4));
            head.draw(&PathElement::new([(0, y), (look.px(22) as i32, y)], style))?;
        }
        let style = look.text().pos(Pos::new(HPos::Left, VPos::Center));
        head.draw(&Text::new(entry.text.clone(), (x, y), style))?;
    }
    picture.draw(&body, look)?;
    root.present()
}

/// A logarithmic axis from 1 µs to minutes, or a part of it, with marks that have room.
#[derive(Clone)]
pub struct LatencyAxis {
    /// Logarithms of the ends.
    log: Range<f64>,
    marks: Vec<f64>,
}

impl LatencyAxis {
    /// An axis that has all of these latencies on it (in microseconds; those of 0 are none).
    pub fn around(latencies: impl IntoIterator<Item = f64>) -> LatencyAxis {
        let range = latencies.into_iter().filter(|&us| us > 0.0);
        let (low, high) = range.fold((f64::MAX, f64::MIN), |(low, high), us| (low.min(us), high.max(us)));
        let (low, high) = if low > high { (1.0, 10.0) } else { (low, high) };
        let log = (low / 1.3).log10()..(high * 1.3).log10();
        let steps: &[f64] = if log.end - log.start < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let decades = log.start.floor() as i32..=log.end.ceil() as i32;
        let marks = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
        let marks = marks.filter(|mark| log.contains(&mark.log10())).collect();
        LatencyAxis { log, marks }
    }

    /// Its ends in microseconds.
    pub fn ends(&self) -> Range<f64> {
        10f64.powf(self.log.start)..10f64.powf(self.log.end)
    }
}

impl Ranged for LatencyAxis {
    type ValueType = f64;
    type FormatOption = NoDefaultFormatting;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value.max(1e-3).log10() - self.log.start) / (self.log.end - self.log.start);
        limit.0 + (share.clamp(0.0, 1.0) * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.ends()
    }
}

impl ValueFormatter<f64> for LatencyAxis {
    fn format_ext(&self, value: &f64) -> String {
        super::with_unit(*value)
    }
}
