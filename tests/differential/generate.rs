//! Scripts from seeds.
//!
//! Each stays below its own root, so that many can run at once, and asks nothing whose answer depends on others: no
//! `Stat` of `/` or of `/zookeeper/quota`, no watch that sees the whole tree. Left out altogether is what
//! docs/compat.md lists as different: the opcodes 20 and -10, and a wrong password for a session that is connected.

mod malformed;

use crate::random::Random;

/// A script and how it is to be run.
pub struct Generated {
    pub text: String,
    /// It never leaves a session behind, so it can be run with nobody beside it, and zxids be counted exactly.
    pub tidy: bool,
}

/// Of each twenty seeds, how many are of which kind.
const KINDS: [(usize, Kind); 6] = [
    (8, Kind::Valid),
    (4, Kind::Edge),
    (3, Kind::Sessions),
    (2, Kind::Malformed),
    (2, Kind::Truncated),
    (1, Kind::Tidy),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// What a client library would send.
    Valid,
    /// What it would not, though it could be written down.
    Edge,
    /// Connections that come and go, watches that are set again.
    Sessions,
    /// Bytes that are no request.
    Malformed,
    /// A request cut off at each byte.
    Truncated,
    /// Valid and odd requests of sessions that are closed at the end.
    Tidy,
}

/// The script of that seed. `without` names operations to be left out.
pub fn script(seed: u64, without: &[String]) -> Generated {
    let mut random = Random::new(seed);
    let kind = random.weighted(&KINDS);
    let lines = vec![format!("# seed {seed}: {kind:?}")];
    let nobody = 1 << 40 | seed & u64::from(u32::MAX);
    let mut generator = Generator { random, kind, lines, without, nobody };
    match kind {
        Kind::Malformed => generator.malformed(),
        Kind::Truncated => generator.truncated(),
        Kind::Valid | Kind::Edge | Kind::Sessions | Kind::Tidy => generator.conversation(),
    }
    Generated { text: generator.lines.join("\n") + "\n", tidy: kind == Kind::Tidy }
}

const CNXNS: usize = 4;
const PATHS: [&str; 16] = [
    "~",
    "~/a",
    "~/a",
    "~/b",
    "~/b",
    "~/a/c",
    "~/a/c",
    "~/a/d",
    "~/a/c/e",
    "~/f",
    "~/a/s0000000000",
    "~/a/s0000000001",
    "~/s0000000002",
    "~/b/x",
    "~/k",
    "~/k/k",
];
/// Those that clients should never send, and may.
const ODD_PATHS: [&str; 36] = [
    "~/",
    "~//a",
    "~/./a",
    "~/../a",
    "~/a/.",
    "~/a/..",
    "~/.a",
    "~/...",
    "~/a%00b",
    "~/%01",
    "~/%1f",
    "~/%20",
    "~/%7f",
    "~/%c2%80",
    "~/%c2%9f",
    "~/%c2%a0",
    "~/%ed%9f%bf",
    "~/%ee%80%80",
    "~/%ef%a3%bf",
    "~/%ef%bf%af",
    "~/%ef%bf%b0",
    "~/%ef%bf%bd",
    "~/%f0%9f%98%80",
    "~/%ff",
    "~/a%c3",
    "~/%ed%a0%80",
    "~/%ed%a0%bd%ed%b8%80",
    "~/%c0%80",
    "~/%e2%82",
    "~/a/",
    "~/nobody/x",
    "~/a/c/e/f/g",
    "~/%c3%a4%e6%97%a5",
    "~/a%2fb",
    "~/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17/18/19/20",
    "~/-2147483648",
];
/// Only for writes, which are refused: reading them would show what others do.
const WRITE_PATHS: [&str; 9] =
    ["", "-", "/", "//", "noslash", "/zookeeper", "/zookeeper/config", "/zookeeper/quota", "%00"];
