//! Options and arguments of a command, by the rules of the library that Apache's shell uses for them.
//!
//! Source: `DefaultParser` of commons-cli 1.11. Options may stand anywhere; `--` ends them; options without a value
//! may be joined (`-sw`), a value may follow its option directly (`-v3`, `-v=3`). What begins with `-` and is no
//! option is an error, a negative number included, unless an option waits for its value. The texts of the errors
//! begin with a Java class, because that is how Apache's shell prints them.

/// One option of a command.
pub struct Flag {
    /// Without the dash. Mostly one letter.
    pub name: &'static str,
    /// Whether a value follows.
    pub takes_value: bool,
    /// For the usage text.
    pub about: &'static str,
}

/// An option without a value.
pub const fn switch(name: &'static str, about: &'static str) -> Flag {
    Flag { name, takes_value: false, about }
}

/// An option with a value.
pub const fn valued(name: &'static str, about: &'static str) -> Flag {
    Flag { name, takes_value: true, about }
}

/// How the options of a command go together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Any of them.
    Any,
    /// At most one.
    One,
    /// Exactly one.
    Required,
}

/// What was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Given {
    flags: Vec<(&'static str, Option<String>)>,
    /// The command's own name, then its arguments.
    pub arguments: Vec<String>,
}

impl Given {
    /// Whether the option stands there.
    pub fn has(&self, name: &str) -> bool {
        self.flags.iter().any(|(known, _)| *known == name)
    }

    /// The value of the option; of the first if it stands there twice.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.flags.iter().find(|(known, _)| *known == name).and_then(|(_, value)| value.as_deref())
    }
}

/// Takes the words of a command, its name first, apart.
pub fn parse(flags: &'static [Flag], choice: Choice, words: &[String]) -> Result<Given, String> {
    let mut parser = Parser { flags, choice, given: Given::default(), open: None };
    let mut is_over = false;
    for word in words {
        if is_over {
            parser.given.arguments.push(word.clone());
        } else if word == "--" {
            is_over = true;
        } else if parser.open.is_some() && (!parser.is_option(word) || is_negative_number(word)) {
            parser.fill(unquoted(word));
        } else if word.starts_with('-') && word.len() > 1 {
            parser.option(word)?;
        } else {
            parser.given.arguments.push(word.clone());
        }
    }
    parser.check_open()?;
    if choice == Choice::Required && parser.given.flags.is_empty() {
        let all: Vec<String> = flags.iter().map(|flag| format!("-{} {}", flag.name, flag.about)).collect();
        return Err(exception("MissingOption", &format!("Missing required option: [{}]", all.join(", "))));
    }
    Ok(parser.given)
}

struct Parser {
    flags: &'static [Flag],
    choice: Choice,
    given: Given,
    /// An option whose value has not come yet: the last of `given`.
    open: Option<&'static str>,
}

impl Parser {
    fn find(&self, name: &str) -> Option<&'static Flag> {
        self.flags.iter().find(|flag| flag.name == name)
    }

    /// Whether a word that could be the value of an option is rather an option itself.
    fn is_option(&self, word: &str) -> bool {
        let Some(rest) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else { return false };
        let name = rest.split_once('=').map_or(rest, |(name, _)| name);
        let first = name.chars().next().map(String::from);
        self.find(name).is_some() || first.is_some_and(|first| self.find(&first).is_some())
    }

    fn option(&mut self, word: &str) -> Result<(), String> {
        let unknown = || Err(exception("UnrecognizedOption", &format!("Unrecognized option: {word}")));
        if word.starts_with("--") {
            return unknown();
        }
        let text = &word[1..];
        if let Some((name, value)) = text.split_once('=') {
            // -v=3; a longer name takes no value this way.
            return match self.find(name) {
                Some(flag) if flag.takes_value && name.chars().count() == 1 => {
                    self.open(flag)?;
                    self.fill(value);
                    Ok(())
                }
                _ => unknown(),
            };
        }
        if let Some(flag) = self.find(text) {
            return self.open(flag);
        }
        // Joined options, the last of which may take the rest as its value.
        for (at, letter) in text.char_indices() {
            let Some(flag) = self.find(&letter.to_string()) else { return unknown() };
            self.open(flag)?;
            let rest = &text[at + letter.len_utf8()..];
            if flag.takes_value && !rest.is_empty() {
                self.fill(rest);
                break;
            }
        }
        Ok(())
    }

    fn open(&mut self, flag: &'static Flag) -> Result<(), String> {
        self.check_open()?;
        let other = self.given.flags.first().map(|(name, _)| *name);
        if let Some(other) = other.filter(|other| self.choice != Choice::Any && *other != flag.name) {
            let text = format!(
                "The option '{}' was specified but an option from this group has already been selected: '{other}'",
                flag.name
            );
            return Err(exception("AlreadySelected", &text));
        }
        self.given.flags.push((flag.name, None));
        self.open = flag.takes_value.then_some(flag.name);
        Ok(())
    }

    fn fill(&mut self, value: &str) {
        self.given.flags.last_mut().expect("an open option is the last one").1 = Some(value.to_owned());
        self.open = None;
    }

    fn check_open(&self) -> Result<(), String> {
        match self.open {
            Some(name) => Err(exception("MissingArgument", &format!("Missing argument for option: {name}"))),
            None => Ok(()),
        }
    }
}

