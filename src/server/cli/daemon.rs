//! `start` and `stop`: a server in the background and its pid file.
//!
//! zkServer.sh waits a second and believes what it sees. Here `start` waits until the server answers, dies, or has
//! lived for [`START_WAIT`], and `stop` until the process is gone. A pid file may be stale and its number taken by
//! another program, so a process counts as the server only if it runs this program or is Apache's server.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{Console, EXIT_FAILURE, EXIT_OK, Site, status};
use crate::server::config::{Config, check_data_dirs};

/// A server that lives so long has started, even if it does not answer yet because its database is large.
const START_WAIT: Duration = Duration::from_secs(10);
/// A server that cannot be asked has started if it lives so long, as in zkServer.sh.
const ALIVE_WAIT: Duration = Duration::from_secs(1);
/// How long a server may take to stop.
const STOP_WAIT: Duration = Duration::from_secs(30);
/// Time between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Lines of the console log to show of a server that did not start.
const TAIL_LINES: usize = 10;

/// Main classes of Apache's server, whose pid file has the same name.
const APACHE_CLASSES: [&str; 2] =
    ["org.apache.zookeeper.server.quorum.QuorumPeerMain", "org.apache.zookeeper.server.ZooKeeperServerMain"];

/// Starts a server in the background. Nothing is written unless the configuration holds.
///
/// Source: the verb `start` of zkServer.sh.
pub(super) fn start(site: &Site<'_>, console: &mut Console<'_>) -> io::Result<u8> {
    if let Some(what) = missing_without_autocreate(site) {
        writeln!(console.out, "{what}")?;
        return Ok(EXIT_FAILURE);
    }
    write!(console.out, "Starting zookeeper ... ")?;
    console.out.flush()?;
    if let Some(pid) = running_server(site) {
        writeln!(console.out, "already running as process {pid}.")?;
        return Ok(EXIT_FAILURE);
    }
    let (word, remarks) = match try_start(site) {
        Ok(()) => {
            writeln!(console.out, "STARTED")?;
            return Ok(EXIT_OK);
        }
        Err(failure) => failure,
    };
    writeln!(console.out, "{word}")?;
    writeln!(console.err, "{}", remarks.trim_end())?;
    Ok(EXIT_FAILURE)
}

/// Tells the server to stop and waits until it is gone.
///
/// Source: the verb `stop` of zkServer.sh, which does not wait.
pub(super) fn stop(site: &Site<'_>, console: &mut Console<'_>) -> io::Result<u8> {
    write!(console.out, "Stopping zookeeper ... ")?;
    console.out.flush()?;
    let Some(pid_file) = &site.pid_file else {
        writeln!(console.out, "no zookeeper to stop (dataDir is not set)")?;
        return Ok(EXIT_FAILURE);
    };
    let shown = pid_file.display();
    if !pid_file.is_file() {
        writeln!(console.out, "no zookeeper to stop (could not find file {shown})")?;
        return Ok(EXIT_OK);
    }
    let Some(pid) = running_server(site) else {
        writeln!(console.out, "no zookeeper to stop (removed stale file {shown})")?;
        fs::remove_file(pid_file)?;
        return Ok(EXIT_OK);
    };
    if let Err(cause) = terminate(site, pid) {
        writeln!(console.out, "FAILED TO STOP process {pid}: {cause}")?;
        return Ok(EXIT_FAILURE);
    }
    fs::remove_file(pid_file)?;
    writeln!(console.out, "STOPPED")?;
    Ok(EXIT_OK)
}

/// What zkServer.sh says if directories may not be made and are not there.
fn missing_without_autocreate(site: &Site<'_>) -> Option<String> {
    site.environment.get("ZOO_DATADIR_AUTOCREATE_DISABLE")?;
    let missing = |name, dir: Option<std::path::PathBuf>| {
        let dir = dir?;
        let there = dir.join("version-2").is_dir();
        (!there).then(|| format!("ZooKeeper {name} is missing at {} fix the path or run initialize", dir.display()))
    };
    missing("data directory", site.outline.data_dir())
        .or_else(|| missing("txnlog directory", site.outline.data_log_dir()))
}

