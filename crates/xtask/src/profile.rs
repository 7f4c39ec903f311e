//! Counts the instructions of one call in the server with callgrind, and shows where they go. Unlike times, the counts
//! are the same on a busy machine.

use std::collections::HashMap;
use std::fs;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use duct::cmd;

use crate::cluster::Cluster;
use crate::install;
use crate::postgres::PrivateCopy;
use crate::project::{Project, by_server_user, say, which};

/// The SQL that writes the records which a push changes, and that makes the body of the push.
const PUSH: &str = include_str!("profile/push.sql");
/// The SQL of an INSERT of one change.
const INSERT: &str = include_str!("profile/insert.sql");
/// The SQL of a scan of one page.
const SCAN: &str = include_str!("profile/scan.sql");

#[derive(clap::Args)]
pub struct Arguments {
    /// The call
    call: Call,
    /// How many spaces the reader of `empty` and `probe` names
    #[arg(default_value_t = 100)]
    spaces: u32,
    /// Rows of the log
    #[arg(long, env = "ROWS", default_value_t = 500_000, hide_env_values = true)]
    rows: u64,
    /// How many functions are shown
    #[arg(long, env = "LINES", default_value_t = 60, hide_env_values = true)]
    lines: usize,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Call {
    /// A change, by the application's role (compare insert)
    RecordChange,
    /// The change of `record_change`, by a prepared INSERT of the owner of the log
    Insert,
    /// A page of 1,000 rows (compare scan)
    ChangesSince,
    /// The rows of `changes_since`, by an index scan without functions
    Scan,
    /// A page of 1,000 rows as JSON
    Pull,
    /// A push of 1,000 changes, each with its space
    Push,
    /// A push of 1,000 changes without their spaces, which are looked up
    PushUnnamed,
    /// A pull of many spaces that brings nothing
    Empty,
    /// A pull of many spaces that brings nothing, although others have written since
    Probe,
}

impl Call {
    /// The numbers of calls of the statement in two runs. The difference between the runs is the cost of the calls
    /// alone, without the cost of the start.
    fn counts(self) -> [u32; 2] {
        match self {
            Self::RecordChange | Self::Insert => [100, 600],
            Self::ChangesSince | Self::Scan | Self::Pull => [5, 25],
            Self::Push | Self::PushUnnamed => [2, 10],
            Self::Empty | Self::Probe => [20, 120],
        }
    }

    /// The statement of the call. It has two parameters, a text and a jsonb.
    fn statement(self, empty_pull: &str) -> &str {
        match self {
            Self::RecordChange => {
                "SELECT mana_sync.record_change('app', 'notes', $1, 'ann', NULL, 'insert', 'phone', $2)"
            }
            Self::Insert => INSERT,
            Self::ChangesSince => {
                "SELECT count(client_id) FROM mana_sync.changes_since('own1', 'app', page_size => 1000)"
            }
            Self::Scan => SCAN,
            Self::Pull => "SELECT length(mana_sync.pull('own1', 'app', page_size => 1000)::text)",
            Self::Push | Self::PushUnnamed => {
                "SELECT mana_sync.push('ann', 'app', body, space_ids => '{team0,team1,team2}') FROM bench.body"
            }
            Self::Empty | Self::Probe => empty_pull,
        }
    }