const STABLE_PATHS: [&str; 2] = ["/zookeeper", "/zookeeper/config"];
const DATA: [&str; 8] = ["-", "", "x", "abc", "%00%ff", "*100", "*3000", "v2"];
const ACLS: [&str; 8] = [
    "open",
    "open",
    "1:world:anyone",
    "31:auth:",
    "31:ip:127.0.0.1",
    "27:world:anyone",
    "31:digest:u1:fpT/y03U+EjItKZOSLGvjnJlyng%3d,1:world:anyone",
    "31:digest:u2:o9NxcCGDPOlcV7JVhmKHOf5ctVE%3d",
];
const ODD_ACLS: [&str; 34] = [
    "-",
    "",
    "31:world:other",
    "31:world:",
    "31:world:-",
    "31:-:anyone",
    "31:-:-",
    "31::",
    "31:foo:bar",
    "31:super:",
    "31:sasl:bob",
    "31:x509:CN%3dbob",
    "31:digest:abc",
    "31:digest::b",
    "31:digest:b:",
    "31:digest:a:b:c",
    "31:digest:a:b:",
    "31:digest:::",
    "31:digest:",
    "31:digest:-",
    "31:ip:127.0.0.1/8",
    "31:ip:127.0.0.1/0",
    "31:ip:127.0.0.1/33",
    "31:ip:127.0.0.1/-1",
    "31:ip:10.0.0.0/8",
    "31:ip:300.0.0.1",
    "31:ip:127.1",
    "31:ip:",
    "0:world:anyone",
    "-1:world:anyone",
    "1000:world:anyone",
    "31:world:anyone,31:world:anyone",
    "31:world:anyone,31:world:anyone,1:world:anyone",
    "1:auth:x,2:auth:y,31:ip:127.0.0.1",
];
const AUTHS: [&str; 4] =
    ["scheme=digest auth=u1:p1", "scheme=digest auth=u2:p2", "scheme=digest auth=super:admin", "scheme=ip auth=x"];
const ODD_AUTHS: [&str; 12] = [
    "scheme=digest auth=nocolon",
    "scheme=digest auth=",
    "scheme=digest auth=-",
    "scheme=digest auth=:",
    "scheme=digest auth=u1:p1:more",
    "scheme=digest auth=%c3%a4:%ff",
    "scheme=ip auth=-",
    "scheme=world auth=anyone",
    "scheme=auth auth=",
    "scheme=sasl auth=",
    "scheme=nobody auth=x type=7",
    "scheme=Digest auth=u1:p1",
];

struct Generator<'a> {
    random: Random,
    kind: Kind,
    lines: Vec<String>,
    without: &'a [String],
    /// The id of a session that never was. Each script has its own: who asks for a session closes the connection of whoever
    /// has asked for it just before.
    nobody: u64,
}

