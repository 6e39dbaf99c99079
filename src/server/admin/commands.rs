//! The commands of the AdminServer: what the four-letter words say and some more, as JSON.
//!
//! Source: `org.apache.zookeeper.server.admin.Commands`.

use serde_json::{Map, Value, json};

use super::super::http::{Answer, Asked as Request};
use super::super::json;
use super::super::monitor::rounded;
use super::*;
use crate::storage::snapshot;
use crate::zab::member::{HostPort, Member};

/// A command: its name, its other names, and whether it is answered while the server serves nobody.
struct Command {
    name: &'static str,
    aliases: &'static [&'static str],
    always: bool,
}

const fn command(name: &'static str, aliases: &'static [&'static str], always: bool) -> Command {
    Command { name, aliases, always }
}

/// All of them, in the order of the page that lists them.
const COMMANDS: [Command; 28] = [
    command("configuration", &["conf", "config"], false),
    command("connection_stat_reset", &["crst"], false),
    command("connections", &["cons"], false),
    command("dirs", &[], false),
    command("dump", &[], false),
    command("environment", &["env", "envi"], true),
    command("get_trace_mask", &["gtmk"], true),
    command("hash", &[], false),
    command("initial_configuration", &["icfg"], false),
    command("is_read_only", &["isro"], false),
    command("last_snapshot", &["lsnp"], false),
    command("leader", &["lead"], false),
    command("monitor", &["mntr"], true),
    command("observer_connection_stat_reset", &["orst"], false),
    command("observers", &["obsr"], false),
    command("restore", &["rest"], false),
    command("ruok", &[], false),
    command("server_stats", &["srvr"], false),
    command("set_trace_mask", &["stmk"], true),
    command("snapshot", &["snap"], false),
    command("stat_reset", &["srst"], false),
    command("stats", &["stat"], false),
    command("system_properties", &["sysp"], true),
    command("voting_view", &[], false),
    command("watch_summary", &["wchs"], false),
    command("watches", &["wchc"], false),
    command("watches_by_path", &["wchp"], false),
    command("zabstate", &[], true),
];

const JSON: &str = "application/json";

impl Shared {
    /// Answers what is asked of the AdminServer; blocks. `place` is where the commands are, such as `/commands`.
    pub fn answer_http(&self, place: &str, now: Instant, wall: WallMs, asked: &Request) -> Answer {
        let place = place.trim_end_matches('/');
        let Some(rest) = asked.path.strip_prefix(place).filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
            return Answer { status: 404, content_type: "text/html;charset=iso-8859-1", body: NOT_FOUND.to_owned() };
        };
        let name = rest.trim_start_matches('/');
        if name.is_empty() {
            let link = |c: &Command| format!("<a href=\"{place}/{0}\">{0}</a>\n<br/>\n", c.name);
            return Answer { status: 200, content_type: "", body: COMMANDS.iter().map(link).collect() };
        }
        let known = COMMANDS.iter().find(|command| command.name == name || command.aliases.contains(&name));
        let Some(Command { name: primary, always, .. }) = known else {
            return finished(200, name, Map::new(), Err(format!("Unknown command: {name}")));
        };
        if matches!(*primary, "snapshot" | "restore") {
            return match asked.authorized {
                false => finished(401, primary, Map::new(), Err("Auth info is missing for the command".to_owned())),
                // As with `admin.snapshot.enabled=false`.
                true => finished(503, primary, Map::new(), Ok(())),
            };
        }
        if asked.post {
            return Answer { status: 405, content_type: "", body: String::new() };
        }
        // It does not matter which shard is asked how far it is.
        let total = self.total(0);
        if !always && total.role.is_none() {
            let error = "This ZooKeeper instance is not currently serving requests";
            return finished(200, name, Map::new(), Err(error.to_owned()));
        }
        let mut data = Map::new();
        let result = self.command(primary, asked, &total, now, wall, &mut data);
        finished(200, primary, data, result)
    }

    fn command(
        &self,
        name: &str,
        asked: &Request,
        total: &Report,
        now: Instant,
        wall: WallMs,
        data: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let mut put = |key: &str, value: Value| drop(data.insert(key.to_owned(), value));
        match name {
            "configuration" => *data = self.configuration(),
            "connection_stat_reset" => drop(self.ask(Subject::ResetConnections).collect()),
            "stat_reset" => drop(self.ask(Subject::ResetCounters).collect()),
            "connections" => {
                let infos = self.ask(Subject::Connections).connections();
                put("connections", infos.iter().map(|info| connection(info, Some((now, wall)))).collect());
                put("secure_connections", json!([]));
            }
            "dirs" => {
                let sizes = self.dir_sizes();
                put("datadir_size", json!(sizes.snapshots));
                put("logdir_size", json!(sizes.logs));
            }
            "dump" => self.dump_json(data),
            "environment" => {
                let text = environment();
                let lines = text.lines().skip(1).filter_map(|line| line.split_once('='));
                lines.for_each(|(key, value)| put(key, json!(value)));
            }
            "get_trace_mask" => put("tracemask", json!(self.trace_mask.load(Relaxed))),
            "set_trace_mask" => {
                let mask = set_trace_mask(&asked.query)?;
                self.trace_mask.store(mask, Relaxed);
                put("tracemask", json!(mask));
            }
            "hash" => {
                let digests = self.ask(Subject::Order).order().digests;
                let digest =
                    |(zxid, digest): (Zxid, u64)| json!({"zxid": zxid.0, "digest": digest, "digest_version": 2});
                put("digests", digests.into_iter().map(digest).collect());
            }
            "initial_configuration" => put("initial_configuration", json!(self.initial_configuration)),
            "is_read_only" => put("read_only", json!(is_read_only(total))),
            "last_snapshot" => {
                let (zxid, seconds) = self.last_snapshot().unwrap_or((Zxid(-1), -1));
                put("zxid", json!(format!("{:x}", zxid.0)));
                put("timestamp", json!(seconds));
            }
            "leader" => *data = self.leader_json(total)?,
            "monitor" => *data = self.figures(0, |figures| figures.json()),
            "observers" => {
                let observers = self.ask(Subject::Order).order().status.and_then(|status| status.observers);
                let observers = observers.unwrap_or_default();
                put("synced_observers", json!(observers.len()));
                let links = locked(&self.learner_links);
                let known = observers.iter().filter_map(|(sid, link)| Some((sid, links.get(link)?)));
                put(
                    "observers",
                    known
                        .map(|(sid, link)| {
                            json!({
                                "remote_socket_address": format!("/{}", link.remote),
                                "sid": sid.0,
                                "established": link.since.0,
                            })
                        })
                        .collect(),
                );
            }
            "server_stats" => *data = self.server_stats_json(total),
            "stats" => {
                *data = self.server_stats_json(total);
                let infos = self.ask(Subject::Connections).connections();
                data.insert("connections".into(), infos.iter().map(|info| connection(info, None)).collect());
                data.insert("secure_connections".into(), json!([]));
            }
            "system_properties" => {
                for setting in self.config.effective() {
                    put(&format!("zookeeper.{}", setting.key), json!(setting.value));
                }
                data.sort_keys();
            }
            "voting_view" => put("current_config", self.voting_view()),
            "watch_summary" => {
                let (connections, paths, watches) = total.data_watches;
                put("num_connections", json!(connections));
                put("num_paths", json!(paths));
                put("num_total_watches", json!(watches));
            }
            "watches" => {
                let mut sessions: BTreeMap<i64, Vec<Box<str>>> = BTreeMap::new();
                for (session, path) in self.ask(Subject::Watches).watches() {
                    sessions.entry(session.0).or_default().push(path);
                }
                put("session_id_to_watched_paths", by_name(sessions));
            }
            "watches_by_path" => {
                let mut paths: BTreeMap<Box<str>, Vec<i64>> = BTreeMap::new();
                for (session, path) in self.ask(Subject::Watches).watches() {
                    paths.entry(path).or_default().push(session.0);
                }
                put("path_to_session_ids", by_name(paths));
            }
            "zabstate" => *data = self.zab_state(total),
            // ruok says enough by answering; observers' counters are not kept.
            _ => {}
        }
        Ok(())
    }

    fn configuration(&self) -> Map<String, Value> {
        let c = &self.config;
        object(json!({
            "client_port": self.client_port(),
            "data_dir": c.snapshot_dir().display().to_string(),
            "data_log_dir": c.log_dir().display().to_string(),
            "tick_time": c.tick_time.as_millis() as u64,
            "max_client_cnxns": c.max_client_cnxns.unwrap_or(0),
            "min_session_timeout": c.min_session_timeout.as_millis() as u64,
            "max_session_timeout": c.max_session_timeout.as_millis() as u64,
            "server_id": c.ensemble.as_ref().map_or(0, |ensemble| ensemble.my_id.0),
            "client_port_listen_backlog": c.client_port_listen_backlog.map_or(-1, i64::from),
        }))
    }

    fn dump_json(&self, data: &mut Map<String, Value>) {
        let order = self.ask(Subject::Order).order();
        let ids = |sessions: &[SessionId]| sessions.iter().map(|session| session.0).collect::<Vec<i64>>();
        let expiry = order.expiry.iter().map(|(at, sessions)| (at.0, ids(sessions)));
        data.insert("expiry_time_to_session_ids".into(), by_name(expiry));
        let ephemerals = order.ephemerals.iter().map(|(session, paths)| (session.0, paths));
        let ephemerals =
            ephemerals.map(|(session, paths)| (session, paths.iter().map(|path| &**path).collect::<Vec<_>>()));
        data.insert("session_id_to_ephemeral_paths".into(), by_name(ephemerals));
    }

    /// The newest snapshot, and when it was written in seconds.
    fn last_snapshot(&self) -> Option<(Zxid, i64)> {
        let newest =
            snapshot::list_by_name(&self.config.snapshot_dir()).ok()?.into_iter().max_by_key(|file| file.zxid)?;
        let written = std::fs::metadata(&newest.path).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some((newest.zxid, written.as_secs() as i64))
    }

    fn leader_json(&self, total: &Report) -> Result<Map<String, Value>, String> {
        let ensemble = self.config.ensemble.as_ref().ok_or("server is not initialized")?;
        let id = ServerId(self.leader.load(Relaxed));
        let membership = self.membership(ensemble);
        let member = membership.member(id);
        Ok(object(json!({
            "is_leader": total.role == Some("leader"),
            "leader_id": id.0,
            "leader_ip": member.map_or_else(String::new, |member| member.addresses[0].host.as_str().to_owned()),
        })))
    }

    fn server_stats_json(&self, total: &Report) -> Map<String, Value> {
        let c = &total.counters;
        let sizes = self.dir_sizes();
        let last = c.last_reply_bytes.map_or(-1, |bytes| bytes as i64);
        let some = |bytes: u64| if c.reply_bytes.count > 0 { bytes as i64 } else { -1 };
        let replies = json!({
            "last_buffer_size": last,
            "min_buffer_size": some(c.reply_bytes.min),
            "max_buffer_size": some(c.reply_bytes.max),
        });
        object(json!({
            "version": VERSION,
            "read_only": is_read_only(total),
            "server_stats": {
                "packets_sent": c.sent,
                "packets_received": c.received,
                "fsync_threshold_exceed_count": self.log.slow_flushes(),
                "client_response_stats": replies.clone(),
                "provider_null": false,
                "data_dir_size": sizes.snapshots,
                "log_dir_size": sizes.logs,
                "last_processed_zxid": total.zxid.0,
                "outstanding_requests": total.outstanding,
                "server_state": total.role.unwrap_or_default(),
                "avg_latency": rounded(c.latency.average()),
                "max_latency": c.latency.max,
                "min_latency": c.latency.min,
                "num_alive_client_connections": total.connections,
                "auth_failed_count": c.auth_failed,
                "non_mtlsremote_conn_count": 0,
                "non_mtlslocal_conn_count": 0,
                "uptime": self.start.elapsed().as_millis() as u64,
            },
            "client_response": replies,
            "node_count": total.znodes,
        }))
    }

    fn voting_view(&self) -> Value {
        let Some(ensemble) = &self.config.ensemble else { return json!({}) };
        let view = self.membership(ensemble);
        let voters = view.members().filter(|member| member.votes());
        by_name(voters.map(|member| {
            let client = member.client.as_ref().map_or_else(String::new, HostPort::to_string);
            let value = json!({
                "server_addresses": addresses(member, false),
                "election_addresses": addresses(member, true),
                "client_address": client,
                "learner_type": "participant",
            });
            (member.id.0, value)
        }))
    }

    fn zab_state(&self, total: &Report) -> Map<String, Value> {
        let Some(ensemble) = &self.config.ensemble else {
            return object(json!({"voting": false, "zabstate": ""}));
        };
        let order = self.ask(Subject::Order).order();
        let membership = order.membership.unwrap_or_else(|| Arc::clone(ensemble.view.current()));
        let member = membership.member(ensemble.my_id);
        // One that is no member any more is where it was.
        let me = member.unwrap_or(ensemble.me());
        let client = me.client.as_ref().map(HostPort::to_string);
        let client = client.or_else(|| Some(self.config.client_addr.as_ref()?.bind_candidates()[0].to_string()));
        object(json!({
            "myid": ensemble.my_id.0,
            "is_leader": total.role == Some("leader"),
            "quorum_address": address_json(me, false),
            "election_address": address_json(me, true),
            "client_address": client.unwrap_or_default(),
            "voting": member.is_some_and(Member::votes),
            "last_zxid": format!("0x{:x}", total.zxid.0),
            "zab_epoch": total.zxid.0 >> 32,
            "zab_counter": total.zxid.0 & 0xffff_ffff,
            "zabstate": order.phase.unwrap_or("election"),
        }))
    }
}

