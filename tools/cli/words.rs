//! A line becomes words: blanks separate, single and double quotes keep together, nothing escapes.
//!
//! As in Apache's shell (`ZooKeeperMain.MyCommandOptions.parseCommand`) a quote counts only at the beginning of a
//! word, and one that is not closed is passed over.

/// The words of a line; none for a line of blanks.
pub fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches(is_blank);
        let Some(first) = rest.chars().next() else { return words };
        if first == '"' || first == '\'' {
            let inside = &rest[1..];
            match inside.find(first) {
                Some(end) => {
                    words.push(inside[..end].to_owned());
                    rest = &inside[end + 1..];
                }
                None => rest = inside,
            }
        } else {
            let end = rest.find(is_blank).unwrap_or(rest.len());
            words.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
    }
}

/// The word that is being typed at the end of `line`: where it begins, quote included, and which quote that is.
pub fn last(line: &str) -> (usize, Option<char>) {
    let mut at = 0;
    loop {
        let rest = &line[at..];
        let Some(begin) = rest.find(|c| !is_blank(c)) else { return (line.len(), None) };
        at += begin;
        let word = &line[at..];
        let quote = word.chars().next().filter(|first| matches!(first, '"' | '\''));
        let end = match quote {
            Some(quote) => word[1..].find(quote).map(|end| end + 2),
            None => word.find(is_blank),
        };
        match end {
            Some(end) => at += end,
            None => return (at, quote),
        }
    }
}

/// `\s` of Java's regular expressions.
pub fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_as_apache_splits_them() {
        for (line, words) in [
            ("", &[][..]),
            ("  ", &[]),
            ("ls /", &["ls", "/"]),
            ("  get\t-s  /a ", &["get", "-s", "/a"]),
            ("create /a \"hello world\"", &["create", "/a", "hello world"]),
            ("create /a 'it is \"x\"'", &["create", "/a", "it is \"x\""]),
            ("create /a \"\"", &["create", "/a", ""]),
            ("create /a \"open", &["create", "/a", "open"]),
            ("set /a b\"c d\"", &["set", "/a", "b\"c", "d\""]),
            ("set /a 'x'y", &["set", "/a", "x", "y"]),
            ("set /a \\n", &["set", "/a", "\\n"]),
        ] {
            assert_eq!(split(line), words, "{line:?}");
        }
    }

    #[test]
    fn the_word_that_is_being_typed() {
        assert_eq!(last(""), (0, None));
        assert_eq!(last("ls"), (0, None));
        assert_eq!(last("ls "), (3, None));
        assert_eq!(last("ls /a"), (3, None));
        assert_eq!(last("ls \"/a b"), (3, Some('"')));
        assert_eq!(last("create \"/a b\" "), (14, None));
        assert_eq!(last("create '/a b' x"), (14, None));
    }
}
