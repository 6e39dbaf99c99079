//! A network of one's own for each server, so that links between them can be cut, each way by itself.
//!
//! ```text
//!   test process ── bridge 198.18.N.254 ──┬── veth ── namespace 1: 198.18.N.1
//!                                         ├── veth ── namespace 2: 198.18.N.2
//!                                         └── veth ── namespace 3: 198.18.N.3
//! ```
//!
//! All know each other's Ethernet addresses for good, and the way from one to another is cut by telling the one a wrong
//! address for the other: what it sends then goes nowhere, silently, as into a broken cable. What it hears is as before.
//! This needs nothing but `ip`: no filters, and no module of the kernel that is not everywhere.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// All that is made is named for this and the process that made it.
const PREFIX: &str = "rk";
/// Of the addresses that are set aside for tests of networks (RFC 2544), which no real network uses.
const NETWORK: &str = "198.18";
/// The last number of the address of the test process.
const HERE: usize = 254;

/// Namespaces 1 to n. They go with the value.
pub struct Network {
    name: String,
    subnet: u8,
    count: usize,
}

impl Network {
    /// Makes the namespaces. Fails the test if that cannot be done: root and iproute2 are needed.
    pub fn new(count: usize) -> Network {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let (process, number) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let subnet = (process.wrapping_mul(7).wrapping_add(number) % 255) as u8;
        // An interface's name has 15 letters at the most.
        let network = Network { name: format!("{PREFIX}{process}x{number}"), subnet, count };
        let bridge = &network.name;
        ip(&format!("link add {bridge} type bridge"));
        ip(&format!("link set {bridge} address {}", mac(HERE)));
        ip(&format!("addr add {}/24 dev {bridge}", network.host(HERE)));
        ip(&format!("link set {bridge} up"));
        for server in 1..=count {
            let (namespace, port) = (network.namespace(server), network.port(server));
            ip(&format!("netns add {namespace}"));
            ip(&format!("link add {port} type veth peer name eth0 address {} netns {namespace}", mac(server)));
            ip(&format!("link set {port} master {bridge} up"));
            ip(&format!("-n {namespace} link set lo up"));
            ip(&format!("-n {namespace} addr add {}/24 dev eth0", network.host(server)));
            ip(&format!("-n {namespace} link set eth0 up"));
        }
        network.heal();
        network
    }

    /// The address of a server.
    pub fn host(&self, server: usize) -> String {
        format!("{NETWORK}.{}.{server}", self.subnet)
    }

    /// The namespace of a server, as `ip netns` knows it.
    pub fn namespace(&self, server: usize) -> String {
        format!("{}-{server}", self.name)
    }

    /// Nothing that one server sends reaches the other any more.
    pub fn cut(&self, from: usize, to: usize) {
        self.point(from, to, "02:00:00:00:ff:ff");
    }

    /// A server and the other servers cannot reach each other any more. Clients reach it as before.
    pub fn isolate(&self, server: usize) {
        for other in (1..=self.count).filter(|other| *other != server) {
            self.cut(server, other);
            self.cut(other, server);
        }
    }

    /// Everyone reaches everyone.
    pub fn heal(&self) {
        for from in 1..=self.count {
            for to in (1..=self.count).filter(|to| *to != from) {
                self.point(from, to, &mac(to));
            }
            self.point(from, HERE, &mac(HERE));
        }
    }

    fn point(&self, from: usize, to: usize, mac: &str) {
        let namespace = self.namespace(from);
        ip(&format!("-n {namespace} neigh replace {} lladdr {mac} dev eth0 nud permanent", self.host(to)));
    }

    fn port(&self, server: usize) -> String {
        format!("{}v{server}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn mac(server: usize) -> String {
    format!("02:00:00:00:00:{server:02x}")
}

#[track_caller]
fn ip(arguments: &str) {
    let made = Command::new("ip").args(arguments.split_whitespace()).output();
    let made = made.unwrap_or_else(|error| panic!("ip {arguments}: {error}; tests/peers/install.sh installs iproute2"));
    assert!(made.status.success(), "ip {arguments}: {} (as root?)", String::from_utf8_lossy(&made.stderr).trim());
}

/// Removes the namespaces and the bridge of a network. An interface goes with the namespace of its other end.
fn remove(name: &str) {
    let quietly = |arguments: &[&str]| drop(Command::new("ip").args(arguments).stderr(Stdio::null()).status());
    for namespace in listed("/run/netns").iter().filter(|found| found.starts_with(&format!("{name}-"))) {
        quietly(&["netns", "delete", namespace]);
    }
    quietly(&["link", "delete", name]);
}

/// Removes what tests have left that were killed.
fn remove_leftovers() {
    for bridge in listed("/sys/class/net") {
        let digits = bridge.strip_prefix(PREFIX).and_then(|rest| rest.split_once('x'));
        let process = digits.filter(|(_, number)| number.parse::<u32>().is_ok());
        let is_gone = |process: &u32| fs::metadata(format!("/proc/{process}")).is_err();
        if process.and_then(|(process, _)| process.parse::<u32>().ok()).is_some_and(|process| is_gone(&process)) {
            remove(&bridge);
        }
    }
}

fn listed(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
