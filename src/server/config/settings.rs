//! Between text and [`super::Config`]: every key looked up in the table and its value checked for shape.
//!
//! After [`Settings::read`] a value can be taken without an error, because its shape holds. What remains for
//! [`super::resolve`] are the rules between keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::environment::Flag;
use super::error::{ConfigError, InvalidValue, Place, Warning};
use super::keys::{self, Key, Support};
use super::properties::{self, Oddity};
use super::values::Kind;
use crate::server::placement::{self, CoreId};

/// One key that is set.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// The key as it is written.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Where.
    pub place: Place,
    kind: Kind,
}

impl Setting {
    /// The value as messages may show it.
    pub fn shown(&self) -> &str {
        shown(&self.key, self.kind, &self.value)
    }

    /// An error about this value.
    pub fn invalid(&self, what: impl Into<String>, allowed: impl Into<String>) -> ConfigError {
        InvalidValue {
            place: self.place.clone(),
            key: self.key.clone(),
            value: self.shown().to_string(),
            what: what.into(),
            allowed: allowed.into(),
        }
        .into()
    }
}

fn shown<'a>(key: &str, kind: Kind, value: &'a str) -> &'a str {
    let key = key.to_ascii_lowercase();
    let secret = kind == Kind::Secret || key.contains("password") || key.contains("secret");
    match value {
        "" => "",
        _ if secret => "(hidden)",
        value => value,
    }
}

/// All settings of one configuration.
pub(super) struct Settings {
    /// The file, for errors about what is missing.
    pub path: PathBuf,
    /// Honoured keys by their name in the table.
    single: BTreeMap<&'static str, Setting>,
    /// Members of honoured families such as `server.1`, in the order of the file.
    members: Vec<(&'static str, Setting)>,
    /// What deserves a look.
    pub warnings: Vec<Warning>,
}

/// Of two lines for one server one would be lost, and its server with it.
pub(super) fn refuse_server_twice(
    properties: &properties::Properties,
    place: impl Fn(u32) -> Place,
) -> Result<(), ConfigError> {
    for oddity in &properties.oddities {
        if let Oddity::Duplicate { key, first_line, line } = oddity
            && key.starts_with("server.")
        {
            let what = format!("{key} is set twice, in lines {first_line} and {line}");
            return Err(ConfigError::Syntax { place: place(*line), what });
        }
    }
    Ok(())
}

impl Settings {
    /// Reads a text, which stands in `path`. The flags are weaker than the text, the first of them weakest.
    pub fn read(text: &[u8], path: &Path, flags: Vec<Flag>) -> Result<Settings, ConfigError> {
        let place = |line| Place::Line(path.to_path_buf(), line);
        let properties = properties::parse(text)
            .map_err(|error| ConfigError::Syntax { place: place(error.line), what: error.what.to_string() })?;
        let mut settings =
            Settings { path: path.to_path_buf(), single: BTreeMap::new(), members: Vec::new(), warnings: Vec::new() };
        for flag in flags {
            settings.take(flag.key, flag.value, Place::Variable(flag.variable))?;
        }
        refuse_server_twice(&properties, place)?;
        for property in properties.entries {
            settings.take(property.key, property.value, place(property.line))?;
        }
        let odd = properties.oddities.iter();
        settings.warnings.extend(odd.map(|oddity| Warning { place: place(oddity.line()), what: oddity.to_string() }));
        Ok(settings)
    }

    fn take(&mut self, name: String, value: String, place: Place) -> Result<(), ConfigError> {
        let Some(key) = keys::find(&name) else {
            return self.take_unknown(name, place);
        };
        let setting = Setting { key: name, value, place, kind: key.kind };
        check_shape(key, &setting)?;
        match key.support {
            Support::Honoured if key.family().is_some() => self.members.push((key.name, setting)),
            Support::Honoured | Support::InEnsemble => {
                self.single.insert(key.name, setting);
            }
            Support::Refused(_) => {}
            Support::NoEffect(_) if key.is_default(&setting.value) => {}
            Support::NoEffect(why) => {
                let what = format!("{} = {} has no effect: {why}", setting.key, setting.shown());
                self.warn(setting.place, what);
            }
        }
        Ok(())
    }

    fn take_unknown(&mut self, name: String, place: Place) -> Result<(), ConfigError> {
        let nearest = keys::nearest(&name);
        if name.starts_with(keys::OWN_PREFIX) || nearest.is_some_and(|miss| miss.loses_intent()) {
            return Err(ConfigError::UnknownKey { place, key: name, suggestion: nearest.map(|miss| miss.name) });
        }
        let what = match nearest {
            Some(miss) => format!("{name}: unknown key; did you mean `{}`?", miss.name),
            None => format!("{name}: unknown key, ignored"),
        };
        self.warn(place, what);
        Ok(())
    }

