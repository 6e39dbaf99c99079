//! Just enough JSON to write results.

use std::fmt::Write;

/// An object being written, one field a line.
pub struct Object {
    text: String,
    indent: usize,
}

impl Object {
    /// An empty object.
    pub fn new() -> Object {
        Object { text: String::new(), indent: 1 }
    }

    /// A number, to three decimals.
    pub fn number(&mut self, name: &str, value: f64) {
        let value = if value.is_finite() { format!("{:.3}", value) } else { "null".to_owned() };
        self.raw(name, &value);
    }

    /// A whole number.
    pub fn integer(&mut self, name: &str, value: u64) {
        self.raw(name, &value.to_string());
    }

    /// A string.
    pub fn string(&mut self, name: &str, value: &str) {
        self.raw(name, &quoted(value));
    }

    /// A list of strings.
    pub fn strings(&mut self, name: &str, values: &[String]) {
        let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
        self.raw(name, &format!("[{}]", values.join(", ")));
    }

    /// An object inside this one.
    pub fn object(&mut self, name: &str, fill: impl FnOnce(&mut Object)) {
        let mut inner = Object { text: String::new(), indent: self.indent + 1 };
        fill(&mut inner);
        self.raw(name, &inner.close());
    }

    /// The whole text, with a newline at the end.
    pub fn finish(self) -> String {
        self.close() + "\n"
    }

    fn raw(&mut self, name: &str, value: &str) {
        let separator = if self.text.is_empty() { "" } else { "," };
        let indent = "  ".repeat(self.indent);
        write!(self.text, "{separator}\n{indent}{}: {value}", quoted(name)).expect("a string takes any text");
    }

    fn close(self) -> String {
        let indent = "  ".repeat(self.indent - 1);
        if self.text.is_empty() { "{}".to_owned() } else { format!("{{{}\n{indent}}}", self.text) }
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c < ' ' => write!(quoted, "\\u{:04x}", c as u32).expect("a string takes any text"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_in_an_object() {
        let mut object = Object::new();
        object.string("a\"b", "c\\\n");
        object.object("inner", |inner| inner.number("x", 1.5));
        object.object("empty", |_| {});
        object.number("nan", f64::NAN);
        assert_eq!(
            object.finish(),
            "{\n  \"a\\\"b\": \"c\\\\\\u000a\",\n  \"inner\": {\n    \"x\": 1.500\n  },\n  \"empty\": {},\n  \"nan\": null\n}\n"
        );
    }
}
