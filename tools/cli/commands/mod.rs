//! The commands that need a session: what each takes, and what it does.

mod acl;
mod ensemble;
mod follow;
mod nodes;
mod quota;
mod subtree;
mod transfer;
mod watches;

use std::sync::Arc;

use crate::client::Client;
use crate::failure::Failure;
use crate::flags::{self, Choice, Flag, Given};
use crate::output::Output;
use crate::screen::Screen;

/// What a command works with.
pub struct Context<'a> {
    /// The session.
    pub client: &'a Client,
    /// Where results go.
    pub out: &'a mut Output,
    /// Where events go.
    pub screen: &'a Arc<Screen>,
    /// Set by the creation of an ephemeral: the session must not end with the program then.
    pub has_ephemerals: &'a mut bool,
}

/// What a command does.
pub type Run = fn(&mut Context<'_>, &Given) -> Result<(), Failure>;

/// One command.
pub struct Command {
    /// Its name, which counts with upper and lower case.
    pub name: &'static str,
    /// What it takes, as the usage shows it.
    pub takes: &'static str,
    /// Its options.
    pub flags: &'static [Flag],
    /// How its options go together.
    pub choice: Choice,
    /// Whether the usage explains the options.
    pub explains: bool,
    /// How few and how many arguments it takes. Apache's commands pass over what is too much, with few exceptions.
    pub arguments: (usize, usize),
    /// How it was called once.
    pub former: Option<Former>,
    /// What it does.
    pub run: Run,
    /// One sentence, for `help`; a command that Apache's shell has too needs none.
    pub about: Option<&'static str>,
}

/// A form of arguments that Apache's shell still takes, with a complaint.
pub struct Former {
    /// The complaint.
    pub complaint: &'static str,
    /// Whether the second argument meant `-w`, and is read so.
    pub is_watch: bool,
}

impl Command {
    /// A command of Apache's shell with at least `least` arguments.
    const fn new(name: &'static str, takes: &'static str, flags: &'static [Flag], least: usize, run: Run) -> Command {
        Command {
            name,
            takes,
            flags,
            choice: Choice::Any,
            explains: false,
            arguments: (least, usize::MAX),
            former: None,
            run,
            about: None,
        }
    }

    /// A command that Apache's shell does not have.
    const fn extra(
        name: &'static str,
        takes: &'static str,
        flags: &'static [Flag],
        arguments: (usize, usize),
        run: Run,
        about: &'static str,
    ) -> Command {
        let command = Command::new(name, takes, flags, 0, run);
        Command { arguments, explains: true, about: Some(about), ..command }
    }

    /// The text for somebody who got it wrong.
    pub fn usage(&self) -> String {
        let head = format!("{} {}", self.name, self.takes);
        if self.explains && !self.flags.is_empty() { format!("{head}\n{}", flags::usage(self.flags)) } else { head }
    }

    /// Takes the words apart, and does it.
    pub fn run(&self, context: &mut Context<'_>, words: &[String]) -> Result<(), Failure> {
        let mut given = flags::parse(self.flags, self.choice, words).map_err(Failure::malformed)?;
        let (least, most) = self.arguments;
        if given.arguments.len() <= least || given.arguments.len() - 1 > most {
            return Err(Failure::malformed(self.usage()));
        }
        if let Some(former) = self.former.as_ref().filter(|_| given.arguments.len() > 2) {
            context.out.note(former.complaint);
            if former.is_watch {
                let mut words = words.to_vec();
                words[2] = "-w".to_owned();
                given = flags::parse(self.flags, self.choice, &words).map_err(Failure::malformed)?;
            }
        }
        // The rewriting may have eaten the path.
        if given.arguments.len() <= least {
            return Err(Failure::malformed(self.usage()));
        }
        (self.run)(context, &given)
    }
}

/// All of them, in no order.
pub fn all() -> impl Iterator<Item = &'static Command> {
    let files = [
        nodes::COMMANDS,
        acl::COMMANDS,
        quota::COMMANDS,
        watches::COMMANDS,
        ensemble::COMMANDS,
        subtree::COMMANDS,
        transfer::COMMANDS,
        follow::COMMANDS,
    ];
    files.into_iter().flatten()
}

/// A number given to an option.
fn number<T: std::str::FromStr>(given: &Given, flag: &str, default: T, kind: &str) -> Result<T, Failure> {
    let Some(text) = given.value(flag) else { return Ok(default) };
    text.parse().map_err(|_| Failure::malformed(format!("-{flag} argument must be {kind} value")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_stands_once() {
        let mut names: Vec<&str> = all().map(|command| command.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
