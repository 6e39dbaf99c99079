//! What the process finds around it. No other module reads the environment, the working directory or the affinity
//! mask; they are handed an [`Environment`].

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use crate::server::placement::CoreId;

/// Name of the configuration file if nobody says otherwise.
pub const DEFAULT_FILE: &str = "zoo.cfg";

/// Variables that hold options for Apache's JVM, weakest first: of two `-D` for one name Java takes the last, and
/// zkServer.sh puts `SERVER_JVMFLAGS` before `JVMFLAGS`.
const FLAG_VARIABLES: [&str; 2] = ["SERVER_JVMFLAGS", "JVMFLAGS"];

/// zkServer.sh's switch for `datadir.autocreate=false`.
const AUTOCREATE_DISABLE: &str = "ZOO_DATADIR_AUTOCREATE_DISABLE";

/// System properties that Apache reads without the prefix `zookeeper.`.
const UNPREFIXED: [&str; 8] = [
    "fsync.warningthresholdms",
    "follower.nodelay",
    "jute.maxbuffer",
    "leader.nodelay",
    "readonlymode.enabled",
    "znode.container.checkIntervalMs",
    "znode.container.maxNeverUsedIntervalMs",
    "znode.container.maxPerMinute",
];

/// The environment of a process, read once.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// Directory that relative paths start from.
    pub working_dir: PathBuf,
    /// The running program.
    pub program: PathBuf,
}

/// A key set by an environment variable rather than the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The variable.
    pub variable: &'static str,
    /// Key as in zoo.cfg.
    pub key: String,
    /// Its value.
    pub value: String,
}

impl Environment {
    /// The environment of this process. Variables that are not UTF-8 are left out.
    ///
    /// Errors: the working directory is gone, or the system does not tell the program's path.
    pub fn of_this_process() -> io::Result<Environment> {
        Ok(Environment {
            variables: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
            working_dir: std::env::current_dir()?,
            program: std::env::current_exe()?,
        })
    }

    /// An environment made up for a test or a tool.
    pub fn new(variables: &[(&str, &str)], working_dir: &Path, program: &Path) -> Environment {
        Environment {
            variables: variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            working_dir: working_dir.to_path_buf(),
            program: program.to_path_buf(),
        }
    }

    /// The variable's value; an empty one counts as unset, as in zkServer.sh.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.variables.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    /// The configuration file that `argument` means.
    ///
    /// A name with a `/` in it is a path and taken as it is. Otherwise it is a file name, by default the variable
    /// `ZOOCFG` or else `zoo.cfg`, and looked for in `directory` alone if it is given (`--config`), or in `ZOOCFGDIR`
    /// alone if that is set. With neither the first that exists of these is taken: the working directory (only for a
    /// name given as argument), its `conf/`, `../conf` and `../etc/zookeeper` beside the program's directory,
    /// `/etc/zookeeper/conf`, `/etc/zookeeper`.
    ///
    /// Errors: [`ConfigError::NotFound`].
    ///
    /// Source: zkEnv.sh and zkServer.sh; `conf/` and `/etc/zookeeper` are additions.
    pub fn locate(&self, argument: Option<&str>, directory: Option<&Path>) -> Result<PathBuf, ConfigError> {
        let name = argument.or_else(|| self.get("ZOOCFG")).unwrap_or(DEFAULT_FILE);
        let directory = directory.or_else(|| self.get("ZOOCFGDIR").map(Path::new));
        let looked_at: Vec<PathBuf> = if name.contains('/') {
            vec![PathBuf::from(name)]
        } else if let Some(directory) = directory {
            vec![directory.join(name)]
        } else {
            let program_dir = self.program.parent().unwrap_or(Path::new("/"));
            let beside = program_dir.parent().unwrap_or(Path::new("/"));
            argument
                .map(PathBuf::from)
                .into_iter()
                .chain([
                    Path::new("conf").join(name),
                    beside.join("conf").join(name),
                    beside.join("etc/zookeeper").join(name),
                    Path::new("/etc/zookeeper/conf").join(name),
                    Path::new("/etc/zookeeper").join(name),
                ])
                .collect()
        };
        looked_at
            .iter()
            .find(|path| self.working_dir.join(path).is_file())
            .cloned()
            .ok_or(ConfigError::NotFound { looked_at })
    }

