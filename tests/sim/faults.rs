//! What goes wrong, and when. The faults of each kind are drawn by themselves, so that leaving some out leaves the others as
//! they were.

use crate::client::Client;
use crate::network::Host;
use crate::random::Random;
use crate::server::Server;
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
    /// There is no room for another file on a server's disk; there is again.
    Full(usize),
    Roomy(usize),
    /// A process is told to stop.
    Stop(usize),
    /// The process ends, if it runs, and its files are damaged.
    Damage(usize),
    Pause(usize),
    Resume(usize),
    Jump(usize, i64),
    Storm,
    /// This client is to ask for another configuration.
    Reconfig(usize),
    Blackout,
    Light,
    /// The leader of the moment is cut off from the other servers for so long, in µs; if the second says so, all clients
    /// with it. For so long, in µs, the disks of the others are slow.
    Isolate(u64, bool, u64),
    Ambush(Ambush),
    /// There are no faults from here on.
    Calm,
}

/// A loss of power that waits for its moment.
#[derive(Clone, Debug)]
pub struct Ambush {
    moment: Moment,
    /// All servers lose power, and come back one by one.
    whole: bool,
    lasting_us: u64,
}

/// Moments that are short, and in which the order of things on disk matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// A server's disk begins with its epochs; the server loses power while it is at it, or soon after.
    Saves,
    /// The same with a cut, or with a whole state.
    Replaces,
    /// A server has come to lead; it loses power.
    Leads,
    /// The snapshot has come that a learner was sent; the leader loses power.
    SnapshotIn,
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
            "isolations",
            "ambushes",
            "last_stands",
            "stops",
            "damages",
            "full",
            "reconfigs",
        ];
        let hurt = self.hurt();
        for (kind, name) in kinds.into_iter().enumerate() {
            let mut r = Random::new(self.options.seed ^ (kind as u64 + 1) << 56);
            let mut slow = Random::new(self.options.seed ^ 0x736c_6f77);
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
                    "stops" => (Fault::Stop(server), None),
                    "full" => (Fault::Full(server), Some(Fault::Roomy(server))),
                    "damages" => match hurt {
                        Some(hurt) => (Fault::Damage(hurt), Some(Fault::Start(hurt))),
                        None => continue,
                    },
                    "pauses" => (Fault::Pause(server), Some(Fault::Resume(server))),
                    "jumps" => (Fault::Jump(server, r.below(7_200_000) as i64 - 3_600_000), None),
                    "reconfigs" => (Fault::Reconfig(r.below(self.options.clients() as usize)), None),
                    "blackouts" => (Fault::Blackout, Some(Fault::Light)),
                    "isolations" => {
                        // About as long as it takes the others to elect another leader.
                        let tick_us = self.options.tick_ms() as usize * 1000;
                        let alone_us =
                            if r.chance(50) { 5 * tick_us + r.below(4 * tick_us) } else { lasting_us as usize };
                        (Fault::Isolate(alone_us as u64, r.chance(50), 0), None)
                    }
                    "last_stands" => {
                        // Long enough to write, too short for another leader.
                        let alone_us = 1 + r.below(3 * self.options.tick_ms() as usize * 1000) as u64;
                        // Then those who follow it next have its history long before it is durable with them.
                        let slow_us =
                            if slow.below(100) < self.options.slow_stands() as usize { 20_000_000 } else { 0 };
                        self.after(at_us, Happening::Fault(Fault::Isolate(alone_us + 1, true, slow_us)));
                        self.after(at_us + alone_us + lasting_us, Happening::Fault(Fault::Light));
                        let moment = r.pick(&[Moment::Saves, Moment::Leads, Moment::Leads]);
                        let ambush = Ambush { moment, whole: r.chance(50), lasting_us: self.lasting_us(&mut r) };
                        self.after(at_us + alone_us, Happening::Fault(Fault::Ambush(ambush)));
                        self.after(at_us + alone_us, Happening::Fault(Fault::Blackout));
                        continue;
                    }
                    "ambushes" => {
                        let moment = r.pick(&[Moment::Saves, Moment::Replaces, Moment::Leads, Moment::SnapshotIn]);
                        (Fault::Ambush(Ambush { moment, whole: r.chance(50), lasting_us }), None)
                    }
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

    /// The server whose files are damaged, if the others can do without it: it may have to get everything from them.
    fn hurt(&self) -> Option<usize> {
        let voters = self.options.voters() as usize;
        let hurt = Random::new(self.options.seed ^ 0x6461_6d61_6765_733f).below(self.options.servers());
        (voters > 2 || hurt >= voters).then_some(hurt)
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
                | Fault::Roomy(_)
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
            Fault::Full(server) => self.servers[server].disk.set_full(true),
            Fault::Roomy(server) => self.servers[server].disk.set_full(false),
            Fault::Stop(server) => self.stop(server),
            Fault::Damage(server) => {
                self.kill(server);
                if let Some(what) = self.servers[server].disk.damage(&mut self.chance) {
                    note!(self, "{}: {what}", server + 1);
                    self.counts.damages += 1;
                }
            }
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
            Fault::Isolate(lasting_us, with_clients, slow_us) => {
                self.isolate_leader(lasting_us, with_clients, slow_us);
            }
            Fault::Ambush(ambush) => self.ambushes.push(ambush),
            Fault::Reconfig(client) => self.ask_for_reconfig(client),
            Fault::Storm => self.disconnect_clients(),
            Fault::Calm => self.calm_down(),
        }
    }

    /// What it has proposed is committed by nobody, and stays in its log alone.
    fn isolate_leader(&mut self, lasting_us: u64, with_clients: bool, slow_us: u64) {
        let leads = |server: &Server| server.process.as_ref().is_some_and(|process| process.peer.leader().is_some());
        let Some(leader) = self.servers.iter().position(leads) else { return };
        let others: Vec<Host> = (0..self.servers.len()).filter(|other| *other != leader).collect();
        for other in others.iter().filter(|_| slow_us > 0) {
            self.servers[*other].disk.slow_until_us = self.now_us + slow_us;
        }
        let cut_off = |host: Host| others.iter().flat_map(move |other| [(host, *other), (*other, host)]).collect();
        let pairs: Vec<(Host, Host)> = cut_off(leader);
        self.network.cuts.extend(pairs.iter().copied());
        self.after(lasting_us, Happening::Fault(Fault::Heal(pairs)));
        for client in (0..self.clients.len()).filter(|_| with_clients).map(World::client_host) {
            let pairs: Vec<(Host, Host)> = cut_off(client);
            self.network.cuts.extend(pairs.iter().copied());
            // The next leader is without clients for a while, and the last one finds it with nothing new.
            self.after(lasting_us + 2_000_000, Happening::Fault(Fault::Heal(pairs)));
        }
        self.expect_probes();
    }

    /// This is such a moment, and these are the server concerned and the time that it lasts: whoever waits for it strikes.
    pub fn at_moment(&mut self, moment: Moment, server: usize, span_us: u64) {
        let Some(at) = self.ambushes.iter().position(|ambush| ambush.moment == moment) else { return };
        let Ambush { whole, lasting_us, .. } = self.ambushes.remove(at);
        note!(self, "{}: {moment:?}, and somebody has waited for it", server + 1);
        let span_us = span_us / self.chance.pick(&[1, 10, 100]);
        let delay_us = self.chance.below(span_us as usize + 1) as u64;
        let servers = self.servers.len();
        // Somebody is missed for long, and the others must do with what they have.
        let missed = if self.chance.chance(50) { server } else { self.chance.below(servers) };
        for host in (0..servers).filter(|host| whole || *host == server) {
            let most = if host == missed { 15_000_000 } else { 500_000 };
            let off_us = lasting_us + self.chance.below(most) as u64;
            // So that those who come back are soon done without who is missed.
            self.after(delay_us, Happening::Fault(Fault::SlowDisk(host, 0)));
            self.after(delay_us, Happening::Fault(Fault::PowerOff(host)));
            self.after(delay_us + off_us, Happening::Fault(Fault::PowerOn(host)));
        }
    }

    /// The process ends. Its kernel says so to whoever is connected, if the host goes on.
    pub fn kill(&mut self, server: usize) {
        let Some(process) = &mut self.servers[server].process else { return };
        let is_certain = !process.port.is_at_work() && !process.failed;
        self.servers[server].held = is_certain.then_some(process.appended);
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
        let afflicted = |host: &Server| {
            host.is_leaving() || host.disk.is_full() || host.disk.slow_until_us > now_us || host.paused.is_some()
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

    /// Some server leaves the ensemble, joins it, or gets a vote or loses it.
    fn ask_for_reconfig(&mut self, client: usize) {
        let server = self.chance.below(self.servers.len());
        let votes = self.chance.chance(50);
        let change = match self.members().get(&server) {
            Some(_) if self.chance.chance(50) => Err(server),
            Some(was) => Ok((server, !was)),
            None => Ok((server, votes)),
        };
        self.clients[client].reconfigures(change);
    }

    fn calm_down(&mut self) {
        self.calm = true;
        self.clients.iter_mut().for_each(Client::keeps_members);
        self.network.cuts.clear();
        self.slow_links.clear();
        self.ambushes.clear();
        self.network.down.clear();
        self.release_held_up();
        for server in 0..self.servers.len() {
            let host = &mut self.servers[server];
            (host.disk.fails_next, host.disk.slow_until_us) = (false, 0);
            host.disk.set_full(false);
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
