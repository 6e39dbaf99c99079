//! Kinds of value: what a text must look like to be accepted for a key.
//!
//! Apache checks only its native keys. The others become system properties, where a bad number silently means the
//! default and a bad boolean silently means false. Here every known key is checked before anything starts.

use std::fmt;

use crate::server::placement;

/// The shape of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number within `min..=max`, counted in `unit` (empty for a mere count).
    Int {
        /// Least value.
        min: i64,
        /// Greatest value.
        max: i64,
        /// Word for people: `ms`, `KiB`, `ticks`.
        unit: &'static str,
    },
    /// A decimal number such as `0.33`.
    Decimal,
    /// `true` or `false`, in any case.
    Bool,
    /// `yes` or `no`, exactly.
    YesNo,
    /// A TCP port, 0 to 65535.
    Port,
    /// A path; not empty.
    Path,
    /// Any text, also none.
    Text,
    /// Any text that no message may show.
    Secret,
    /// One of these words, in any case.
    Word(&'static [&'static str]),
    /// Core numbers such as `0-1,3`.
    Cores,
}

/// Why a value is not accepted. Both parts are for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadValue {
    /// What is wrong; in Apache's words where it has some.
    pub what: String,
    /// What would be accepted.
    pub allowed: String,
}

impl Kind {
    /// Whether `value` of the key `name` has this shape.
    pub fn check(&self, name: &str, value: &str) -> Result<(), BadValue> {
        let what = match self {
            Kind::Int { .. } | Kind::Port => return self.int(value).map(drop),
            Kind::Bool => return self.bool(name, value).map(drop),
            Kind::YesNo if matches!(value, "yes" | "no") => return Ok(()),
            Kind::YesNo => format!("{value:?} is neither `yes` nor `no`"),
            Kind::Decimal => match value.parse::<f64>() {
                Ok(number) if number.is_finite() => return Ok(()),
                _ => format!("For input string: {value:?}"),
            },
            Kind::Path if value.is_empty() => "no path given".to_string(),
            Kind::Path | Kind::Text | Kind::Secret => return Ok(()),
            Kind::Word(words) if words.iter().any(|word| word.eq_ignore_ascii_case(value)) => {
                return Ok(());
            }
            Kind::Word(_) => format!("{value:?} is not known"),
            Kind::Cores => match placement::parse_cores(value) {
                Ok(_) => return Ok(()),
                Err(what) => what,
            },
        };
        Err(self.bad(what))
    }

    /// Reads a number. `self` must be [`Kind::Int`] or [`Kind::Port`].
    pub fn int(&self, value: &str) -> Result<i64, BadValue> {
        let (min, max) = match self {
            Kind::Int { min, max, .. } => (*min, *max),
            Kind::Port => (0, i64::from(u16::MAX)),
            other => unreachable!("{other:?} is no number"),
        };
        let number: i64 = value.parse().map_err(|_| self.bad(format!("For input string: {value:?}")))?;
        if (min..=max).contains(&number) {
            return Ok(number);
        }
        Err(self.bad(match self {
            Kind::Port => format!("port out of range:{number}"),
            _ => format!("{number} is out of range"),
        }))
    }

    /// Reads the boolean of the key `name`.
    pub fn bool(&self, name: &str, value: &str) -> Result<bool, BadValue> {
        match value.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.bad(format!("Invalid option {value} for {name}. Choose 'true' or 'false.'"))),
        }
    }

    fn bad(&self, what: String) -> BadValue {
        BadValue { what, allowed: self.to_string() }
    }
}

/// What is allowed, in words.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Int { min, max, unit } => {
                match *max {
                    MAX_INT | MAX_LONG if *min <= MIN_INT => f.write_str("a whole number")?,
                    MAX_INT | MAX_LONG => write!(f, "a whole number from {min}")?,
                    _ => write!(f, "{min} to {max}")?,
                }
                match *unit {
                    "" => Ok(()),
                    unit => write!(f, " ({unit})"),
                }
            }
            Kind::Decimal => f.write_str("a decimal number"),
            Kind::Bool => f.write_str("true, false"),
            Kind::YesNo => f.write_str("yes, no (lower case)"),
            Kind::Port => f.write_str("0 to 65535"),
            Kind::Path => f.write_str("a path"),
            Kind::Text | Kind::Secret => f.write_str("any text"),
            Kind::Word(words) => {
                let words: Vec<&str> = words.iter().copied().filter(|w| !w.is_empty()).collect();
                f.write_str(&words.join(", "))
            }
            Kind::Cores => f.write_str("core numbers such as 0-1,3"),
        }
    }
}

/// Greatest Java `int`.
pub const MAX_INT: i64 = i32::MAX as i64;
/// Least Java `int`.
pub const MIN_INT: i64 = i32::MIN as i64;
/// Greatest Java `long`.
pub const MAX_LONG: i64 = i64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, value: &str, expected: &str) {
        let found = match kind.check("key", value) {
            Ok(()) => "ok".to_string(),
            Err(bad) => format!("{}; allowed: {}", bad.what, bad.allowed),
        };
        assert_eq!(found, expected, "{kind:?} {value:?}");
    }

    #[test]
    fn values_are_checked_by_kind() {
        let ms = Kind::Int { min: 0, max: MAX_INT, unit: "ms" };
        check(ms, "5", "ok");
        check(ms, "abc", "For input string: \"abc\"; allowed: a whole number from 0 (ms)");
        check(ms, "", "For input string: \"\"; allowed: a whole number from 0 (ms)");
        check(ms, "-1", "-1 is out of range; allowed: a whole number from 0 (ms)");
        check(ms, "2147483648", "2147483648 is out of range; allowed: a whole number from 0 (ms)");
        check(Kind::Port, "99999", "port out of range:99999; allowed: 0 to 65535");
        check(Kind::Bool, "TRUE", "ok");
        check(Kind::Bool, "yes", "Invalid option yes for key. Choose 'true' or 'false.'; allowed: true, false");
        check(Kind::YesNo, "no", "ok");
        check(Kind::YesNo, "No", "\"No\" is neither `yes` nor `no`; allowed: yes, no (lower case)");
        check(Kind::Decimal, "0.33", "ok");
        check(Kind::Decimal, "x", "For input string: \"x\"; allowed: a decimal number");
        check(Kind::Path, "", "no path given; allowed: a path");
        check(Kind::Word(&["text", "json"]), "JSON", "ok");
        check(Kind::Word(&["text", "json"]), "xml", "\"xml\" is not known; allowed: text, json");
        check(Kind::Cores, "0-1,3", "ok");
        check(Kind::Cores, "1-", "\"1-\" is no core or range of cores; allowed: core numbers such as 0-1,3");
    }
}
