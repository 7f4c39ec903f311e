//! The programs of docs/drivers.md, with the drivers that they are about.
//!
//! Fails if one of them does not print what the page says; if what the page calls wrong works; or if a driver whose prepared statements are
//! turned off fails behind PgBouncer all the same. Where a driver could not be had, that is said and counted as skipped.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mana_sync_servers::bouncer::{Bouncer, PORT};
use mana_sync_servers::cluster::{APP_ROLE, DATABASE};
use mana_sync_servers::process::program;
use mana_sync_servers::{Cluster, Options};
use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A program of the page, and its output.
fn of_page(name: &str) -> (String, String) {
    let page = std::fs::read_to_string(root().join("docs/drivers.md")).expect("the page is there");
    let (_, rest) = page.split_once(&format!("<!-- {name} -->\n")).unwrap_or_else(|| panic!("the page has no {name}"));
    let mut blocks =
        rest.split("```").skip(1).step_by(2).map(|block| block.split_once('\n').expect("lines").1.to_string());
    (blocks.next().expect("the program"), blocks.next().expect("its output"))
}

/// What runs programs of a kind, as scripts/drivers.sh has set it up.
fn interpreter(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn skipped(name: &str) {
    println!("skipped: {name}, its driver could not be installed; see scripts/drivers.sh");
}

/// Runs a program with the environment that the page speaks of.
fn run(mut command: Command, host: &str, port: u16) -> Output {
    command.env("PGHOST", host).env("PGPORT", port.to_string()).env("PGUSER", APP_ROLE).env("PGDATABASE", DATABASE);
    command.env("USER", APP_ROLE).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    // psql puts blanks behind the titles of its columns.
    String::from_utf8_lossy(bytes).lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Writes a program into a directory, and returns what runs it.
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

/// Runs a program of the page, changed or not, on a log of its own.
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

/// The one of the page is compiled as an example of this crate.
#[test]
fn tokio_postgres() {
    let (source, expected) = of_page("tokio_postgres.rs");
    let file = std::fs::read_to_string(root().join("tests/servers/examples/tokio_postgres.rs")).expect("the example");
    assert_eq!(source, file, "the page and the example are the same");
    let test = std::env::current_exe().expect("a path");
    let built = test.ancestors().nth(2).expect("the directory of the build").join("examples/tokio_postgres");
    let cluster = Cluster::with_log(Options::default());
    let output = run(Command::new(built), &cluster.socket_dir().display().to_string(), 5432);
    assert_eq!(text(&output.stdout), text(expected.as_bytes()), "{}", text(&output.stderr));
}

/// A client that runs a query twice, the second time in a transaction (outside of one the driver tries again by itself), while another client
/// has the pooler's connection on which it was prepared.
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

#[test]
fn postgres_js_behind_a_pooler_that_knows_no_prepared_statements() {
    let Some(pgbouncer) = interpreter("MANA_SYNC_PGBOUNCER") else {
        println!("skipped: PgBouncer is not there");
        return;
    };
    if interpreter("MANA_SYNC_NODE_MODULES").is_none() {
        return skipped("postgres.js");
    }
    let cluster = Cluster::with_log(Options::default());
    let bouncer = Bouncer::new(&cluster, &pgbouncer, 2);
    for (options, expected) in [("{}", "26000"), (r#"{"prepare": false}"#, "false")] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = written(&dir, "beside.mjs", BESIDE_ANOTHER).expect("node is there");
        command.arg(options);
        let output = run(command, &bouncer.socket_dir().display().to_string(), PORT);
        assert_eq!(text(&output.stdout), expected, "{options}: {}", text(&output.stderr));
    }
}