const NOT_FOUND: &str = "<html>\n<head>\n<meta http-equiv=\"Content-Type\" content=\"text/html;charset=ISO-8859-1\"/>\n\
                         <title>Error 404 Not Found</title>\n</head>\n<body><h2>HTTP ERROR 404 Not Found</h2>\n</body>\n\
                         </html>\n";

/// Puts the name and what went wrong behind the data, in Apache's order.
fn finished(status: u16, name: &str, mut data: Map<String, Value>, result: Result<(), String>) -> Answer {
    match result {
        // It is set by the command itself, and so stands first.
        Err(error) if status == 200 && COMMANDS.iter().any(|command| command.name == name) => {
            data.insert("error".into(), json!(error));
            data.insert("command".into(), json!(name));
        }
        result => {
            data.insert("command".into(), json!(name));
            data.insert("error".into(), json!(result.err()));
        }
    }
    Answer { status, content_type: JSON, body: json::text(&data) }
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}

fn by_name<K: ToString, V: serde::Serialize>(pairs: impl IntoIterator<Item = (K, V)>) -> Value {
    pairs.into_iter().map(|(key, value)| (key.to_string(), json!(value))).collect::<Map<String, Value>>().into()
}

/// A connection; in brief without the times.
fn connection(info: &CnxnInfo, times: Option<(Instant, WallMs)>) -> Value {
    let mut data = object(json!({
        "remote_socket_address": remote(info).to_string(),
        "interest_ops": 1,
        "outstanding_requests": info.queued,
        "packets_received": info.counts.received,
        "packets_sent": info.counts.sent,
    }));
    if let Some((now, wall)) = times {
        let last = info.counts.last;
        let latency = &info.counts.latency;
        data.append(&mut object(json!({
            "session_id": info.session.0,
            "last_operation": last.map_or("NA", |last| last.op),
            "established": wall.0 - now.since_ms(info.accepted) as i64,
            "session_timeout": info.timeout_ms.unwrap_or(0),
            "last_cxid": last.and_then(|last| last.cxid).unwrap_or(-1),
            "last_zxid": last.map_or(-1, |last| last.zxid.0),
            "last_response_time": last.map_or(0, |last| last.at.0),
            "last_latency": last.map_or(0, |last| last.latency_ms),
            "min_latency": latency.min,
            "avg_latency": latency.average() as u64,
            "max_latency": latency.max,
        })));
    }
    data.into()
}

