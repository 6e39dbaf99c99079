//! What goes wrong, and when. The faults of each kind are drawn by themselves, so that leaving some out leaves the others as
//! they were.

use crate::network::Host;
use crate::random::Random;
use crate::world::{Happening, World, note};

/// Something that is done to hosts, processes, disks or the network.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A process is started, if it does not run.
    Start(usize),
    Kill(usize),
    PowerOff(usize),
    PowerOn(usize),
    /// From the first of each pair nothing arrives at the second.
    Cut(Vec<(Host, Host)>),
    Heal(Vec<(Host, Host)>),
    SlowLink(Host, Host),
    FastLink(Host, Host),
    SlowDisk(usize, u64),
    FlushFails(usize),
    Pause(usize),
    Resume(usize),
    Jump(usize, i64),
    Storm,
    Blackout,
    Light,
    /// There are no faults from here on.
    Calm,
}

impl World {
    pub fn plan_faults(&mut self) {
        let span_ms = self.options.seconds() as usize * 1000;
        let servers = self.options.servers();
        let kinds = [
            "kills",
            "powers",
            "groups",
            "oneways",
            "slow_links",
            "slow_disks",
            "eio",
            "pauses",
            "jumps",
            "storms",
            "blackouts",
        ];
        for (kind, name) in kinds.into_iter().enumerate() {
            let mut r = Random::new(self.options.seed ^ (kind as u64 + 1) << 56);
            for _ in 0..self.options.get(name) {
                let at_us = (500 + r.below(span_ms.max(1_000) - 500)) as u64 * 1000;
                let lasting_us = self.lasting_us(&mut r);
                let server = r.below(servers);
                let other = (server + 1 + r.below(servers.max(2) - 1)) % servers;
                let (fault, end) = match name {
                    "kills" => (Fault::Kill(server), Some(Fault::Start(server))),
                    "powers" => (Fault::PowerOff(server), Some(Fault::PowerOn(server))),
                    "groups" => {
                        let pairs = split(&mut r, servers, self.options.clients() as usize);
                        (Fault::Cut(pairs.clone()), Some(Fault::Heal(pairs)))
                    }
                    "oneways" => {
                        let pairs = vec![(server, other)];
                        (Fault::Cut(pairs.clone()), Some(Fault::Heal(pairs)))
                    }
                    "slow_links" => (Fault::SlowLink(server, other), Some(Fault::FastLink(server, other))),
                    "slow_disks" => (Fault::SlowDisk(server, lasting_us), None),
                    "eio" => (Fault::FlushFails(server), None),
                    "pauses" => (Fault::Pause(server), Some(Fault::Resume(server))),
                    "jumps" => (Fault::Jump(server, r.below(7_200_000) as i64 - 3_600_000), None),
                    "blackouts" => (Fault::Blackout, Some(Fault::Light)),
                    _ => (Fault::Storm, None),
                };
                self.after(at_us, Happening::Fault(fault));
                if let Some(end) = end {
                    self.after(at_us + lasting_us, Happening::Fault(end));
                }
            }
        }
        self.after(span_ms as u64 * 1000, Happening::Fault(Fault::Calm));
    }

    /// Some faults are over in a moment, others last for longer than any limit.
    fn lasting_us(&self, r: &mut Random) -> u64 {
        let tick_us = self.options.tick_ms() as usize * 1000;
        let most = r.pick(&[10_000, tick_us, 6 * tick_us, 25 * tick_us]);
        1 + r.below(most) as u64
    }

