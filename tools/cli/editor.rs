//! Lines typed at a terminal: editing, completion, and a history that outlives the program.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{ColorMode, CompletionType, Config, Editor, ExternalPrinter, Helper};

use crate::client::{Client, path};
use crate::output::Colors;
use crate::screen::Screen;
use crate::shell::{Next, Shell, names};
use crate::words;

/// Lines of the history that are kept.
const HISTORY_LINES_MAX: usize = 1000;
/// How long completion waits for the server.
const COMPLETION_PATIENCE: Duration = Duration::from_secs(2);
/// Paths that completion offers: of more, nobody reads the list.
const COMPLETIONS_MAX: usize = 1000;
/// Where the history is, below the home directory; the variable names another file, or none if it is empty.
const HISTORY_FILE: &str = ".ringkeeper_cli_history";
const HISTORY_VARIABLE: &str = "RINGKEEPER_CLI_HISTORY";

/// Reads and carries out lines until the user has enough.
pub fn run(shell: Shell, screen: &Arc<Screen>, colors: Colors) -> rustyline::Result<Shell> {
    let config = Config::builder()
        .max_history_size(HISTORY_LINES_MAX)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .color_mode(if colors.out { ColorMode::Enabled } else { ColorMode::Disabled })
        .build();
    let mut editor: Editor<Completion, DefaultHistory> = Editor::with_config(config)?;
    let shell = Rc::new(RefCell::new(shell));
    editor.set_helper(Some(Completion { shell: Rc::clone(&shell) }));
    let file = history_file();
    if let Some(file) = &file {
        // There is none at the first time.
        let _ = editor.load_history(file);
    }
    let mut printer = editor.create_external_printer()?;
    screen.print_above(Box::new(move |text| {
        // A terminal that has gone takes nothing.
        let _ = printer.print(text);
    }));
    loop {
        let (raw, styled) = shell.borrow().prompt();
        let styled = if colors.out { styled } else { raw.clone() };
        let line = match editor.readline(&(raw, styled)) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error),
        };
        if is_worth_keeping(&line) {
            editor.add_history_entry(line.as_str())?;
            if let Some(file) = &file
                && let Err(error) = editor.append_history(file)
            {
                eprintln!("{}: {error}", file.display());
            }
        }
        if shell.borrow_mut().line(&line) == Next::Quit {
            break;
        }
    }
    drop(editor);
    Ok(Rc::into_inner(shell).expect("the editor, which had the other reference, is gone").into_inner())
}

/// A password has no place in a file.
fn is_worth_keeping(line: &str) -> bool {
    let words = words::split(line);
    words.first().is_some_and(|name| name != "addauth")
}

fn history_file() -> Option<PathBuf> {
    if let Some(file) = std::env::var_os(HISTORY_VARIABLE) {
        return (!file.is_empty()).then(|| file.into());
    }
    std::env::home_dir().filter(|home| !home.as_os_str().is_empty()).map(|home| home.join(HISTORY_FILE))
}

/// Completes names of commands, and paths by asking the server.
struct Completion {
    shell: Rc<RefCell<Shell>>,
}

impl Helper for Completion {}
impl Hinter for Completion {
    type Hint = String;
}
impl Highlighter for Completion {}
impl Validator for Completion {}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &rustyline::Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let line = &line[..at];
        let (start, quote) = words::last(line);
        let word = line[start..].trim_start_matches(['"', '\'']);
        if word.starts_with('/') {
            let shell = self.shell.borrow();
            let paths = shell.connected_client().map(|client| paths(client, word)).unwrap_or_default();
            return Ok((start, paths.into_iter().map(|path| path_pair(path, quote)).collect()));
        }
        let is_command = line[..start].trim().is_empty() || line[..start].trim() == "help";
        let known = names().into_iter().filter(|name| is_command && name.starts_with(word));
        Ok((start, known.map(|name| Pair { display: name.to_owned(), replacement: format!("{name} ") }).collect()))
    }
}

/// The paths on the server that begin with `word`, sorted.
fn paths(client: &Client, word: &str) -> Vec<String> {
    let slash = word.rfind('/').expect("a path has one");
    let (parent, prefix) = (if slash == 0 { "/" } else { &word[..slash] }, &word[slash + 1..]);
    let children =
        client.children_later(parent, false).ok().and_then(|ticket| ticket.wait_at_most(COMPLETION_PATIENCE));
    let Some((mut names, _)) = children else { return Vec::new() };
    names.retain(|name| name.starts_with(prefix));
    names.sort();
    names.truncate(COMPLETIONS_MAX);
    names.iter().map(|name| path::join(parent, name)).collect()
}

/// A path as it is shown, and as it is typed: in quotes if it has blanks.
fn path_pair(path: String, quote: Option<char>) -> Pair {
    let display = path[path.rfind('/').map_or(0, |at| at + 1)..].to_owned();
    let replacement = match quote {
        Some(quote) => format!("{quote}{path}"),
        None if path.contains(words::is_blank) => format!("\"{path}"),
        None => path,
    };
    Pair { display, replacement }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_kept() {
        assert!(is_worth_keeping("ls /"));
        assert!(!is_worth_keeping("  addauth digest bob:secret"));
        assert!(!is_worth_keeping(""));
    }

    #[test]
    fn paths_with_blanks_are_quoted() {
        assert_eq!(path_pair("/a/b".into(), None).replacement, "/a/b");
        assert_eq!(path_pair("/a/b c".into(), None).replacement, "\"/a/b c");
        assert_eq!(path_pair("/a/b c".into(), Some('\'')).replacement, "'/a/b c");
        assert_eq!(path_pair("/a/b c".into(), None).display, "b c");
    }
}
