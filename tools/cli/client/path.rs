//! Paths on the client's side: what is refused before it is sent, and the chroot.

/// Checks a path as Apache's client does before it sends anything.
///
/// The server has rules of its own, of the same content (`ringkeeper::tree::path`); here what counts is the text,
/// which names the first fault from the left and its place in UTF-16 units. Source: `PathUtils.validatePath`.
pub fn validate(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("Path length must be > 0".to_owned());
    }
    if !path.starts_with('/') {
        return Err("Path must start with / character".to_owned());
    }
    if path == "/" {
        return Ok(());
    }
    if path.ends_with('/') {
        return Err("Path must not end with / character".to_owned());
    }
    let units: Vec<u16> = path.encode_utf16().collect();
    let is = |at: usize, c: char| units.get(at) == Some(&(c as u16));
    let ends_name = |at: usize| at == units.len() || is(at, '/');
    for (at, unit) in units.iter().enumerate().skip(1) {
        let reason = match unit {
            0 => "null character not allowed",
            _ if is(at, '/') && is(at - 1, '/') => "empty node name specified",
            _ if is(at, '.') && is(at - 1, '.') && is(at - 2, '/') && ends_name(at + 1) => "relative paths not allowed",
            _ if is(at, '.') && is(at - 1, '/') && ends_name(at + 1) => "relative paths not allowed",
            0x01..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..=0xffff => "invalid character",
            _ => continue,
        };
        return Err(format!("Invalid path string \"{path}\" caused by {reason} @{at}"));
    }
    Ok(())
}

/// The path of a child.
pub fn join(parent: &str, name: &str) -> String {
    if parent == "/" { format!("/{name}") } else { format!("{parent}/{name}") }
}

/// The server's path for a path of the client.
pub fn to_server(chroot: Option<&str>, path: &str) -> String {
    match chroot {
        None => path.to_owned(),
        Some(chroot) if path == "/" => chroot.to_owned(),
        Some(chroot) => format!("{chroot}{path}"),
    }
}

/// The client's path for a path of the server. Paths outside of the chroot, such as that of the configuration node,
/// stay as they are.
pub fn to_client(chroot: Option<&str>, path: &str) -> String {
    let below = chroot.and_then(|chroot| path.strip_prefix(chroot));
    match below {
        Some("") => "/".to_owned(),
        Some(below) if below.starts_with('/') => below.to_owned(),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_are_apaches() {
        for good in ["/", "/a", "/a/b", "/a.b", "/...", "/.a", "/a..", "/ä b"] {
            assert_eq!(validate(good), Ok(()), "{good}");
        }
        let invalid = |path: &str, why: &str| format!("Invalid path string \"{path}\" caused by {why}");
        for (bad, text) in [
            ("", "Path length must be > 0".to_owned()),
            ("a", "Path must start with / character".to_owned()),
            ("//", "Path must not end with / character".to_owned()),
            ("/a//b", invalid("/a//b", "empty node name specified @3")),
            ("/a/./b", invalid("/a/./b", "relative paths not allowed @3")),
            ("/..", invalid("/..", "relative paths not allowed @2")),
            ("/a\u{1}", invalid("/a\u{1}", "invalid character @2")),
            ("/a\0", invalid("/a\0", "null character not allowed @2")),
            ("/ä😀", invalid("/ä😀", "invalid character @2")),
        ] {
            assert_eq!(validate(bad), Err(text));
        }
    }

    #[test]
    fn there_and_back_through_a_chroot() {
        assert_eq!(to_server(Some("/c"), "/"), "/c");
        assert_eq!(to_server(Some("/c"), "/a"), "/c/a");
        assert_eq!(to_server(None, "/a"), "/a");
        assert_eq!(to_client(Some("/c"), "/c"), "/");
        assert_eq!(to_client(Some("/c"), "/c/a"), "/a");
        assert_eq!(to_client(Some("/c"), "/cc/a"), "/cc/a");
        assert_eq!(to_client(Some("/c"), "/zookeeper/config"), "/zookeeper/config");
        assert_eq!(to_client(None, "/a"), "/a");
    }
}
