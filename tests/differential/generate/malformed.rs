//! Bytes that no client library would send.

use super::{CNXNS, Generator};
use crate::records;
use crate::script::{self, Meaning, ROOT_LEN};

/// Requests that are cut, bent and drawn out.
const SAMPLES: [&str; 29] = [
    "create path=~/a data=abc acl=open flags=0",
    "create2 path=~/s data=abc acl=open,1:world:anyone flags=2",
    "createContainer path=~/k data=- acl=open",
    "createTtl path=~/t data=x acl=open",
    "delete path=~/a version=-1",
    "exists path=~/a watch=1",
    "get path=~/a watch=1",
    "set path=~/a data=abc version=-1",
    "getAcl path=~/a",
    "setAcl path=~/a acl=1:world:anyone version=-1",
    "children path=~/a watch=1",
    "children2 path=~ watch=0",
    "sync path=~/a",
    "ping",
    "check path=~/a version=0",
    "reconfig joining=a leaving=b members=c config=5",
    "checkWatches path=~/a type=3",
    "removeWatches path=~/a type=2",
    "auth scheme=digest auth=u1:p1",
    "setWatches seen=0 data=~/a,~/b exist=~/c child=~/a",
    "setWatches2 seen=last data=~/a exist=~/c child=~/a persistent=~/b recursive=~/a",
    "sasl token=abc",
    "getEphemerals path=~/a",
    "allChildren path=~/a",
    "addWatch path=~/a mode=1",
    "whoAmI",
    "multi\n| create path=~/m data=x\n| set path=~/a data=y version=-1\n| check path=~/a version=-1",
    "multi\n| create path=~/m data=xxxx flags=1",
    "multiRead\n| get path=~/a\n| children path=~/a",
];
/// Where the path begins in a request that has one first, and where in the first part of a multi.
const PATH_AT: usize = 12;
const PART_PATH_AT: usize = 21;
const BYTES: [u8; 10] = [0, 1, 2, 7, 31, 0x7f, 0x80, 0xc3, 0xfe, 0xff];

