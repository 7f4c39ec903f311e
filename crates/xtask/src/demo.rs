//! Plays examples/demo.sql in a private cluster, and then examples/http, the HTTP front end, with curl.
//!
//! The demo checks its own results. After a step of the SQL, demo.expect() fails unless the step had the right result, and psql stops at
//! the first error. The answers of the front end must contain the expected texts.

mod front_end;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal};

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::postgres::PrivateCopy;
use crate::project::{Project, run_logged, say};
use crate::{install, interrupt};

/// The SQL that creates the database, and the functions that check the steps.
const PREPARATION: &str = include_str!("demo/preparation.sql");
/// The text that is shown before the prompt.
const WELCOME: &str = include_str!("demo/welcome.txt");

/// Plays the SQL and the HTTP front end. If `prompt` is true, plays only the SQL, without output, and then gives a psql prompt in the
/// database.
pub fn run(project: &Project, server: &PrivateCopy, prompt: bool) -> Result<()> {
    install::into_private_copy(project, server, false)?;
    if !prompt {
        say("Building the HTTP front end, examples/http (the first time takes 1 to 3 minutes)");
        front_end::build(project)?;
    }
    say("Starting a private cluster");
    let settings = ["shared_preload_libraries = 'mana_sync'", "mana_sync.wakeup_databases = 'demo'"];
    let cluster = Cluster::start(project, server, &settings)?;
    cluster.script("postgres", []).stdin_bytes(PREPARATION).run()?;
    if prompt {
        return give_prompt(project, &cluster);
    }
    say("examples/demo.sql");
    play(project, &cluster)?;
    say("examples/http");
    front_end::play(project, &cluster)?;
    say("Every step gave what it should. The cluster is removed; make psql gives a prompt in its database.");
    Ok(())
}

/// Plays the SQL. psql prints its input between the results, so that the output looks as if a user had typed it.
fn play(project: &Project, cluster: &Cluster) -> Result<()> {
    let script = project.root.join("examples/demo.sql").display().to_string();
    let psql = cluster.psql("demo", ["-X", "-a", "-P", "pager=off", "-v", "ON_ERROR_STOP=1", "-f", &script]);
    let reader = psql.stderr_to_stdout().unchecked().reader()?;
    let mut transcript = Transcript { bold: std::io::stdout().is_terminal(), ..Transcript::default() };
    for line in BufReader::new(&reader).lines() {
        for line in transcript.lines(&line?) {
            println!("{line}");
        }
    }
    let ended = reader.try_wait()?.context("its output has ended")?;
    ensure!(ended.status.success(), "a step of examples/demo.sql failed");
    Ok(())
}

/// Converts psql's output to what is shown: without the checks, and with the blank lines before comments, which psql drops.
#[derive(Default)]
struct Transcript {
    /// Whether titles are bold.
    bold: bool,
    after_comment: bool,
    after_blank: bool,
}

impl Transcript {
    /// Returns the lines to show for one line of psql.
    fn lines(&mut self, line: &str) -> Vec<String> {
        if ["SELECT demo.expect", r"\set ON_ERROR_STOP", "--#"].iter().any(|prefix| line.starts_with(prefix)) {
            return Vec::new();
        }
        let is_title = line.starts_with("-- ==");
        let is_comment = line == "--" || line.starts_with("-- ");
        let mut shown = Vec::new();
        if (is_title || (is_comment && !self.after_comment)) && !self.after_blank {
            shown.push(String::new());
        }
        let text = without_place(line);
        shown.push(if is_title && self.bold { format!("\x1b[1m{text}\x1b[0m") } else { text.to_string() });
        self.after_comment = is_comment;
        self.after_blank = text.is_empty();
        shown
    }
}

/// Returns a message of psql without the file and the line number at its beginning.
fn without_place(line: &str) -> &str {
    let place_and_message = line.strip_prefix("psql:").and_then(|rest| rest.split_once(": "));
    match place_and_message {
        Some((place, message)) if !place.contains(' ') => message,
        _ => line,
    }
}

fn give_prompt(project: &Project, cluster: &Cluster) -> Result<()> {
    say("Playing examples/demo.sql");
    let script = project.root.join("examples/demo.sql").display().to_string();
    run_logged(cluster.script("demo", ["-f", &script]), &project.state("demo.log"), "the demo failed")?;
    cluster.script("demo", ["-c", "SET client_min_messages = warning", "-c", "DROP SCHEMA demo CASCADE"]).run()?;
    eprintln!("{WELCOME}");
    // ^C is for psql.
    let _held = interrupt::hold();
    cluster.psql("demo", ["-U", "app", "-v", "PROMPT1=%n@%/%R%x%# "]).unchecked().run()?;
    Ok(())
}

/// Returns the content of a file so far; empty if it cannot be read.
fn read(file: &std::path::Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

/// Creates a file for the output of a program.
fn create(file: &std::path::Path) -> Result<File> {
    File::create(file).with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(output: &[&str]) -> Vec<String> {
        let mut transcript = Transcript::default();
        output.iter().flat_map(|line| transcript.lines(line)).collect()
    }

    #[test]
    fn checks_are_left_out() {
        assert_eq!(
            shown(&["SELECT 1;", "--# for us", "SELECT demo.expect(1, 1);", r"\set ON_ERROR_STOP off"]),
            ["SELECT 1;"]
        );
    }

    #[test]
    fn a_blank_line_is_put_back_before_a_comment_and_none_is_added_to_one() {
        let output = ["SELECT 1;", "-- a", "-- b", "SELECT 2;", "", "-- c", "-- == title"];
        assert_eq!(shown(&output), ["SELECT 1;", "", "-- a", "-- b", "SELECT 2;", "", "-- c", "", "-- == title"]);
    }

    #[test]
    fn a_message_has_no_place() {
        assert_eq!(shown(&["psql:/x/demo.sql:7: ERROR:  no"]), ["ERROR:  no"]);
        assert_eq!(shown(&["psql: a: b"]), ["psql: a: b"]);
    }
}