fn is_read_only(total: &Report) -> bool {
    total.role == Some(Mode::ReadOnly.name())
}

fn set_trace_mask(query: &[(String, String)]) -> Result<i64, String> {
    let usage = "setTraceMask requires long traceMask argument";
    let (_, text) = query.iter().find(|(key, _)| key == "traceMask").ok_or(usage)?;
    text.parse().map_err(|_| format!("{usage}, got {text}"))
}

fn addresses(member: &Member, election: bool) -> Vec<String> {
    let address = |pair: &crate::zab::member::PeerAddress| if election { pair.election() } else { pair.quorum() };
    member.addresses.iter().map(|pair| address(pair).to_string()).collect()
}

/// As Apache prints a `MultipleAddresses`. Nobody tries here whether they can be reached.
fn address_json(member: &Member, election: bool) -> Value {
    let all = addresses(member, election);
    let ports: Vec<u16> =
        member.addresses.iter().map(|pair| if election { pair.election().port } else { pair.quorum().port }).collect();
    json!({
        "empty": false,
        "all_addresses": all,
        "wildcard_addresses": ports.iter().map(|port| format!("0.0.0.0:{port}")).collect::<Vec<_>>(),
        "all_ports": ports,
        "all_host_strings": member.addresses.iter().map(|pair| pair.host.as_str().to_owned()).collect::<Vec<_>>(),
        "reachable_address": all[0],
        "all_reachable_addresses": all,
        "all_reachable_addresses_or_all": all,
        "reachable_or_one": all[0],
        "one": all[0],
    })
}
