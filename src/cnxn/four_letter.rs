//! Four-letter words: commands that stand where a connection's first frame length would.

/// A known word (`FourLetterCommands`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FourLetter(&'static str);

/// All of Apache's. Anything else is taken for a frame length.
const KNOWN: [&str; 18] = [
    "conf", "cons", "crst", "dirs", "dump", "envi", "gtmk", "hash", "isro", "mntr", "ruok", "srst", "srvr", "stat",
    "stmk", "wchc", "wchp", "wchs",
];
/// Those that this server can answer; the others are refused as if no whitelist had them.
const ANSWERED: [&str; 9] = ["conf", "dirs", "envi", "isro", "mntr", "ruok", "srvr", "stat", "wchs"];
/// What telnet sends when it is interrupted: answered with nothing.
const TELNET_INTERRUPT: [u8; 4] = [0xff, 0xf4, 0xff, 0xfd];

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

    /// The words that can be answered.
    pub fn answered() -> impl Iterator<Item = FourLetter> {
        ANSWERED.into_iter().map(FourLetter)
    }

    /// Whether the answer holds sizes of files.
    pub fn looks_at_files(self) -> bool {
        matches!(self.0, "conf" | "dirs")
    }

    /// What is answered to a word that is not among the allowed.
    pub(super) fn refusal(self, allowed: &[FourLetter]) -> Option<String> {
        let refused = !allowed.contains(&self);
        refused.then(|| format!("{} is not executed because it is not in the whitelist.\n", self.0))
    }
}