    pub fn strike(&mut self, fault: Fault) {
        let is_an_end = matches!(
            fault,
            Fault::Start(_)
                | Fault::PowerOn(_)
                | Fault::Heal(_)
                | Fault::FastLink(..)
                | Fault::Resume(_)
                | Fault::Light
        );
        if self.calm && !is_an_end {
            return;
        }
        self.checker.disturbed_us = self.now_us;
        note!(self, "fault: {fault:?}");
        match fault {
            Fault::Start(server) => self.start(server),
            Fault::Kill(server) => self.kill(server),
            Fault::PowerOff(server) => {
                self.network.down.insert(server);
                self.kill(server);
                self.servers[server].disk.lose_power(&mut self.chance);
                self.expect_probes();
            }
            Fault::PowerOn(server) => {
                self.network.down.remove(&server);
                self.release_held_up();
                self.start(server);
            }
            Fault::Cut(pairs) => {
                self.network.cuts.extend(pairs);
                self.expect_probes();
            }
            Fault::Heal(pairs) => {
                for pair in pairs {
                    self.network.cuts.remove(&pair);
                }
                self.release_held_up();
            }
            Fault::SlowLink(one, other) => self.slow_links.push((one, other)),
            Fault::FastLink(one, other) => self.slow_links.retain(|pair| *pair != (one, other)),
            Fault::SlowDisk(server, lasting_us) => {
                self.servers[server].disk.slow_until_us = self.now_us + lasting_us;
            }
            Fault::FlushFails(server) => self.servers[server].disk.fails_next = true,
            Fault::Pause(server) if self.servers[server].process.is_some() => {
                self.servers[server].paused.get_or_insert_default();
            }
            Fault::Pause(_) => {}
            Fault::Resume(server) => self.resume(server),
            Fault::Jump(server, ms) => self.servers[server].wall_offset_ms += ms,
            Fault::Blackout => (0..self.servers.len()).for_each(|server| self.strike(Fault::PowerOff(server))),
            Fault::Light => {
                for server in 0..self.servers.len() {
                    // Some are missed for a while, and the others must do with what they have.
                    let most = if self.chance.chance(25) { 15_000_000 } else { 1_000_000 };
                    let delay = self.chance.below(most) as u64;
                    self.after(delay, Happening::Fault(Fault::PowerOn(server)));
                }
            }
            Fault::Storm => self.disconnect_clients(),
            Fault::Calm => self.calm_down(),
        }
    }

    /// The process ends. Its kernel says so to whoever is connected, if the host goes on.
    pub fn kill(&mut self, server: usize) {
        let Some(process) = &mut self.servers[server].process else { return };
        self.counts.crashes += 1;
        let flushing = std::mem::take(&mut process.flushing);
        for flush in flushing {
            self.servers[server].disk.tear(&flush, &mut self.chance);
        }
        self.interrupt_work(server);
        self.interrupt_upkeep(server);
        self.servers[server].process = None;
        self.resume(server);
        self.end_connections(server, !self.network.down.contains(&server));
    }

    /// A stopped process goes on.
    fn resume(&mut self, server: usize) {
        for happening in self.servers[server].paused.take().unwrap_or_default() {
            self.after(0, happening);
        }
    }

    /// Whether some fault is in force, or has been so lately that a server may not know of its end yet.
    pub fn is_disturbed(&mut self) -> bool {
        let now_us = self.now_us;
        let afflicted = |host: &crate::server::Server| {
            host.process.is_none() || host.disk.slow_until_us > now_us || host.paused.is_some()
        };
        let in_force = !self.network.cuts.is_empty()
            || !self.network.down.is_empty()
            || !self.slow_links.is_empty()
            || self.servers.iter().any(afflicted);
        if in_force {
            self.checker.disturbed_us = now_us;
        }
        in_force
    }

    fn calm_down(&mut self) {
        self.calm = true;
        self.network.cuts.clear();
        self.slow_links.clear();
        self.network.down.clear();
        self.release_held_up();
        for server in 0..self.servers.len() {
            let host = &mut self.servers[server];
            (host.disk.fails_next, host.disk.slow_until_us) = (false, 0);
            self.resume(server);
            self.start(server);
        }
    }
}

/// Two groups of hosts, and every pair from one to the other.
fn split(r: &mut Random, servers: usize, clients: usize) -> Vec<(Host, Host)> {
    let hosts: Vec<(Host, bool)> =
        (0..servers).chain((0..clients).map(World::client_host)).map(|host| (host, r.chance(50))).collect();
    let mut pairs = Vec::new();
    for (one, left) in &hosts {
        for (other, _) in hosts.iter().filter(|(_, other_left)| other_left != left) {
            pairs.push((*one, *other));
        }
    }
    pairs
}
