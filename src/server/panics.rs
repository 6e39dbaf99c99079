//! A panic is a mistake in the server, and ends it: a process that has lost one of its shards serves nobody, keeps its
//! ports, and answers no signal. A start reads back what was acknowledged, and an ensemble goes on without it meanwhile.

use super::http;

/// From here on a panic on any thread ends the process by SIGABRT, once it has been told where and why. But on the thread that
/// answers HTTP, where it ends the one connection.
pub fn end_the_process() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        if std::thread::current().name() != Some(http::THREAD) {
            tracing::error!("{panic}. This is a mistake in the server, which ends. Nothing acknowledged is lost");
            std::process::abort();
        }
    }));
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;
    use std::thread;

    use super::*;

    const ROLE: &str = "RINGKEEPER_TEST_PANICS";

    fn panic_on_a_thread(name: &str) {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(|| panic!("on purpose"));
        assert!(thread.expect("there is room for a thread").join().is_err());
    }

    /// Runs this very test in a process of its own, which panics as it is told to.
    #[test]
    fn a_panic_ends_the_process_but_where_http_is_answered() {
        if let Ok(name) = std::env::var(ROLE) {
            end_the_process();
            return panic_on_a_thread(&name);
        }
        let this_test = thread::current().name().expect("tests have names").to_owned();
        for (name, signal) in
            [("broadcast-0", Some(libc::SIGABRT)), ("leisure", Some(libc::SIGABRT)), (http::THREAD, None)]
        {
            let program = std::env::current_exe().expect("it runs");
            let run = Command::new(program).args(["--exact", &this_test, "--nocapture"]).env(ROLE, name).output();
            let run = run.expect("it can be run");
            assert_eq!(run.status.signal(), signal, "{name}");
            let told = String::from_utf8_lossy(&run.stderr);
            assert!(told.contains(name) && told.contains("on purpose"), "{told}");
        }
    }
}