impl Generator<'_> {
    fn push(&mut self, cnxn: usize, request: &str) {
        let name = request.split(' ').next().unwrap_or_default();
        if !self.without.iter().any(|without| without == name) {
            self.lines.push(format!("{cnxn} {request}"));
        }
    }

    fn conversation(&mut self) {
        let mut cnxn = 0;
        for _ in 0..20 + self.random.below(50) {
            if self.random.chance(35) {
                cnxn = self.random.below(CNXNS);
            }
            if self.random.chance(15) {
                self.lines.push(".".to_owned());
            }
            let sessions = if self.kind == Kind::Sessions { 25 } else { 2 };
            if self.kind != Kind::Tidy && self.random.chance(sessions) {
                self.session_step(cnxn);
            } else {
                self.request(cnxn);
            }
        }
    }

    fn request(&mut self, cnxn: usize) {
        let name = self.random.weighted(&[
            (16, "create"),
            (6, "create2"),
            (10, "delete"),
            (10, "set"),
            (12, "get"),
            (10, "exists"),
            (6, "children"),
            (6, "children2"),
            (3, "getAcl"),
            (3, "setAcl"),
            (8, "multi"),
            (2, "multiRead"),
            (2, "sync"),
            (2, "ping"),
            (4, "addWatch"),
            (3, "removeWatches"),
            (2, "checkWatches"),
            (3, "setWatches"),
            (3, "setWatches2"),
            (1, "whoAmI"),
            (2, "auth"),
            (3, "createContainer"),
            (2, "createTtl"),
            (2, "getEphemerals"),
            (2, "allChildren"),
            (1, "sasl"),
            (1, "reconfig"),
            (2, "quota"),
        ]);
        match name {
            "multi" => self.multi(cnxn),
            "multiRead" => self.multi_read(cnxn),
            "quota" => self.quota(cnxn),
            name => {
                let request = self.arguments(name);
                self.push(cnxn, &request);
            }
        }
    }

    fn is_odd(&mut self, percent: usize) -> bool {
        matches!(self.kind, Kind::Edge | Kind::Tidy) && self.random.chance(percent)
    }

    /// An operation with arguments of its own.
    fn arguments(&mut self, name: &str) -> String {
        let path = self.path(name);
        let watch = u8::from(self.random.chance(40));
        match name {
            "create" | "create2" | "createContainer" | "createTtl" => {
                // A number behind such a path would make a node of it, among those of others.
                let flags = if WRITE_PATHS.contains(&path) { Some(0) } else { self.flags(name) };
                let (data, acl) = (self.data(), self.acl());
                let ttl = if name == "createTtl" { self.ttl(flags) } else { String::new() };
                let flags = flags.map_or(String::new(), |flags| format!(" flags={flags}"));
                format!("{name} path={path} data={data} acl={acl}{flags}{ttl}")
            }
            "set" => format!("set path={path} data={} version={}", self.data(), self.version()),
            "delete" | "check" => format!("{name} path={path} version={}", self.version()),
            "setAcl" => format!("setAcl path={path} acl={} version={}", self.acl(), self.version()),
            "get" | "exists" | "children" | "children2" => format!("{name} path={path} watch={watch}"),
            "addWatch" => {
                let mode = if self.is_odd(20) { self.random.pick(&[2, -1, 5]) } else { self.random.pick(&[0, 1]) };
                format!("addWatch path={path} mode={mode}")
            }
            "checkWatches" | "removeWatches" => {
                let kind =
                    if self.is_odd(20) { self.random.pick(&[0, 6, -1, 100]) } else { 1 + self.random.below(5) as i32 };
                format!("{name} path={path} type={kind}")
            }
            "setWatches" | "setWatches2" => self.set_watches(name),
            "auth" => {
                let auth = if self.is_odd(50) { self.random.pick(&ODD_AUTHS) } else { self.random.pick(&AUTHS) };
                let xid = if self.random.chance(20) { " !xid=77" } else { "" };
                format!("auth {auth}{xid}")
            }
            "sasl" => format!("sasl token={}", self.random.pick(&["", "-", "abc"])),
            "reconfig" => "reconfig joining=server.1%3dx:1:2 leaving=- members=-".to_owned(),
            "ping" | "whoAmI" => name.to_owned(),
            name => format!("{name} path={path}"),
        }
    }

    fn path(&mut self, name: &str) -> &'static str {
        let writes = matches!(name, "create" | "create2" | "createContainer" | "delete" | "check");
        if self.is_odd(35) {
            if writes && self.random.chance(30) {
                return self.random.pick(&WRITE_PATHS);
            }
            if matches!(name, "get" | "exists" | "children" | "children2" | "getAcl") && self.random.chance(10) {
                return self.random.pick(&STABLE_PATHS);
            }
            return self.random.pick(&ODD_PATHS);
        }
        let sequential = ["~/a/s", "~/s", "~/a/", "~/"];
        if name.starts_with("create") && self.random.chance(15) {
            return self.random.pick(&sequential);
        }
        // The root itself stays, or nothing after it would have an effect.
        let path = self.random.pick(&PATHS);
        // And its own name has no number, which would count what others do.
        if path == "~" && (name == "delete" || name.starts_with("create")) { "~/b" } else { path }
    }

    fn data(&mut self) -> &'static str {
        if self.is_odd(3) {
            return self.random.pick(&["*1000000", "*1048000", "*1048400", "*1048500", "*1048576", "*70000"]);
        }
        self.random.pick(&DATA)
    }

    fn acl(&mut self) -> &'static str {
        if self.is_odd(30) {
            let acl = self.random.pick(&ODD_ACLS);
            // A multi that holds a null ACL uses up no zxid with Apache, and those of tidy scripts are counted.
            return if acl == "-" && self.kind == Kind::Tidy { "" } else { acl };
        }
        if self.random.chance(80) { "open" } else { self.random.pick(&ACLS) }
    }

    fn flags(&mut self, name: &str) -> Option<i32> {
        if self.is_odd(20) {
            return Some(self.random.pick(&[4, 5, 6, 7, -1, 8, 100, i32::MIN, i32::MAX]));
        }
        match name {
            "createContainer" | "createTtl" => self.random.chance(20).then(|| self.random.pick(&[0, 1, 2, 3, 4, 5, 6])),
            _ => Some(self.random.weighted(&[(6, 0), (3, 1), (3, 2), (2, 3)])),
        }
    }

    fn ttl(&mut self, flags: Option<i32>) -> String {
        let ttl = if self.is_odd(40) {
            let ttl = self.random.pick(&[0, -1, 1 << 40, (1 << 40) - 1, i64::MAX, i64::MIN, 1]);
            // A flag without a time, no time, and nothing else that is wrong: it ends Apache's server.
            if matches!(flags, Some(0..=4)) { ttl.max(0) } else { ttl }
        } else {
            3_600_000
        };
        format!(" ttl={ttl}")
    }

    fn version(&mut self) -> i32 {
        if self.is_odd(15) {
            return self.random.pick(&[-2, i32::MIN, i32::MAX, 1000]);
        }
        self.random.weighted(&[(6, -1), (3, 0), (2, 1), (1, 2), (1, 3)])
    }

    fn list(&mut self) -> String {
        if self.is_odd(8) {
            return self.random.pick(&["-", "~/a,-", "~/a,~/a", "-,-"]).to_owned();
        }
        let count = self.random.below(4);
        (0..count).map(|_| self.random.pick(&PATHS)).collect::<Vec<_>>().join(",")
    }

    fn seen(&mut self) -> &'static str {
        if self.is_odd(10) {
            return self.random.pick(&["-1", "ahead", "0x8000000000000000"]);
        }
        self.random.pick(&["0", "last", "back1", "back2", "back5"])
    }

    fn set_watches(&mut self, name: &str) -> String {
        let mut text =
            format!("{name} seen={} data={} exist={} child={}", self.seen(), self.list(), self.list(), self.list());
        if name == "setWatches2" {
            text.push_str(&format!(" persistent={} recursive={}", self.list(), self.list()));
        }
        if self.random.chance(10) {
            text.push_str(" !xid=500");
        }
        text
    }

    fn multi(&mut self, cnxn: usize) {
        self.push(cnxn, "multi");
        for _ in 0..self.random.below(6) {
            let name = self.random.weighted(&[
                (6, "create"),
                (2, "create2"),
                (4, "delete"),
                (5, "set"),
                (3, "check"),
                (1, "createContainer"),
                (1, "createTtl"),
            ]);
            let name = if self.is_odd(4) { self.random.pick(&["get", "setAcl", "sync", "multiRead"]) } else { name };
            if !self.without.iter().any(|without| without == name) {
                let part = self.arguments(name);
                self.lines.push(format!("| {part}"));
            }
        }
    }

    fn multi_read(&mut self, cnxn: usize) {
        self.push(cnxn, "multiRead");
        for _ in 0..self.random.below(5) {
            let name = self.random.pick(&["get", "children"]);
            let name = if self.is_odd(10) { self.random.pick(&["exists", "children2"]) } else { name };
            let part = self.arguments(name);
            self.lines.push(format!("| {part}"));
        }
    }

    /// A quota on the root or on a node below it, its figures, or its end.
    fn quota(&mut self, cnxn: usize) {
        let place = self.random.pick(&["~", "~/a"]);
        let limits = self.random.pick(&[
            "count=5,bytes=100",
            "count=-1,bytes=10",
            "count=1,bytes=-1",
            "count=-1,bytes=-1=;byteHardLimit=1000;countHardLimit=5",
            "nonsense",
            "",
        ]);
        let limits = crate::script::quote(limits.as_bytes());
        let request = match self.random.below(5) {
            0 | 1 => {
                self.push(cnxn, "create path=/zookeeper/quota~");
                if place == "~/a" {
                    self.push(cnxn, "create path=/zookeeper/quota~/a");
                }
                let stats = "count%3d0,bytes%3d0";
                self.push(cnxn, &format!("create path=/zookeeper/quota{place}/zookeeper_limits data={limits}"));
                format!("create path=/zookeeper/quota{place}/zookeeper_stats data={stats}")
            }
            2 | 3 => format!("get path=/zookeeper/quota{place}/zookeeper_stats watch=1"),
            _ => {
                self.push(cnxn, &format!("delete path=/zookeeper/quota{place}/zookeeper_limits"));
                format!("delete path=/zookeeper/quota{place}/zookeeper_stats")
            }
        };
        self.push(cnxn, &request);
    }

    /// Connections end, and sessions go on somewhere.
    fn session_step(&mut self, cnxn: usize) {
        let other = self.random.below(CNXNS);
        let timeout = self.random.pick(&["30000", "30000", "0", "-1", "4000000", "20000"]);
        let readonly = self.random.pick(&["0", "1", "absent", "0", "2"]);
        let seen = self.random.pick(&["0", "last", "back1", "-1"]);
        match self.random.below(10) {
            0 => self.push(cnxn, "close"),
            1 => self.push(cnxn, "drop"),
            2 => self.push(cnxn, &format!("connect timeout=30000 readonly={readonly} seen={seen} version=3")),
            3 => self.push(cnxn, &format!("connect session={other} seen=ahead")),
            4 => {
                // Nobody has the session when the password is wrong.
                for number in 0..CNXNS {
                    self.push(number, "drop");
                }
                let password = self.random.pick(&["wrong", "null", "empty", "short"]);
                self.push(cnxn, &format!("connect session={other} password={password}"));
            }
            5 => {
                let nobody = self.nobody;
                self.push(cnxn, &format!("connect session={nobody:#x} timeout={timeout} readonly={readonly}"));
            }
            6 => {
                // As a client comes back: everything at once.
                self.push(cnxn, "drop");
                self.push(cnxn, &format!("connect session={cnxn} timeout=30000 seen=last readonly={readonly}"));
                let auth = self.random.pick(&AUTHS);
                self.push(cnxn, &format!("auth {auth}"));
                let watches = self.set_watches("setWatches2");
                self.push(cnxn, &watches);
            }
            7 => self.push(cnxn, &format!("connect timeout={timeout} readonly={readonly} seen={seen}")),
            _ => self.push(cnxn, &format!("connect session={other} timeout=30000 readonly={readonly} seen={seen}")),
        }
    }
}