/// The word to print, and what to say about it.
type StartFailure = (&'static str, String);

fn try_start(site: &Site<'_>) -> Result<(), StartFailure> {
    let failed = |remarks: String| ("FAILED TO START", remarks);
    let loaded = Config::load(&site.path, site.environment).map_err(|e| failed(e.to_string()))?;
    check_data_dirs(&loaded.config).map_err(|error| failed(error.to_string()))?;
    let Some(pid_file) = &site.pid_file else {
        // Only a variable can have set it, and stop would not find the file.
        return Err(failed("dataDir is not set in the file".to_string()));
    };
    // Whoever answers already is another server: then its answers say nothing about ours.
    let port = site.outline.client_port().found;
    let port = port.filter(|port| !port.tls && port.port != 0 && status::ask(port, "srvr").is_err());

    let mut server = spawn(site).map_err(|cause| {
        let log = site.console_log.display();
        failed(format!("cannot run the server with its output in {log}: {cause}"))
    })?;
    let started = Instant::now();
    let mut has_pid_file = false;
    loop {
        // The server makes its data directory once its port is bound, so the file may have to wait.
        if !has_pid_file && pid_file.parent().is_some_and(Path::is_dir) {
            if let Err(cause) = fs::write(pid_file, server.id().to_string()) {
                end(&mut server);
                let file = pid_file.display();
                return Err(("FAILED TO WRITE PID", format!("{file}: {cause}")));
            }
            has_pid_file = true;
        }
        if let Ok(Some(exit)) = server.try_wait() {
            if has_pid_file {
                // A stale file would do no harm.
                let _ = fs::remove_file(pid_file);
            }
            let tail = tail(&site.console_log);
            return Err(failed(format!("the server ended with {exit}\n{tail}")));
        }
        let lived = started.elapsed();
        let answers = |port| status::ask(port, "srvr").is_ok_and(|answer| !answer.is_empty());
        let ready = match &port {
            Some(port) => lived >= START_WAIT || answers(port),
            None => lived >= ALIVE_WAIT,
        };
        if ready && has_pid_file {
            return Ok(());
        }
        if lived >= START_WAIT {
            end(&mut server);
            let file = pid_file.display();
            let remark = format!("{file}: the server has not made its directory");
            return Err(("FAILED TO WRITE PID", remark));
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Runs this program in a process group of its own, so that no key typed here reaches it.
fn spawn(site: &Site<'_>) -> io::Result<Child> {
    for file in site.pid_file.iter().chain([&site.console_log]) {
        // The data directory is the server's to make.
        let is_ours = site.environment.get("ZOOPIDFILE").is_some() || *file == site.console_log;
        if let Some(dir) = file.parent().filter(|_| is_ours) {
            fs::create_dir_all(dir)?;
        }
    }
    let out = fs::File::create(&site.console_log)?;
    let err = out.try_clone()?;
    Command::new(&site.environment.program)
        .arg("start-foreground")
        .arg(&site.path)
        .current_dir(&site.environment.working_dir)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .spawn()
}

/// Ends a server that must not go on unattended.
fn end(server: &mut Child) {
    // Both fail only if it is gone.
    let _ = server.kill();
    let _ = server.wait();
}

fn tail(file: &Path) -> String {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn terminate(site: &Site<'_>, pid: Pid) -> io::Result<()> {
    // The descriptor names the process even if the number is given to another one meanwhile.
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    if !is_server(site, pid) {
        return Ok(());
    }
    pidfd_send_signal(&process, Signal::TERM)?;
    let told = Instant::now();
    while is_server(site, pid) {
        if told.elapsed() >= STOP_WAIT {
            let what = format!("still running after {} s", STOP_WAIT.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// The process that the pid file names, if it runs and is a server.
fn running_server(site: &Site<'_>) -> Option<Pid> {
    let text = fs::read_to_string(site.pid_file.as_ref()?).ok()?;
    let pid = Pid::from_raw(text.trim().parse().ok().filter(|pid| *pid > 0)?)?;
    is_server(site, pid).then_some(pid)
}

/// Whether the process is there and runs this program or Apache's server. A zombie is not there any more.
fn is_server(site: &Site<'_>, pid: Pid) -> bool {
    let process = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    let Ok(command_line) = fs::read(process.join("cmdline")) else {
        return false;
    };
    // The program may have been replaced since. Another user's process hides it, but not its arguments.
    let program = fs::read_link(process.join("exe")).unwrap_or_default();
    let program = program.to_string_lossy();
    let program = program.strip_suffix(" (deleted)").unwrap_or(&program);
    let ours = site.environment.program.to_string_lossy();
    runs_server(&ours, program, &command_line)
}

/// `command_line` is `/proc/<pid>/cmdline`: arguments that end in a zero byte each.
fn runs_server(ours: &str, program: &str, command_line: &[u8]) -> bool {
    let command_line = String::from_utf8_lossy(command_line);
    let mut arguments = command_line.split_terminator('\0');
    let Some(first) = arguments.next() else {
        return false;
    };
    let file_name = |path: &str| path.rsplit('/').next().map(str::to_string);
    file_name(program) == file_name(ours)
        || file_name(first) == file_name(ours)
        || arguments.any(|argument| APACHE_CLASSES.contains(&argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_program_or_main_class() {
        let ours = "/opt/bin/ringkeeper";
        let check = |program: &str, command_line: &str, expected: bool| {
            let found = runs_server(ours, program, command_line.as_bytes());
            assert_eq!(found, expected, "{program} {command_line:?}");
        };
        check("/usr/local/bin/ringkeeper", "ringkeeper\0start-foreground\0", true);
        check("", "./ringkeeper\0", true);
        check("/opt/bin/ringkeeper", "", false);
        check("/usr/bin/vim", "vim\0ringkeeper\0", false);
        let apache = "java\0-Xmx1g\0org.apache.zookeeper.server.quorum.QuorumPeerMain\0zoo.cfg\0";
        check("/usr/lib/jvm/bin/java", apache, true);
        check("/usr/lib/jvm/bin/java", "java\0kafka.Kafka\0", false);
    }
}