    /// Warns of what only members of an ensemble use: this server is none.
    pub fn warn_of_ensemble_keys(&mut self) {
        let support = |name: &str| keys::find(name).map(|key| (key, key.support));
        let odd: Vec<(Place, String)> = self
            .single
            .iter()
            .filter_map(|(name, setting)| match support(name) {
                Some((key, Support::InEnsemble)) if !key.is_default(&setting.value) => {
                    let what = format!("{} = {} has no effect: {}", setting.key, setting.shown(), key.support.why());
                    Some((setting.place.clone(), what))
                }
                _ => None,
            })
            .collect();
        for (place, what) in odd {
            self.warn(place, what);
        }
    }

    /// Adds a warning.
    pub fn warn(&mut self, place: Place, what: impl Into<String>) {
        let what = what.into();
        self.warnings.push(Warning { place, what });
    }

    /// The setting of an honoured key, if it is set.
    pub fn get(&self, name: &str) -> Option<&Setting> {
        assert!(keys::find(name).is_some_and(|key| key.support.is_honoured()), "{name} is not honoured");
        self.single.get(name)
    }

    /// Where the key is set, or the file as a whole.
    pub fn place(&self, name: &str) -> Place {
        self.get(name).map_or_else(|| Place::File(self.path.clone()), |set| set.place.clone())
    }

    /// Members of the family `name`, such as `server.*`.
    pub fn members(&self, name: &str) -> impl Iterator<Item = &Setting> {
        let named = self.members.iter().filter(move |(family, _)| *family == name);
        named.map(|(_, setting)| setting)
    }

    /// The text of a key, or its default from the table.
    pub fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Some(setting) => &setting.value,
            None => keys::find(name).map_or("", |key| key.default),
        }
    }

    /// The text of a key if it is set and not empty.
    pub fn set_text(&self, name: &str) -> Option<&str> {
        let value = self.get(name).map(|setting| setting.value.as_str());
        value.filter(|value| !value.is_empty())
    }

    /// A number that is set.
    pub fn set_int(&self, name: &str) -> Option<i64> {
        let setting = self.get(name)?;
        let number = setting.kind.int(&setting.value);
        Some(number.expect("the shape was checked on reading"))
    }

    /// A number that is set, known to be in the range of `T` by its kind.
    pub fn set_number<T: TryFrom<i64>>(&self, name: &str) -> Option<T> {
        let number = T::try_from(self.set_int(name)?).ok();
        Some(number.expect("the kind's range fits the type"))
    }

    /// A number, set or by default.
    pub fn int(&self, name: &str) -> i64 {
        let default = || self.text(name).parse().expect("the table has a default");
        self.set_int(name).unwrap_or_else(default)
    }

    /// A number known to be in the range of `T` by its kind.
    pub fn number<T: TryFrom<i64>>(&self, name: &str) -> T {
        let number = T::try_from(self.int(name)).ok();
        number.expect("the kind's range fits the type")
    }

    /// Like [`Settings::number`], where 0 and less mean that there is no limit.
    pub fn limit<T: TryFrom<i64>>(&self, name: &str) -> Option<T> {
        (self.int(name) > 0).then(|| self.number(name))
    }

    /// `true` or `yes`, set or by default.
    pub fn is_on(&self, name: &str) -> bool {
        let value = self.text(name);
        value.eq_ignore_ascii_case("true") || value == "yes"
    }

    /// A list of cores that is set.
    pub fn set_cores(&self, name: &str) -> Option<Vec<CoreId>> {
        let list = placement::parse_cores(&self.get(name)?.value);
        Some(list.expect("the shape was checked on reading"))
    }

    /// A single core that is set.
    pub fn set_core(&self, name: &str) -> Option<CoreId> {
        let core = usize::try_from(self.set_int(name)?);
        Some(CoreId(core.expect("the kind's range is positive")))
    }
}

fn check_shape(key: &Key, setting: &Setting) -> Result<(), ConfigError> {
    let shape = key.kind.check(&setting.key, &setting.value);
    match (key.support, key.kind, shape) {
        // For these the reason says more than that the word is unknown.
        (Support::Refused(why), Kind::Word(_), Err(bad)) => Err(setting.invalid(why, bad.allowed)),
        (_, _, Err(bad)) => {
            let what = words_of_apache(key, &setting.value).unwrap_or(bad.what);
            Err(setting.invalid(what, bad.allowed))
        }
        (Support::Refused(_), Kind::Word(_), Ok(())) => Ok(()),
        (Support::Refused(why), _, Ok(())) if !key.is_default(&setting.value) => Err(setting.invalid(why, key.default)),
        (_, _, Ok(())) => Ok(()),
    }
}

/// Apache's own words for a bad value, where people know and search for them.
fn words_of_apache(key: &Key, value: &str) -> Option<String> {
    match (key.name, value) {
        ("tickTime", "0") => Some("tickTime is not set".to_string()),
        ("peerType", _) => Some(format!("Unrecognised peertype: {value}")),
        ("metricsProvider.className", _) => Some("metrics provider class was not found".to_string()),
        _ => None,
    }
}
