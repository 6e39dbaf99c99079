//! One server's connections to the election ports of others, and theirs to it.
//!
//! ```text
//! server 2 of 1 2 3:observer [multi]    who this is, and its configuration
//! accept #1 / hello #1 sid=3 at=h:2     somebody connects / says who it is (form=bare for servers before 3.5)
//! dialled 1 #2 / refused 1 / failed 1   how an attempt to connect went
//! frame #1 LOOKING leader=3 / frame #1 garbage
//! written #1 / closed #1                a socket has taken everything / is gone
//! say 1 LOOKING leader=3                the election has something to say
//! settled                               the election is over
//! view 1 2 3 4                          another configuration is in force
//! elapse 50                             time passes, in milliseconds, and the clock rings
//! ```

use std::fmt::Write as _;

use ringkeeper::proto::election::{Hello, HelloVersion, Notification, ServerState, Vote};
use ringkeeper::types::{Instant, ServerId, Zxid};
use ringkeeper::zab::links::{Effect, Event, LinkId, Links};
use ringkeeper::zab::quorum::{QuorumVerifier, QuorumView};

use super::story;

/// How long a connection may take to say who it is.
const HELLO_TIMEOUT_MS: u64 = 10_000;

#[test]
fn links() {
    story::check("links", Stage::default, Stage::command);
}

#[derive(Default)]
struct Stage {
    links: Option<Links>,
    now: u64,
}

impl Stage {
    fn command(&mut self, line: &str, trace: &mut String) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let id = |at: usize| ServerId(story::parse(words[at]));
        let link = |at: usize| LinkId(story::parse(words[at].trim_start_matches('#')) as u64);
        let event = match words[0] {
            "server" => {
                let multi = words.contains(&"multi");
                let members: Vec<&str> = words[3..].iter().copied().filter(|word| *word != "multi").collect();
                self.links = Some(Links::new(id(1), view(&members, 0), multi, HELLO_TIMEOUT_MS));
                return self.elapse(0, trace);
            }
            "accept" => Event::Accepted { link: link(1) },
            "hello" => Event::Hello { link: link(1), hello: said_hello(&words) },
            "dialled" => Event::Dialled { peer: id(1), link: link(2) },
            "refused" | "failed" => {
                Event::DialFailed { peer: id(1), refused: words[0] == "refused", why: "h:2: no".to_owned() }
            }
            "frame" => Event::Frame { link: link(1), payload: payload(&words) },
            "written" => Event::Written { link: link(1) },
            "closed" => Event::Closed { link: link(1), why: "end of stream".to_owned() },
            "say" => Event::Send { to: id(1), notification: notification(&words) },
            "settled" => Event::Settled,
            "view" => Event::View(view(&words[1..], 1)),
            "elapse" => return self.elapse(story::parse(words[1]) as u64, trace),
            "connected" => {
                let connected: Vec<String> = self.links().connected().map(|id| id.to_string()).collect();
                return writeln!(trace, "connected: {}", connected.join(" ")).expect("a string takes it");
            }
            other => panic!("{other} is no command"),
        };
        self.handle(event, trace);
    }

    fn links(&mut self) -> &mut Links {
        self.links.as_mut().expect("the story begins with a server")
    }

    fn elapse(&mut self, ms: u64, trace: &mut String) {
        let end = self.now + ms;
        while let Some(at) = self.links().wake_at().filter(|at| at.0 <= end) {
            self.now = self.now.max(at.0);
            if at.0 > 0 {
                writeln!(trace, "at {} ms", self.now).expect("a string takes it");
            }
            self.handle(Event::Timer, trace);
        }
        self.now = end;
    }

    fn handle(&mut self, event: Event, trace: &mut String) {
        let now = Instant(self.now);
        let mut effects = Vec::new();
        self.links().handle(now, event, &mut effects);
        for effect in effects {
            let text = match effect {
                Effect::Dial { peer, addresses } => {
                    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                    format!("dial {peer} at {}", addresses.join(" or "))
                }
                Effect::Write { link, bytes } => format!("write to #{}: {}", link.0, written(&bytes)),
                Effect::Close { link } => format!("close #{}", link.0),
                Effect::Up(peer) => format!("{peer} is connected"),
                Effect::Refused(peer) => format!("{peer} does not run"),
                Effect::Received { from, notification } => {
                    format!("{from} says {} {}", notification.state, notification.vote.leader)
                }
            };
            writeln!(trace, "{text}").expect("a string takes it");
        }
    }
}

/// The bytes of a hello or of a framed notification, in words.
fn written(bytes: &[u8]) -> String {
    if let Ok(Some((hello, len))) = Hello::decode(bytes)
        && len == bytes.len()
        && hello.version != HelloVersion::BareId
    {
        return format!("hello, {} at {} ({:?})", hello.sid, hello.addresses, hello.version);
    }
    let (length, payload) = bytes.split_at(4);
    assert_eq!(length, (payload.len() as u32).to_be_bytes(), "the frame's length");
    let notification = Notification::decode(payload).expect("what is sent can be read");
    format!("{} {}", notification.state, notification.vote.leader)
}

fn view(words: &[&str], version: i64) -> QuorumView {
    let line = |word: &&str| match word.split_once(':') {
        Some((id, rest)) => format!("server.{id}=h{id}:1:2:{rest}"),
        None => format!("server.{word}=h{word}:1:2|i{word}:1:2"),
    };
    let lines: Vec<String> = words.iter().map(line).collect();
    let verifier = QuorumVerifier::parse(&lines.join("\n")).unwrap_or_else(|error| panic!("{error}"));
    QuorumView::new(verifier.with_version(version))
}

fn said_hello(words: &[&str]) -> Hello {
    let sid = ServerId(story::number(words, "sid").expect("sid="));
    let addresses = words.iter().find_map(|word| word.strip_prefix("at=")).unwrap_or_default().to_owned();
    let version = if words.contains(&"form=bare") { HelloVersion::BareId } else { HelloVersion::V1 };
    Hello { version, sid, addresses }
}

fn notification(words: &[&str]) -> Notification {
    let state = if words.contains(&"LOOKING") { ServerState::Looking } else { ServerState::Leading };
    let leader = ServerId(story::number(words, "leader").expect("leader="));
    Notification::new(state, Vote { leader, zxid: Zxid(0), round: 1, peer_epoch: 0 }, "version=0".to_owned())
}

fn payload(words: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match words.contains(&"garbage") {
        true => bytes.extend_from_slice(b"garbage"),
        false => notification(words).encode(&mut bytes),
    }
    bytes
}
