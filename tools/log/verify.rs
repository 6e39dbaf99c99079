//! `verify`: is the log whole, and if not, where is it broken?

use std::error::Error;
use std::fs;

use ringkeeper::storage::inspect::{FileKind, FileSurvey, Finding, Severity, Survey, find_logs};
use serde_json::{Value, json};

use crate::offline::Verdict;
use crate::offline::output::{Out, human_bytes};
use crate::offline::progress::Progress;
use crate::options::VerifyOptions;

/// See the options.
pub fn run(options: &VerifyOptions) -> Result<Verdict, Box<dyn Error>> {
    let mut out = Out::new();
    let mut verdict = Verdict::Fine;
    for path in &options.paths {
        let files = find_logs(path)?;
        let bytes: u64 = files.iter().map(|file| fs::metadata(&file.path).map_or(0, |metadata| metadata.len())).sum();
        let mut progress = Progress::new(bytes, false);
        let mut survey = Survey::new();
        let mut transactions = 0;
        for file in &files {
            let found = survey.file(file, |position| progress.at(position))?;
            progress.file_done(found.bytes);
            transactions += found.transactions;
            if options.json {
                out.json(&file_value(&found))?;
            } else {
                out.line(&file_line(&found))?;
            }
        }
        drop(progress);
        let end = survey.finish();
        for finding in &end.findings {
            if options.json {
                out.json(&finding_value(finding))?;
            } else {
                out.line(&finding_line(finding))?;
            }
        }
        if end.is_damaged {
            verdict = Verdict::Found;
        }
        let last = end.last.map(|zxid| zxid.to_string());
        if options.json {
            out.json(&json!({
                "summary": path.display().to_string(),
                "files": files.len(),
                "transactions": transactions,
                "last": last,
                "damaged": end.is_damaged,
                "findings": end.findings.len() as u64 + end.findings_left_out,
            }))?;
            continue;
        }
        if end.findings_left_out > 0 {
            out.line(&format!("… and {} more", end.findings_left_out))?;
        }
        let state = if end.is_damaged { "DAMAGED" } else { "ok" };
        let last = last.map_or(String::new(), |last| format!(", the last is {last}"));
        out.line(&format!("{state}: {transactions} transactions in {} files{last}", files.len()))?;
    }
    out.flush()?;
    Ok(verdict)
}

fn file_line(found: &FileSurvey) -> String {
    let kind = match found.kind {
        FileKind::NativeLog => "ringkeeper",
        FileKind::ApacheLog => "Apache",
        _ => "empty",
    };
    let range = match (found.first, found.last) {
        (Some(first), Some(last)) => format!("{} transactions, {first} to {last}", found.transactions),
        _ => "no transaction".to_owned(),
    };
    let (end, bytes) = (found.end, human_bytes(found.bytes));
    format!("{}: {kind}, {range}, up to byte {end} of {bytes}", found.path.display())
}

fn file_value(found: &FileSurvey) -> Value {
    let beyond = found.beyond.as_ref().map(|beyond| {
        json!({
            "offset": beyond.position,
            "transactions": beyond.transactions,
            "first": beyond.first.to_string(),
            "last": beyond.last.to_string(),
        })
    });
    json!({
        "file": found.path.display().to_string(),
        "kind": match found.kind {
            FileKind::NativeLog => "native",
            FileKind::ApacheLog => "apache",
            _ => "empty",
        },
        "bytes": found.bytes,
        "transactions": found.transactions,
        "first": found.first.map(|zxid| zxid.to_string()),
        "last": found.last.map(|zxid| zxid.to_string()),
        "end": found.end,
        "beyond": beyond,
    })
}

/// A finding as one line.
pub fn finding_line(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Note => "note",
        Severity::Damage => "DAMAGE",
    };
    format!("{severity}: {} at byte {}: {}", finding.path.display(), finding.offset, finding.what)
}

fn finding_value(finding: &Finding) -> Value {
    json!({
        "finding": match finding.severity {
            Severity::Note => "note",
            Severity::Damage => "damage",
        },
        "file": finding.path.display().to_string(),
        "offset": finding.offset,
        "what": finding.what,
    })
}
