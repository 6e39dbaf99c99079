//! Four-letter words: commands that stand where a connection's first frame length would.

use crate::types::CnxnId;

/// A known word (`FourLetterCommands`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FourLetter(&'static str);

/// A word that waits for its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Who asked.
    pub cnxn: CnxnId,
    /// What.
    pub word: FourLetter,
    /// The number behind `stmk`, else 0.
    pub mask: i64,
}

/// All of Apache's. Anything else is taken for a frame length.
const KNOWN: [&str; 18] = [
    "conf", "cons", "crst", "dirs", "dump", "envi", "gtmk", "hash", "isro", "mntr", "ruok", "srst", "srvr", "stat",
    "stmk", "wchc", "wchp", "wchs",
];
/// What telnet sends when it is interrupted: answered with nothing.
const TELNET_INTERRUPT: [u8; 4] = [0xff, 0xf4, 0xff, 0xfd];
/// Bytes of the number behind `stmk`.
pub(super) const MASK_BYTES: usize = 8;

impl FourLetter {
    /// The word that these bytes are, if they are one. Anything else is taken for a frame length.
    pub fn from_wire(bytes: [u8; 4]) -> Option<FourLetter> {
        if bytes == TELNET_INTERRUPT {
            return Some(FourLetter("telnet close"));
        }
        KNOWN.into_iter().find(|word| word.as_bytes() == bytes).map(FourLetter)
    }

    /// The word itself.
    pub fn word(self) -> &'static str {
        self.0
    }

    /// All that there are.
    pub fn all() -> impl Iterator<Item = FourLetter> {
        KNOWN.into_iter().map(FourLetter)
    }

    /// Whether it can be answered from what the asker's own shard has at hand. The others look at files or ask other
    /// shards.
    pub fn is_quick(self) -> bool {
        matches!(self.0, "envi" | "gtmk" | "isro" | "ruok" | "srvr" | "stmk" | "wchs")
    }

    /// Whether a number of 8 bytes follows.
    pub(super) fn has_mask(self) -> bool {
        self.0 == "stmk"
    }

    /// What is answered while the server serves nobody; `None` for what can be answered all the same.
    pub(super) fn while_not_serving(self) -> Option<String> {
        match self.0 {
            "envi" | "gtmk" | "ruok" | "stmk" | "telnet close" => None,
            "isro" => Some("null".to_owned()),
            _ => Some("This ZooKeeper instance is not currently serving requests\n".to_owned()),
        }
    }

    /// What is answered to a word that is not among the allowed.
    pub(super) fn refusal(self, allowed: &[FourLetter]) -> Option<String> {
        let refused = !allowed.contains(&self);
        refused.then(|| format!("{} is not executed because it is not in the whitelist.\n", self.0))
    }
}
