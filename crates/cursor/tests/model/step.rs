//! The steps that may happen on the servers and devices of the model, and the text of a step.
//!
//! `Display` writes a step as a line of a scenario file, and `FromStr` reads such a line. Random schedules are made of the
//! same steps, so a schedule that fails prints as a scenario. `testdata/README.md` lists the steps.

use std::fmt;
use std::str::FromStr;

/// A step of a scenario. Users, spaces, rows, transactions and devices have free names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Device { device: String, user: String, spaces: Vec<String> },
    Room { device: String, transactions: usize },
    ShortPages { device: String },
    PullsRecords { device: String },
    PullsChanges { device: String },
    Join { device: String, space: String },
    Leave { device: String, space: String },
    Begin { transaction: String },
    Savepoint { transaction: String },
    Enter { device: String, transaction: String },
    Write { transaction: String, row: String, user: String, space: Option<String>, record: Option<String>, on: Server },
    Update { transaction: String, row: String, user: String, space: Option<String>, record: String, on: Server },
    Delete { transaction: String, row: String, deleted: String, on: Server },
    Purge { transaction: String, deletes: Vec<String> },
    Compact { transaction: String, rows: Vec<String> },
    End { transaction: String, end: End, on: Server },
    Pull { device: String, from: Server, page_size: Option<usize> },
    Page { device: String, page_size: usize },
    Replay { events: Option<usize> },
    Crash,
    Failover,
    LoseOldPrimary,
    Gets { device: String, rows: Vec<String> },
    Holds { device: String, rows: Vec<String> },
    IsComplete { device: String },
}

/// A server that a step names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Primary,
    Standby,
    /// An old primary that can still be reached: the last one, or the one with this number. The oldest has number 1.
    OldPrimary(Option<usize>),
}

/// How a transaction ends, or leaves its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Commit,
    Rollback,
    Prepare,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Server::Primary => f.write_str("primary"),
            Server::Standby => f.write_str("standby"),
            Server::OldPrimary(None) => f.write_str("old primary"),
            Server::OldPrimary(Some(number)) => write!(f, "old primary {number}"),
        }
    }
}

/// Prints a preposition and a server in the text of a step, for example ` on standby` or ` from standby`. Prints nothing for the primary.
struct Clause(&'static str, Server);

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Server::Primary => Ok(()),
            server => write!(f, " {} {server}", self.0),
        }
    }
}

/// Prints names, each with a blank before it.
struct Words<'a>(&'a [String]);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|word| write!(f, " {word}"))
    }
}

/// Prints a list of rows in the syntax of a step.
struct RowList<'a>(&'a [String]);

impl fmt::Display for RowList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str(" nothing") } else { Words(self.0).fmt(f) }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Device { device, user, spaces } => write!(f, "device {device} {user}{}", Words(spaces)),
            Step::Room { device, transactions } => write!(f, "room {device} {transactions}"),
            Step::ShortPages { device } => write!(f, "short-pages {device}"),
            Step::PullsRecords { device } => write!(f, "pulls-records {device}"),
            Step::PullsChanges { device } => write!(f, "pulls-changes {device}"),
            Step::Join { device, space } => write!(f, "join {device} {space}"),
            Step::Leave { device, space } => write!(f, "leave {device} {space}"),
            Step::Begin { transaction } => write!(f, "begin {transaction}"),
            Step::Savepoint { transaction } => write!(f, "savepoint {transaction}"),
            Step::Enter { device, transaction } => write!(f, "enter {device} {transaction}"),
            Step::Write { transaction, row, user, space, record, on } => {
                write!(f, "write {transaction} {row} {user}{}", Words(space.as_slice()))?;
                record.as_ref().map_or(Ok(()), |record| write!(f, " of {record}"))?;
                write!(f, "{}", Clause("on", *on))
            }
            Step::Update { transaction, row, user, space, record, on } => {
                let space = Words(space.as_slice());
                write!(f, "update {transaction} {row} {user}{space} of {record}{}", Clause("on", *on))
            }
            Step::Delete { transaction, row, deleted, on } => {
                write!(f, "delete {transaction} {row} {deleted}{}", Clause("on", *on))
            }
            Step::Purge { transaction, deletes } => write!(f, "purge {transaction}{}", Words(deletes)),
            Step::Compact { transaction, rows } => write!(f, "compact {transaction}{}", Words(rows)),
            Step::End { transaction, end, on } => {
                let end = match end {
                    End::Commit => "commit",
                    End::Rollback => "rollback",
                    End::Prepare => "prepare",
                };
                write!(f, "{end} {transaction}{}", Clause("on", *on))
            }
            Step::Pull { device, from, page_size } => {
                write!(f, "pull {device}{}", Clause("from", *from))?;
                page_size.map_or(Ok(()), |size| write!(f, " in pages of {size}"))
            }
            Step::Page { device, page_size } => write!(f, "page {device} of {page_size}"),
            Step::Replay { events: None } => f.write_str("replay"),
            Step::Replay { events: Some(events) } => write!(f, "replay {events}"),
            Step::Crash => f.write_str("crash"),
            Step::Failover => f.write_str("failover"),
            Step::LoseOldPrimary => f.write_str("lose old primary"),
            Step::Gets { device, rows } => write!(f, "{device} gets{}", RowList(rows)),
            Step::Holds { device, rows } => write!(f, "{device} holds{}", RowList(rows)),
            Step::IsComplete { device } => write!(f, "{device} is complete"),
        }
    }
}