    /// Keys that Apache's start scripts would pass as system properties, weakest first.
    ///
    /// `-Dzookeeper.K=V` sets `K`, and a few properties have no such prefix. Other options of a JVM mean nothing here.
    pub fn flags(&self) -> Vec<Flag> {
        let mut flags = Vec::new();
        if self.get(AUTOCREATE_DISABLE).is_some() {
            flags.push(Flag {
                variable: AUTOCREATE_DISABLE,
                key: "datadir.autocreate".to_string(),
                value: "false".to_string(),
            });
        }
        for variable in FLAG_VARIABLES {
            let options = self.get(variable).unwrap_or_default();
            flags.extend(options.split_ascii_whitespace().filter_map(|option| {
                let (name, value) = option.strip_prefix("-D")?.split_once('=')?;
                let unprefixed = || UNPREFIXED.contains(&name).then_some(name);
                let key = name.strip_prefix("zookeeper.").or_else(unprefixed)?;
                Some(Flag { variable, key: key.to_string(), value: value.to_string() })
            }));
        }
        flags
    }
}

/// The cores that this process may run on, ascending.
///
/// Errors: what `sched_getaffinity` reports.
pub fn allowed_cores() -> io::Result<Vec<CoreId>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).map(CoreId).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::config::testing::Scratch;

    #[test]
    fn the_configuration_is_found_like_zkserver_does() {
        let scratch = Scratch::new();
        for file in ["here.cfg", "conf/zoo.cfg", "conf/both.cfg", "both.cfg", "c/zoo.cfg", "opt/conf/opt.cfg"] {
            scratch.write(file, "");
        }
        let root = scratch.path().display().to_string();
        let check = |variables: &[(&str, &str)], argument: Option<&str>, expected: &str| {
            let program = scratch.path().join("opt/bin/ringkeeper");
            let environment = Environment::new(variables, scratch.path(), &program);
            let found = match environment.locate(argument, None) {
                Ok(path) => path.display().to_string(),
                Err(error) => error.to_string(),
            };
            assert_eq!(found.replace(&root, "@"), expected, "{variables:?} {argument:?}");
        };
        check(&[], None, "conf/zoo.cfg");
        check(&[], Some("here.cfg"), "here.cfg");
        check(&[], Some("both.cfg"), "both.cfg");
        check(&[], Some("conf/both.cfg"), "conf/both.cfg");
        check(&[], Some("opt.cfg"), "@/opt/bin/../conf/opt.cfg".replace("bin/../", "").as_str());
        check(&[("ZOOCFGDIR", "c")], None, "c/zoo.cfg");
        check(&[("ZOOCFGDIR", "c"), ("ZOOCFG", "both.cfg")], None, "no configuration file; looked at c/both.cfg");
        check(&[("ZOOCFGDIR", "conf"), ("ZOOCFG", "both.cfg")], None, "conf/both.cfg");
        check(&[("ZOOCFGDIR", "conf")], Some("./here.cfg"), "./here.cfg");
        check(&[("ZOOCFGDIR", "")], None, "conf/zoo.cfg");
        check(
            &[],
            Some("none.cfg"),
            "no configuration file; looked at none.cfg, conf/none.cfg, @/opt/conf/none.cfg, \
             @/opt/etc/zookeeper/none.cfg, /etc/zookeeper/conf/none.cfg, /etc/zookeeper/none.cfg",
        );
        let environment = Environment::new(&[("ZOOCFGDIR", "conf")], scratch.path(), Path::new("/p"));
        let found = environment.locate(None, Some(Path::new("c"))).unwrap();
        assert_eq!(found, Path::new("c/zoo.cfg"), "--config wins over ZOOCFGDIR");
    }

    #[test]
    fn jvm_options_become_keys() {
        let variables = [
            ("SERVER_JVMFLAGS", "-Xmx1g -Dzookeeper.snapCount=5 -Djute.maxbuffer=9"),
            ("JVMFLAGS", "-Djava.net.preferIPv4Stack=true -Dzookeeper.x"),
            ("ZOO_DATADIR_AUTOCREATE_DISABLE", "1"),
        ];
        let found: Vec<String> = Environment::new(&variables, Path::new("/"), Path::new("/p"))
            .flags()
            .into_iter()
            .map(|flag| format!("{} {}={}", flag.variable, flag.key, flag.value))
            .collect();
        assert_eq!(
            found,
            [
                "ZOO_DATADIR_AUTOCREATE_DISABLE datadir.autocreate=false",
                "SERVER_JVMFLAGS snapCount=5",
                "SERVER_JVMFLAGS jute.maxbuffer=9",
            ]
        );
    }
}