    /// Makes the input of a server without a postmaster: one statement on each line.
    fn script(self, empty_pull: &str, count: u32) -> String {
        let mut lines = match self {
            Self::Insert => vec![],
            Self::Scan => ["seqscan", "bitmapscan", "sort"].map(|kind| format!("SET enable_{kind} = off")).into(),
            _ => vec!["SET ROLE app".to_string()],
        };
        let statement = self.statement(empty_pull).lines().filter(|line| !line.starts_with("--"));
        let statement = statement.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ");
        lines.push(format!("PREPARE call (text, jsonb) AS {statement}"));
        let text = "0123456789".repeat(10);
        let data = format!(r#"{{"title": "Item", "done": false, "rank": 17, "text": "{text}"}}"#);
        lines.extend((1..=count).map(|i| format!("EXECUTE call('{}', '{data}')", i * 7919 % 100_003)));
        lines.join("\n") + "\n"
    }
}

/// Profiles a call with a release build on a private server.
pub fn run(project: &Project, server: &PrivateCopy, arguments: &Arguments) -> Result<()> {
    ensure!(which("valgrind").is_some(), "valgrind is not installed");
    install::into_private_copy(project, server, true)?;
    let cluster = Cluster::start(project, server, &[])?;
    let empty_pull = prepare(project, &cluster, arguments)?;
    cluster.stop()?;

    let counts = arguments.call.counts();
    let mut instructions = Vec::new();
    for count in counts {
        say(format!("{count} calls under callgrind"));
        instructions.push(count_instructions(server, &cluster, &arguments.call.script(&empty_pull, count), count)?);
    }
    println!("Instructions of one call, with those of the functions that it calls:");
    let calls = f64::from(counts[1] - counts[0]);
    for (name, count) in difference(&instructions[0], &instructions[1]).into_iter().take(arguments.lines) {
        println!("{:12.0}  {name}", count as f64 / calls);
    }
    Ok(())
}

/// Writes a log and the other data that the call needs. Returns the statement of a pull that brings nothing.
fn prepare(project: &Project, cluster: &Cluster, arguments: &Arguments) -> Result<String> {
    say("Writing a log");
    let psql = |options: &[&str]| cluster.script("postgres", ["-A", "-t"].iter().chain(options).copied());
    let file = |name: &str| project.root.join("bench").join(name).display().to_string();
    let create = "CREATE EXTENSION mana_sync; CREATE ROLE app LOGIN; SELECT mana_sync.grant_access('app')";
    psql(&["-c", create, "-f", &file("original.sql"), "-f", &file("log.sql")]).stdout_null().run()?;
    let last = arguments.rows.saturating_sub(1);
    for fill in [format!("CALL bench.fill('others', 0, {last}, 1000)"), "CALL bench.fill('walks', 0, 9999, 1)".into()] {
        psql(&["-c", "SET synchronous_commit = off", "-c", &fill]).run()?;
    }
    psql(&["-c", "VACUUM (ANALYZE)", "-c", "ALTER SYSTEM SET autovacuum = off"]).run()?;
    if matches!(arguments.call, Call::Push | Call::PushUnnamed) {
        let named = format!("named={}", arguments.call == Call::Push);
        psql(&["-v", &named, "-f", "-"]).stdin_bytes(PUSH).run()?;
    }

    let spaces: Vec<String> = (0..arguments.spaces).map(|space| format!("space{space}")).collect();
    let pull = |cursor: &str| {
        let spaces = spaces.join(",");
        format!(
            "mana_sync.changes_since('user5', 'app', page_size => 5000, space_ids => '{{{spaces}}}', since => '{cursor}')"
        )
    };
    let mut cursor = String::new();
    if matches!(arguments.call, Call::Empty | Call::Probe) {
        loop {
            let sql = format!("SELECT cursor FROM {} WHERE cursor IS NOT NULL", pull(&cursor));
            let next = psql(&["-U", "app", "-c", &sql.replace("since => ''", "since => NULL")]).read()?;
            if next.is_empty() {
                break;
            }
            cursor = next;
        }
        ensure!(!cursor.is_empty(), "the reader has no row");
    }
    if arguments.call == Call::Probe {
        psql(&["-c", "SELECT pg_current_xact_id()"]).stdout_null().run()?;
    }
    Ok(format!("SELECT count(client_id) FROM {}", pull(&cursor)))
}

/// Runs a script in a server without a postmaster. Returns the number of instructions of each function, including the
/// functions that it calls.
fn count_instructions(
    server: &PrivateCopy,
    cluster: &Cluster,
    script: &str,
    count: u32,
) -> Result<HashMap<String, i64>> {
    let [profile, output] = ["callgrind", "output"].map(|name| cluster.path().join(format!("{name}.{count}")));
    let option = format!("--callgrind-out-file={}", profile.display());
    let settings = ["-c", "fsync=off", "-c", "synchronous_commit=off", "postgres"];
    let postgres = [server.program("postgres").display().to_string(), "--single".into(), "-D".into()];
    let data = cluster.data().display().to_string();
    let valgrind = ["--tool=callgrind".into(), option].into_iter().chain(postgres).chain([data]);
    let call = duct::cmd("valgrind", valgrind.chain(settings.map(String::from)));
    let call = by_server_user(call).stdin_bytes(script).stderr_to_stdout().stdout_path(&output).unchecked();
    let ended = cluster.prepare(call).run()?;
    let said = String::from_utf8_lossy(&fs::read(&output)?).into_owned();
    let errors: Vec<&str> = said.lines().filter(|line| line.contains("ERROR") || line.contains("FATAL")).collect();
    if !ended.status.success() || !errors.is_empty() {
        let lines: Vec<&str> = said.lines().collect();
        let last = &lines[lines.len().saturating_sub(5)..];
        bail!("the call failed\n{}", [&errors[..], last].concat().join("\n"));
    }
    Ok(functions(&cmd!("callgrind_annotate", "--inclusive=yes", "--threshold=100", &profile).read()?))
}

/// Parses the functions that callgrind_annotate lists: `1,234 (56.7%)  file.c:function [library]`.
fn functions(annotated: &str) -> HashMap<String, i64> {
    let mut functions = HashMap::new();
    for line in annotated.lines() {
        let Some((count, rest)) = line.trim_start().split_once(" (") else { continue };
        let (Ok(count), Some((_, name))) = (count.replace(',', "").parse::<i64>(), rest.split_once(')')) else {
            continue;
        };
        let name = name.trim_start();
        let name = name.split_once(" [").map_or(name, |(name, _)| name);
        *functions.entry(name.strip_prefix("???:").unwrap_or(name).to_string()).or_default() += count;
    }
    functions
}

/// Returns how many more instructions each function has in `after` than in `before`. The greatest difference comes
/// first.
fn difference(before: &HashMap<String, i64>, after: &HashMap<String, i64>) -> Vec<(String, i64)> {
    // A recursive function is listed again, under a name that ends with `'2`.
    let counted = after.iter().filter(|(name, _)| !name.ends_with("'2"));
    let mut difference: Vec<(String, i64)> =
        counted.map(|(name, count)| (name.clone(), count - before.get(name).unwrap_or(&0))).collect();
    difference.sort_by(|(one, less), (other, more)| more.cmp(less).then_with(|| one.cmp(other)));
    difference
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANNOTATED: &str = "\
--------------------------------------------------------------------------------
Ir
--------------------------------------------------------------------------------
12,345,678 (100.0%)  PROGRAM TOTALS

 1,234,567 (56.70%)  ./src/x.c:ExecutorRun [/pg/bin/postgres]
     1,000 ( 0.05%)  ???:mana_sync::pull [/pg/lib/mana_sync.so]
       500 ( 0.02%)  ???:walk'2 [/pg/lib/mana_sync.so]
";

    #[test]
    fn functions_have_their_instructions() {
        let functions = functions(ANNOTATED);
        assert_eq!(functions["./src/x.c:ExecutorRun"], 1_234_567);
        assert_eq!(functions["mana_sync::pull"], 1000);
        assert_eq!(functions.len(), 4);
    }

    #[test]
    fn the_difference_has_no_recursive_name_and_the_most_comes_first() {
        let before = HashMap::from([("mana_sync::pull".to_string(), 400)]);
        let difference = difference(&before, &functions(ANNOTATED));
        let names: Vec<&str> = difference.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["PROGRAM TOTALS", "./src/x.c:ExecutorRun", "mana_sync::pull"]);
        assert_eq!(difference[2].1, 600);
    }

    #[test]
    fn a_script_has_a_statement_a_line() {
        let script = Call::Insert.script("", 2);
        let lines: Vec<&str> = script.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("PREPARE call (text, jsonb) AS INSERT INTO mana_sync.sync_changes"));
        assert!(lines[1].starts_with("EXECUTE call('7919', '{"));
        assert_eq!(Call::Pull.script("", 1).lines().next(), Some("SET ROLE app"));
    }
}