impl Generator<'_> {
    /// A request, cut off at each byte. Every cut is answered in its own way, or ends the connection.
    pub(super) fn truncated(&mut self) {
        self.lines.push("9 create path=~/a data=x".to_owned());
        if self.random.chance(10) {
            let readonly = self.random.pick(&["0", "absent"]);
            for cut in 0..45 {
                self.lines.push(format!("0 connect readonly={readonly} !cut={cut}"));
            }
            return;
        }
        let sample = self.sample();
        for cut in 0..payload_len(sample) {
            self.bend(0, sample, &format!("!cut={cut}"));
        }
    }

    pub(super) fn malformed(&mut self) {
        self.lines.push("9 create path=~/a data=x".to_owned());
        for _ in 0..30 {
            let cnxn = self.random.below(CNXNS);
            match self.random.below(10) {
                0..4 => {
                    let sample = self.sample();
                    if let Some(bend) = self.poke(sample) {
                        self.bend(cnxn, sample, &bend);
                    }
                }
                4 => {
                    let sample = self.sample();
                    let add = self.random_bytes(9);
                    self.bend(cnxn, sample, &format!("!add={add}"));
                }
                5 => {
                    let sample = self.sample();
                    let length = payload_len(sample) as i64;
                    let off = self.random.pick(&[-9, -4, -1, 1, 3, 100, 2000, 1 << 20, -(1 << 30), 1 << 30]);
                    self.bend(cnxn, sample, &format!("!length={}", length + off));
                }
                6 => {
                    let code = self.random.pick(&[
                        0,
                        10,
                        23,
                        24,
                        30,
                        99,
                        108,
                        110,
                        200,
                        999,
                        -1,
                        -2,
                        -3,
                        -9,
                        -12,
                        i32::MIN,
                        i32::MAX,
                    ]);
                    let body = self.random_bytes(20);
                    self.push(cnxn, &format!("op code={code} body={body}"));
                }
                7 => self.known_code(cnxn),
                8 => self.fresh(cnxn),
                _ => {
                    let bytes = self.random_bytes(30);
                    let name = self.random.pick(&["raw", "raw fresh"]);
                    self.lines.push(format!("{cnxn} {name} bytes={bytes}"));
                }
            }
            if self.random.chance(20) {
                self.request(cnxn);
            }
        }
    }

    fn sample(&mut self) -> &'static str {
        loop {
            let sample = self.random.pick(&SAMPLES);
            let mut names =
                sample.lines().map(|line| line.trim_start_matches("| ").split(' ').next().unwrap_or_default());
            if names.all(|name| !self.without.iter().any(|without| without == name)) {
                return sample;
            }
        }
    }

    fn bend(&mut self, cnxn: usize, sample: &str, bend: &str) {
        let (first, parts) = sample.split_once('\n').map_or((sample, None), |(first, parts)| (first, Some(parts)));
        self.lines.push(format!("{cnxn} {first} {bend}"));
        self.lines.extend(parts.map(str::to_owned));
    }

    /// Another byte somewhere, but not where it would make another path of a path: that would leave the root.
    fn poke(&mut self, sample: &str) -> Option<String> {
        let name = sample.split([' ', '\n']).next().unwrap_or_default();
        let length = payload_len(sample);
        let has_parts = matches!(name, "multi" | "multiRead");
        let has_lists = name.starts_with("setWatches");
        let path_at = if has_parts { PART_PATH_AT } else { PATH_AT };
        let mut offsets: Vec<usize> = (0..4).collect();
        offsets.extend(match (has_parts, has_lists) {
            // The header of the part, and what stands behind its path if it is the only one.
            (true, _) if sample.lines().count() > 2 => 8..17,
            // The high bytes of the zxid only: others would compare with what others write.
            (false, true) => 8..11,
            _ => 8..8,
        });
        if !has_lists && sample.lines().count() <= 2 {
            offsets.extend(path_at - 4..path_at);
            offsets.extend(path_at + ROOT_LEN..length);
        }
        let offset = self.random.pick(&offsets);
        if offset >= length {
            return None;
        }
        let byte = if self.random.chance(50) { self.random.pick(&BYTES) } else { self.random.byte() };
        let is_length = !has_lists && (path_at - 4..path_at).contains(&offset);
        // A path that is shorter than the root would be another root.
        if is_length && (if offset == path_at - 1 { usize::from(byte) <= ROOT_LEN } else { byte == 0 }) {
            return None;
        }
        // An xid of -1 is an event's.
        (offset > 3 || byte != 0xff).then(|| format!("!poke={offset}:%{byte:02x}"))
    }

    /// A known operation with a body of chance, which cannot begin with the length of a short path.
    fn known_code(&mut self, cnxn: usize) {
        let operation = &records::OPERATIONS[self.random.below(records::OPERATIONS.len())];
        if operation.code != records::CLOSE_SESSION && !self.without.iter().any(|without| without == operation.name) {
            let body = self.random_bytes(24);
            let head = self.random.pick(&["%ff", "%7f", "%80", "%01"]);
            self.push(cnxn, &format!("op code={} body={head}{body}", operation.code));
        }
    }

    /// The first bytes of a connection.
    fn fresh(&mut self, cnxn: usize) {
        let bend = self.random.pick(&[
            "!length=3",
            "!length=46",
            "!length=1000",
            "!length=44",
            "!length=-1",
            "!length=1048575",
            "!length=1048576",
            "!add=%00",
            "!add=%ff%ff%ff",
            "!poke=24:%ff%ff%ff%ff",
            "!poke=24:%ff%ff%ff%fe",
            "!poke=24:%00%00%00%11",
            "!poke=24:%7f%ff%ff%ff",
            "!poke=44:%02",
            "!poke=44:%ff",
            "!drip",
            "!drip",
        ]);
        let request = match self.random.below(4) {
            0 => format!(
                "raw fresh bytes={}",
                self.random.pick(&["ruok", "abcd", "GET%20", "%00%00%00%00", "%00%00%00", "%16%03%01%02"])
            ),
            1 => format!("connect readonly=absent {bend}"),
            _ => format!("connect {bend}"),
        };
        self.lines.push(format!("{cnxn} {request}"));
    }

    fn random_bytes(&mut self, count_max: usize) -> String {
        let count = self.random.below(count_max);
        (0..count)
            .map(|_| {
                let byte = if self.random.chance(60) { self.random.pick(&BYTES) } else { self.random.byte() };
                format!("%{byte:02x}")
            })
            .collect()
    }
}

fn payload_len(sample: &str) -> usize {
    let steps = script::parse(&format!("0 {sample}")).expect("the samples can be read");
    let root = "/".repeat(ROOT_LEN);
    steps[0].encode(&Meaning { root: &root, session: &|_| None, zxids: &[] }, 1).len() - 4
}
