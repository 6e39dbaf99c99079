//! Znode paths: which are valid, and how they come apart.

/// Why a path is refused (`PathUtils.validatePath`), with the offset in bytes where that shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The names say it.
pub enum PathError {
    Empty,
    NotAbsolute,
    EndsWithSlash,
    EmptyName(usize),
    RelativeName(usize),
    BadCharacter(usize),
}

/// Full validation, as create (after the sequence number is appended), setData, setACL and check do it.
///
/// Java validates UTF-16 units, so every character outside the basic plane is refused (its surrogates
/// are), and so is U+FFFD, which stands for malformed input.
pub fn validate(path: &str) -> Result<(), PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if path == "/" {
        return Ok(());
    }
    if path.ends_with('/') {
        return Err(PathError::EndsWithSlash);
    }
    // Nearly all paths are printable ASCII, which needs no decoding.
    if !path.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && let Some((at, _)) = path.char_indices().find(|(_, c)| !is_allowed(*c))
    {
        return Err(PathError::BadCharacter(at));
    }
    let mut at = 1;
    for name in path[1..].split('/') {
        match name {
            "" => return Err(PathError::EmptyName(at)),
            "." | ".." => return Err(PathError::RelativeName(at)),
            _ => at += name.len() + 1,
        }
    }
    Ok(())
}

fn is_allowed(c: char) -> bool {
    !matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{ffff}' | '\u{10000}'..)
}

/// Parent and name: `/a/b` is (`/a`, `b`), `/a` is (`/`, `a`). `None` where there is no `/`.
///
/// A trailing slash leaves an empty name, as a sequential create uses it; `/` is (`/`, empty).
pub fn split(path: &str) -> Option<(&str, &str)> {
    let slash = path.rfind('/')?;
    Some((if slash == 0 { "/" } else { &path[..slash] }, &path[slash + 1..]))
}

/// The names on the way from the root, `None` for what cannot be the path of any znode.
/// The root is `/`; the empty path is another name for it, a quirk that reads of Apache show.
pub fn names(path: &str) -> Option<impl Iterator<Item = &str>> {
    let below = match path {
        "" | "/" => None,
        _ => Some(path.strip_prefix('/')?),
    };
    Some(below.into_iter().flat_map(|below| below.split('/')))
}

/// Whether `path` is `ancestor` or lies below it.
pub fn is_within(path: &str, ancestor: &str) -> bool {
    ancestor == "/" || path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_paths_are_valid() {
        for good in ["/", "/a", "/a/b", "/a.b", "/...", "/.a", "/ä", "/a b", "/\u{d7ff}", "/zookeeper/x"] {
            assert_eq!(validate(good), Ok(()), "{good:?}");
        }
        for (bad, why) in [
            ("", PathError::Empty),
            ("a", PathError::NotAbsolute),
            ("/a/", PathError::EndsWithSlash),
            ("//a", PathError::EmptyName(1)),
            ("/a//b", PathError::EmptyName(3)),
            ("/a/./b", PathError::RelativeName(3)),
            ("/..", PathError::RelativeName(1)),
            ("/a\0", PathError::BadCharacter(2)),
            ("/a\u{1f}", PathError::BadCharacter(2)),
            ("/\u{7f}", PathError::BadCharacter(1)),
            ("/\u{9f}b", PathError::BadCharacter(1)),
            ("/\u{e000}", PathError::BadCharacter(1)),
            ("/\u{fffd}", PathError::BadCharacter(1)),
            ("/😀", PathError::BadCharacter(1)),
        ] {
            assert_eq!(validate(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn how_paths_come_apart() {
        assert_eq!(split("/a/b"), Some(("/a", "b")));
        assert_eq!(split("/a"), Some(("/", "a")));
        assert_eq!(split("/a/"), Some(("/a", "")));
        assert_eq!(split("/"), Some(("/", "")));
        assert_eq!(split("a"), None);
        assert_eq!(names("/a/b").unwrap().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(names("/").unwrap().count(), 0);
        assert!(names("a").is_none());
        assert!(is_within("/a/b", "/a") && is_within("/a", "/a") && is_within("/a", "/"));
        assert!(!is_within("/ab", "/a"));
    }
}
