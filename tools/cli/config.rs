//! `-client-configuration`: a file of Java properties, and what of `CLIENT_JVMFLAGS` is for a client.
//!
//! Source: `ZKClientConfig`. Keys that ask for a connection this client cannot make are refused: a connection in the
//! clear where TLS was asked for would be worse than none.

use std::fs;
use std::path::Path;
use std::time::Duration;

use ringkeeper::server::config::properties;

use crate::client::Options;

/// Keys that have no effect here, and that need none: they tune what is not there, or say how to do what is refused.
const IGNORED: [&str; 4] = ["zookeeper.sasl.", "zookeeper.ssl.", "zookeeper.server.", "zookeeper.kinit"];

/// Reads the file into `options`. The text is a complaint.
pub fn read(file: &Path, options: &mut Options) -> Result<(), String> {
    let in_file = |why: String| format!("{}: {why}", file.display());
    let text = fs::read(file).map_err(|error| in_file(error.to_string()))?;
    let properties =
        properties::parse(&text).map_err(|error| in_file(format!("line {}: {}", error.line, error.what)))?;
    for property in &properties.entries {
        apply(&property.key, &property.value, options)
            .map_err(|why| in_file(format!("line {}: {why}", property.line)))?;
    }
    Ok(())
}

/// Reads `-Dkey=value` of a variable such as `CLIENT_JVMFLAGS`.
pub fn read_flags(flags: &str, options: &mut Options) -> Result<(), String> {
    for flag in flags.split_ascii_whitespace() {
        if let Some((key, value)) = flag.strip_prefix("-D").and_then(|flag| flag.split_once('=')) {
            apply(key, value, options)?;
        }
    }
    Ok(())
}

fn apply(key: &str, value: &str, options: &mut Options) -> Result<(), String> {
    let is_true = value.eq_ignore_ascii_case("true");
    match key {
        "zookeeper.client.secure" if is_true => {
            return Err(format!("{key}=true: this client does not speak TLS yet"));
        }
        "zookeeper.client.secure" | "zookeeper.sasl.client" | "zookeeper.clientCnxnSocket" => {}
        "zookeeper.disableAutoWatchReset" => options.forget_watches = is_true,
        "zookeeper.request.timeout" => {
            let ms: u64 = value.parse().map_err(|_| format!("{key}={value}: not a number of ms"))?;
            options.request_timeout = (ms > 0).then(|| Duration::from_millis(ms));
        }
        "jute.maxbuffer" => {
            let bad = || format!("{key}={value}: not a number of bytes from 1 to {}", i32::MAX);
            let bytes: i32 = value.parse().map_err(|_| bad())?;
            options.frame_bytes_max = usize::try_from(bytes).ok().filter(|bytes| *bytes > 0).ok_or_else(bad)?;
        }
        _ if key.starts_with("zookeeper.") && !IGNORED.iter().any(|prefix| key.starts_with(prefix)) => {
            eprintln!("{key} has no effect on this client");
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_client() {
        let mut options = Options::default();
        let flags =
            "-Xmx1g -Djute.maxbuffer=4096 -Dzookeeper.request.timeout=1500 -Dzookeeper.disableAutoWatchReset=true";
        assert_eq!(read_flags(flags, &mut options), Ok(()));
        assert_eq!(options.frame_bytes_max, 4096);
        assert_eq!(options.request_timeout, Some(Duration::from_millis(1500)));
        assert!(options.forget_watches);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for flag in ["-Dzookeeper.client.secure=true", "-Djute.maxbuffer=-1", "-Dzookeeper.request.timeout=x"] {
            assert!(read_flags(flag, &mut Options::default()).is_err(), "{flag}");
        }
        assert_eq!(read_flags("-Dzookeeper.client.secure=false", &mut Options::default()), Ok(()));
    }
}