fn exception(class: &str, text: &str) -> String {
    format!("org.apache.commons.cli.{class}Exception: {text}")
}

fn is_negative_number(word: &str) -> bool {
    word.parse::<f64>().is_ok()
}

/// Without a pair of double quotes around it.
fn unquoted(value: &str) -> &str {
    let inside = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    inside.filter(|inside| !inside.contains('"')).unwrap_or(value)
}

/// The options of a usage text, one a line, sorted without regard to case. Source: `HelpFormatter.printOptions`.
pub fn usage(flags: &[Flag]) -> String {
    let head = |flag: &Flag| format!(" -{}{}", flag.name, if flag.takes_value { " <arg>" } else { "" });
    let width = flags.iter().map(|flag| head(flag).len()).max().unwrap_or(0);
    let mut sorted: Vec<&Flag> = flags.iter().collect();
    sorted.sort_by_key(|flag| flag.name.to_lowercase());
    sorted.iter().map(|flag| format!("{:width$}   {}\n", head(flag), flag.about)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[switch("s", "stats"), switch("w", "watch"), valued("v", "version"), valued("add", "more")];

    fn given(line: &str) -> Result<Given, String> {
        parse(FLAGS, Choice::Any, &crate::words::split(line))
    }

    #[track_caller]
    fn check(line: &str, flags: &[(&'static str, Option<&str>)], arguments: &[&str]) {
        let flags = flags.iter().map(|(name, value)| (*name, value.map(str::to_owned))).collect();
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(given(line), Ok(Given { flags, arguments }), "{line}");
    }

    #[test]
    fn options_stand_anywhere() {
        check("get -s /a -w", &[("s", None), ("w", None)], &["get", "/a"]);
        check("get -sw /a", &[("s", None), ("w", None)], &["get", "/a"]);
        check("set -v 3 /a x", &[("v", Some("3"))], &["set", "/a", "x"]);
        check("set -v3 /a -", &[("v", Some("3"))], &["set", "/a", "-"]);
        check("set -v=3 /a", &[("v", Some("3"))], &["set", "/a"]);
        check("set -sv3 /a", &[("s", None), ("v", Some("3"))], &["set", "/a"]);
        check("set -v -1 /a", &[("v", Some("-1"))], &["set", "/a"]);
        check("x -add 1=2", &[("add", Some("1=2"))], &["x"]);
        check("get -- -s", &[], &["get", "-s"]);
        assert_eq!(given("x -v 1 -v 2").unwrap().value("v"), Some("1"));
    }

    #[test]
    fn errors_are_worded_as_javas() {
        let error = |line: &str| given(line).unwrap_err();
        assert_eq!(error("get -z /a"), "org.apache.commons.cli.UnrecognizedOptionException: Unrecognized option: -z");
        assert_eq!(error("set /a -5"), "org.apache.commons.cli.UnrecognizedOptionException: Unrecognized option: -5");
        assert_eq!(
            error("get --stat /a"),
            "org.apache.commons.cli.UnrecognizedOptionException: Unrecognized option: --stat"
        );
        assert_eq!(
            error("set /a x -v"),
            "org.apache.commons.cli.MissingArgumentException: Missing argument for option: v"
        );
        assert_eq!(
            error("set -v -s /a x"),
            "org.apache.commons.cli.MissingArgumentException: Missing argument for option: v"
        );
    }

    #[test]
    fn a_choice_is_one() {
        let parse = |choice, line: &str| parse(FLAGS, choice, &crate::words::split(line));
        assert!(parse(Choice::One, "x /a").is_ok());
        assert!(parse(Choice::One, "x -s -s /a").is_ok());
        assert_eq!(
            parse(Choice::One, "x -s -w /a").unwrap_err(),
            "org.apache.commons.cli.AlreadySelectedException: The option 'w' was specified but an option from this \
             group has already been selected: 's'"
        );
        assert!(parse(Choice::Required, "x /a").unwrap_err().contains("Missing required option: [-s stats, -w watch,"));
    }

    #[test]
    fn the_usage_is_aligned() {
        assert_eq!(usage(&FLAGS[..3]), " -s         stats\n -v <arg>   version\n -w         watch\n");
    }
}
