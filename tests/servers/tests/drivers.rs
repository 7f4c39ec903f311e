//! Runs the example programs of docs/drivers.md with the drivers that they describe.
//!
//! Fails if a program does not print what the document shows; if code that the document calls wrong works; or if a
//! driver without prepared statements fails behind PgBouncer. A test whose driver is not available says so and counts
//! as skipped.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mana_sync_harness::bouncer::{Bouncer, PORT};
use mana_sync_harness::cluster::{APP_ROLE, DATABASE};
use mana_sync_harness::process::program;
use mana_sync_harness::{Cluster, Options};
use postgres::types::Json;
use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns a program of docs/drivers.md, and the output that the document shows.
fn of_page(name: &str) -> (String, String) {
    let page = std::fs::read_to_string(root().join("docs/drivers.md")).expect("the page is there");
    let (_, rest) = page.split_once(&format!("<!-- {name} -->\n")).unwrap_or_else(|| panic!("the page has no {name}"));
    let mut blocks =
        rest.split("```").skip(1).step_by(2).map(|block| block.split_once('\n').expect("lines").1.to_string());
    (blocks.next().expect("the program"), blocks.next().expect("its output"))
}

/// Returns the interpreter that `cargo xtask drivers` has put into an environment variable; `None` if there is none.
fn interpreter(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn skipped(name: &str) {
    println!("skipped: {name}, its driver could not be installed; see `cargo xtask drivers`");
}

/// Runs a program with the environment variables that docs/drivers.md describes.
fn run(mut command: Command, host: &str, port: u16) -> Output {
    command.env("PGHOST", host).env("PGPORT", port.to_string()).env("PGUSER", APP_ROLE).env("PGDATABASE", DATABASE);
    command.env("USER", APP_ROLE).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    // psql pads column titles with blanks.
    String::from_utf8_lossy(bytes).lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Writes a program to a file in a directory. Returns the command that runs it; `None` if its driver is missing.
fn written(dir: &TempDir, name: &str, source: &str) -> Option<Command> {
    let path = dir.path().join(name);
    std::fs::write(&path, source).expect("it can be written");
    let with = |program: PathBuf| {
        let mut command = Command::new(program);
        command.arg(&path).current_dir(dir.path());
        command
    };
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("py") => Some(with(interpreter("MANA_SYNC_PYTHON")?)),
        Some("mjs") => {
            let modules = interpreter("MANA_SYNC_NODE_MODULES")?;
            std::os::unix::fs::symlink(modules, dir.path().join("node_modules")).expect("a link");
            Some(with("node".into()))
        }
        Some("sql") => {
            let mut psql = Command::new(program("psql"));
            psql.args(["-X", "-q", "-f"]).arg(&path);
            Some(psql)
        }
        _ => panic!("{name} is no program"),
    }
}

/// Runs a program of docs/drivers.md on a new log. `change` may change the program before. Returns `None` if the driver
/// is missing.
fn output_of(name: &str, change: impl FnOnce(String) -> String) -> Option<Output> {
    let dir = tempfile::tempdir().expect("a directory");
    let command = written(&dir, name, &change(of_page(name).0))?;
    let cluster = Cluster::with_log(Options::default());
    Some(run(command, &cluster.socket_dir().display().to_string(), 5432))
}

#[track_caller]
fn assert_prints_what_the_page_says(name: &str) {
    match output_of(name, |source| source) {
        None => skipped(name),
        Some(output) => {
            assert_eq!(text(&output.stdout), text(of_page(name).1.as_bytes()), "{name}: {}", text(&output.stderr));
        }
    }
}

#[test]
fn psycopg() {
    assert_prints_what_the_page_says("with_psycopg.py");
}

#[test]
fn psycopg_with_json_and_not_jsonb_does_not_find_the_function() {
    match output_of("with_psycopg.py", |source| source.replace("Jsonb", "Json")) {
        None => skipped("with_psycopg.py"),
        Some(output) => {
            let errors = text(&output.stderr);
            assert!(errors.contains("UndefinedFunction") && errors.contains("json, "), "{errors}");
        }
    }
}

#[test]
fn asyncpg() {
    assert_prints_what_the_page_says("with_asyncpg.py");
}

#[test]
fn node_postgres() {
    assert_prints_what_the_page_says("pg.mjs");
}

#[test]
fn postgres_js() {
    assert_prints_what_the_page_says("postgres.mjs");
}

#[test]
fn psql() {
    assert_prints_what_the_page_says("psql.sql");
}

/// Cargo builds the program of docs/drivers.md before it runs the tests of this crate.
#[test]
fn tokio_postgres() {
    let (source, expected) = of_page("tokio_postgres.rs");
    let file = std::fs::read_to_string(root().join("tests/servers/src/bin/tokio_postgres.rs")).expect("the example");
    assert_eq!(source, file, "the page and the example are the same");
    let cluster = Cluster::with_log(Options::default());
    let built = Command::new(env!("CARGO_BIN_EXE_tokio_postgres"));
    let output = run(built, &cluster.socket_dir().display().to_string(), 5432);
    assert_eq!(text(&output.stdout), text(expected.as_bytes()), "{}", text(&output.stderr));
}

/// tokio-postgres does not accept a `&str` for a jsonb parameter, and refuses it before it sends anything.
#[test]
fn tokio_postgres_takes_json_as_text_with_a_cast_or_as_a_type_of_json() {
    let cluster = Cluster::with_log(Options::default());
    let mut app = cluster.app(DATABASE);
    let changeset = r#"{"changes": [{"table": "items", "id": "milk", "op": "insert", "data": {}}]}"#;
    let error =
        app.query_one("SELECT mana_sync.push('ada', 'todo', $1)", &[&changeset]).expect_err("a text is no jsonb");
    assert!(error.to_string().contains("error serializing parameter 0"), "{error}");
    let value: serde_json::Value = serde_json::from_str(changeset).unwrap();
    let inserted = |answer: postgres::Row| answer.get::<_, serde_json::Value>(0)["inserted"].to_string();
    let as_text = app.query_one("SELECT mana_sync.push('ada', 'todo', $1::text::jsonb)", &[&changeset]).unwrap();
    assert_eq!(inserted(as_text), "1");
    let as_value = app.query_one("SELECT mana_sync.push('ada', 'todo', $1)", &[&value]).unwrap();
    assert_eq!(inserted(as_value), "1");
    let as_json = app.query_one("SELECT mana_sync.push('ada', 'todo', $1)", &[&Json(&value)]).unwrap();
    assert_eq!(inserted(as_json), "1");
}

/// postgres.js turns a text for `$1::jsonb` into a JSON string. The extension refuses it; otherwise it would be a push
/// without changes.
#[test]
fn postgres_js_makes_a_json_string_of_a_text_without_a_cast_to_text() {
    const SOURCE: &str = r#"
import postgres from "postgres";
const sql = postgres();
const changeset = JSON.stringify({ changes: [{ table: "items", id: "milk", op: "insert", data: {} }] });
const [{ inserted }] = await sql`SELECT mana_sync.push('ada', 'todo', ${changeset}::text::jsonb) ->> 'inserted' AS inserted`;
console.log(inserted);
await sql`SELECT mana_sync.push('ada', 'todo', ${changeset}::jsonb)`.catch((error) => console.log(error.code, error.message));
await sql.end();
"#;
    let dir = tempfile::tempdir().expect("a directory");
    let Some(command) = written(&dir, "text.mjs", SOURCE) else { return skipped("postgres.js") };
    let cluster = Cluster::with_log(Options::default());
    let output = run(command, &cluster.socket_dir().display().to_string(), 5432);
    assert_eq!(text(&output.stdout), "1\n22023 changeset must be an object", "{}", text(&output.stderr));
}

/// Starts a cluster behind PgBouncer, which has two connections to the cluster for all clients. Without PgBouncer it
/// says so and returns `None`.
fn pooled() -> Option<(Cluster, Bouncer)> {
    let Some(pgbouncer) = interpreter("MANA_SYNC_PGBOUNCER") else {
        println!("skipped: PgBouncer is not there");
        return None;
    };
    let cluster = Cluster::with_log(Options::default());
    let bouncer = Bouncer::new(&cluster, &pgbouncer, 2);
    Some((cluster, bouncer))
}

/// Runs a program behind PgBouncer with the option of each case, and compares its output with that of the case. In each
/// program a client runs a query until its driver has prepared it, and runs it again while another client holds the
/// server connection on which it was prepared.
fn assert_behind_a_pooler(name: &str, source: &str, cases: &[(&str, &str)]) {
    let Some((_cluster, bouncer)) = pooled() else { return };
    for (options, expected) in cases {
        let dir = tempfile::tempdir().expect("a directory");
        let Some(mut command) = written(&dir, name, source) else { return skipped(name) };
        command.arg(options);
        let output = run(command, &bouncer.socket_dir().display().to_string(), PORT);
        assert_eq!(text(&output.stdout), *expected, "{name} {options}: {}", text(&output.stderr));
    }
}

#[test]
fn psycopg_behind_a_pooler_that_knows_no_prepared_statements() {
    const SOURCE: &str = r#"
import json, sys, psycopg

options = json.loads(sys.argv[1])
one, other = [psycopg.connect("", autocommit=True, **options) for _ in range(2)]
query = "SELECT mana_sync.pull('ben', 'todo', since => %s) ->> 'hasMore'"
for _ in range(10):
    one.execute(query, (None,))
with other.transaction():
    other.execute("SELECT 1")
    try:
        print(one.execute(query, (None,)).fetchone()[0])
    except psycopg.Error as error:
        print(error.sqlstate)
"#;
    assert_behind_a_pooler("beside.py", SOURCE, &[("{}", "26000"), (r#"{"prepare_threshold": null}"#, "false")]);
}

#[test]
fn asyncpg_behind_a_pooler_that_knows_no_prepared_statements() {
    const SOURCE: &str = r#"
import asyncio, json, sys, asyncpg

async def main():
    options = json.loads(sys.argv[1])
    one, other = [await asyncpg.connect(**options) for _ in range(2)]
    query = "SELECT mana_sync.pull('ben', 'todo', since => $1) ->> 'hasMore'"
    await one.fetchval(query, None)
    async with other.transaction():
        await other.fetchval("SELECT 1")
        try:
            print(await one.fetchval(query, None))
        except asyncpg.PostgresError as error:
            print(error.sqlstate)

asyncio.run(main())
"#;
    assert_behind_a_pooler("beside.py", SOURCE, &[("{}", "26000"), (r#"{"statement_cache_size": 0}"#, "false")]);
}

/// node-postgres prepares only named queries.
#[test]
fn node_postgres_behind_a_pooler_that_knows_no_prepared_statements() {
    const SOURCE: &str = r#"
import pg from "pg";

const [one, other] = [new pg.Client(), new pg.Client()];
await one.connect();
await other.connect();
const text = "SELECT mana_sync.pull('ben', 'todo', since => $1) ->> 'hasMore' AS more";
const query = { text, values: [null], ...JSON.parse(process.argv[2]) };
await one.query(query);
await other.query("BEGIN");
await other.query("SELECT 1");
console.log(await one.query(query).then(({ rows }) => rows[0].more, (error) => error.code));
await other.query("COMMIT");
await one.end();
await other.end();
"#;
    assert_behind_a_pooler("beside.mjs", SOURCE, &[(r#"{"name": "pull"}"#, "26000"), ("{}", "false")]);
}

/// The second query of the client is in a transaction, because outside a transaction postgres.js retries by itself.
#[test]
fn postgres_js_behind_a_pooler_that_knows_no_prepared_statements() {
    assert_behind_a_pooler("beside.mjs", BESIDE_ANOTHER, &[("{}", "26000"), (r#"{"prepare": false}"#, "false")]);
}

/// Drivers in several processes use the same names for prepared statements. docs/drivers.md says that a pooler without
/// support for prepared statements then runs the statement of another client, and that `query_typed` avoids this. The
/// test fails if one of the two is wrong.
#[test]
fn tokio_postgres_behind_a_pooler_that_knows_no_prepared_statements() {
    let Some((_cluster, bouncer)) = pooled() else { return };
    let answer = |row: postgres::Row| row.get::<_, String>(0);
    let [mut one, mut other] = [bouncer.connect(), bouncer.connect()];
    let mut transaction = one.transaction().unwrap();
    let mine = transaction.prepare("SELECT 'mine'").unwrap();
    let names = transaction.query_typed("SELECT name FROM pg_prepared_statements", &[]).unwrap();
    let name = answer(names.into_iter().next().expect("it has a name"));
    // The driver in another process counts its statements from the same number.
    let mut beside = other.transaction().unwrap();
    beside.batch_execute(&format!("PREPARE {name} AS SELECT 'of another client'")).unwrap();
    transaction.commit().unwrap();
    beside.commit().unwrap();
    // PgBouncer hands out the connection that was used last, which is that of the other client.
    let mut transaction = one.transaction().unwrap();
    assert_eq!(answer(transaction.query_one(&mine, &[]).unwrap()), "of another client");
    assert_eq!(answer(transaction.query_typed("SELECT 'mine'", &[]).unwrap().remove(0)), "mine");
    transaction.commit().unwrap();
}

/// A program with two clients. One runs a query twice; before the second time, the other takes the server connection on
/// which the query was prepared. The second time is in a transaction, because outside a transaction the driver retries
/// by itself.
const BESIDE_ANOTHER: &str = r#"
import postgres from "postgres";
const options = { max: 1, ...JSON.parse(process.argv[2]) };
const [one, other] = [postgres(options), postgres(options)];
const query = (sql) => sql`SELECT mana_sync.pull('ben', 'todo', since => ${null}) ->> 'hasMore' AS more`;
await query(one);
await other.begin(async (busy) => {
  await busy`SELECT 1`;
  try {
    console.log(await one.begin(async (transaction) => (await query(transaction))[0].more));
  } catch (error) {
    console.log(error.code);
  }
});
await Promise.all([one.end(), other.end()]);
"#;