fn number(word: &str) -> Result<usize, String> {
    word.parse().map_err(|_| format!("{word} is not a number"))
}

fn names(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

fn rows(words: &[&str]) -> Vec<String> {
    names(words).into_iter().filter(|word| word != "nothing").collect()
}

/// Splits the words of a step before the clause that begins with `preposition`, and reads the server that the clause names.
fn server<'a, 'b>(words: &'a [&'b str], preposition: &str) -> Result<(&'a [&'b str], Server), String> {
    let Some(place) = words.iter().position(|word| *word == preposition) else {
        return Ok((words, Server::Primary));
    };
    let server = match &words[place + 1..] {
        ["standby"] => Server::Standby,
        ["old", "primary"] => Server::OldPrimary(None),
        ["old", "primary", place] => Server::OldPrimary(Some(number(place)?)),
        other => return Err(format!("unknown server: {}", other.join(" "))),
    };
    Ok((&words[..place], server))
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Step, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let unknown = || Err(format!("unknown step: {text}"));
        // These come first, because a device may have the name of a verb.
        match words.as_slice() {
            [device, "gets", expected @ ..] => {
                return Ok(Step::Gets { device: device.to_string(), rows: rows(expected) });
            }
            [device, "holds", expected @ ..] => {
                return Ok(Step::Holds { device: device.to_string(), rows: rows(expected) });
            }
            [device, "is", "complete"] => return Ok(Step::IsComplete { device: device.to_string() }),
            _ => {}
        }
        let (&verb, rest) = words.split_first().ok_or("a step is empty")?;
        Ok(match (verb, rest) {
            ("device", [device, user, spaces @ ..]) => {
                Step::Device { device: device.to_string(), user: user.to_string(), spaces: names(spaces) }
            }
            ("room", [device, size]) => Step::Room { device: device.to_string(), transactions: number(size)? },
            ("short-pages", [device]) => Step::ShortPages { device: device.to_string() },
            ("pulls-records", [device]) => Step::PullsRecords { device: device.to_string() },
            ("pulls-changes", [device]) => Step::PullsChanges { device: device.to_string() },
            ("join", [device, space]) => Step::Join { device: device.to_string(), space: space.to_string() },
            ("leave", [device, space]) => Step::Leave { device: device.to_string(), space: space.to_string() },
            ("begin", [transaction]) => Step::Begin { transaction: transaction.to_string() },
            ("savepoint", [transaction]) => Step::Savepoint { transaction: transaction.to_string() },
            ("enter", [device, transaction]) => {
                Step::Enter { device: device.to_string(), transaction: transaction.to_string() }
            }
            ("write" | "update", rest) => {
                let (rest, on) = server(rest, "on")?;
                let (rest, record) = match rest {
                    [rest @ .., "of", record] => (rest, Some(record.to_string())),
                    rest => (rest, None),
                };
                let [transaction, row, user, space @ ..] = rest else { return unknown() };
                if space.len() > 1 {
                    return unknown();
                }
                let (transaction, row, user) = (transaction.to_string(), row.to_string(), user.to_string());
                let space = space.first().map(|space| space.to_string());
                match (verb, record) {
                    ("write", record) => Step::Write { transaction, row, user, space, record, on },
                    (_, Some(record)) => Step::Update { transaction, row, user, space, record, on },
                    (_, None) => return unknown(),
                }
            }
            ("delete", rest) => match server(rest, "on")? {
                ([transaction, row, deleted], on) => Step::Delete {
                    transaction: transaction.to_string(),
                    row: row.to_string(),
                    deleted: deleted.to_string(),
                    on,
                },
                _ => return unknown(),
            },
            ("purge", [transaction, deletes @ ..]) => {
                Step::Purge { transaction: transaction.to_string(), deletes: names(deletes) }
            }
            ("compact", [transaction, rows @ ..]) => {
                Step::Compact { transaction: transaction.to_string(), rows: names(rows) }
            }
            ("commit" | "rollback" | "prepare", rest) => match server(rest, "on")? {
                ([transaction], on) => {
                    let end = match verb {
                        "commit" => End::Commit,
                        "rollback" => End::Rollback,
                        _ => End::Prepare,
                    };
                    Step::End { transaction: transaction.to_string(), end, on }
                }
                _ => return unknown(),
            },
            ("pull", rest) => {
                let (rest, page_size) = match rest {
                    [rest @ .., "in", "pages", "of", size] => (rest, Some(number(size)?)),
                    rest => (rest, None),
                };
                match server(rest, "from")? {
                    ([device], from) => Step::Pull { device: device.to_string(), from, page_size },
                    _ => return unknown(),
                }
            }
            ("page", [device, "of", size]) => Step::Page { device: device.to_string(), page_size: number(size)? },
            ("replay", []) => Step::Replay { events: None },
            ("replay", [events]) => Step::Replay { events: Some(number(events)?) },
            ("crash", []) => Step::Crash,
            ("failover", []) => Step::Failover,
            ("lose", ["old", "primary"]) => Step::LoseOldPrimary,
            _ => return unknown(),
        })
    }
}
