//! Tests of the form of the extension's queries: they are complete files, which a DBA can PREPARE and EXPLAIN, and there is one list of the
//! log's columns.

use std::fs;
use std::path::{Path, PathBuf};

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::{Cluster, Options};

/// The greatest number of lines of a statement in the Rust code. A longer one has to be a file.
const MOST_LINES: usize = 3;

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src")
}

/// Returns all files below a directory whose names have this extension.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(directory).expect("the directory can be read").map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => files(&path, extension),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}

/// PREPARE infers the types of the parameters, so that a file can be pasted into psql as it is.
#[test]
fn every_query_of_the_sources_can_be_prepared_as_it_stands() {
    let cluster = Cluster::with_log(Options::default());
    let mut superuser = cluster.superuser(DATABASE);
    let queries = files(&sources(), "sql");
    assert!(queries.len() > 20, "only {} queries were found", queries.len());
    let failed: Vec<String> = queries
        .iter()
        .filter_map(|path| {
            let query = fs::read_to_string(path).expect("the query can be read");
            let error = superuser.batch_execute(&format!("PREPARE query AS {query}; DEALLOCATE query")).err()?;
            let error = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_string());
            Some(format!("{}: {error}", path.display()))
        })
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// A long statement in the Rust code would be hidden from psql, and a statement that is put together from parts would
/// be hard to read.
#[test]
fn a_long_query_is_a_file_and_is_used() {
    let sources = sources();
    let mut named = Vec::new();
    for path in files(&sources, "rs") {
        let text = fs::read_to_string(&path).expect("the source can be read");
        // The macro itself has other forms.
        for statement in text.split("statement!(").skip(1).filter(|_| !path.ends_with("pg/spi.rs")) {
            let argument = statement.trim_start();
            let (is_sql, argument) = match argument.strip_prefix("sql ") {
                Some(rest) => (true, rest),
                None => (false, argument),
            };
            let literal = argument.strip_prefix('"').and_then(|rest| rest.split('"').next());
            let literal = literal.unwrap_or_else(|| panic!("{}: a statement that is no literal", path.display()));
            match is_sql {
                true => assert!(literal.lines().count() <= MOST_LINES, "{}: {literal}", path.display()),
                false => named.push(path.parent().expect("a directory").join(literal)),
            }
        }
    }
    let mut queries = files(&sources, "sql");
    named.sort();
    named.dedup();
    queries.sort();
    assert_eq!(named, queries, "the files that are named, and those that are there");
}

/// `src/row.rs` knows the columns by their places in the table, and debug builds compare the names of the columns with each row. This test
/// compares them before the first row, and also with the columns that `changes_since` and `export_changes` declare.
#[test]
fn the_columns_of_the_log_are_those_of_the_sources() {
    let row = fs::read_to_string(sources().join("row.rs")).expect("the source can be read");
    let (_, columns) = row.split_once("\ncolumns! {").expect("the list of columns");
    let (columns, rest) = columns.split_once('}').expect("the end of the list");
    let columns: Vec<(&str, &str)> =
        columns.lines().filter_map(|line| line.trim().trim_end_matches(',').split_once(' ')).collect();
    let (_, change) = rest.split_once("pub const CHANGE").expect("the columns of a change");
    let (change, _) = change.split_once("];\n").expect("the end of the list");
    let change: Vec<&str> = change
        .split("Column::")
        .skip(1)
        .filter_map(|part| {
            let name = part.split(',').next()?;
            let (_, column) = columns.iter().find(|(variant, _)| *variant == name)?;
            Some(column.trim_matches('"'))
        })
        .collect();
    let cluster = Cluster::with_log(Options::default());
    let mut superuser = cluster.superuser(DATABASE);
    let mut list = |query: &str| -> Vec<String> {
        superuser.query(query, &[]).expect("the catalog can be read").iter().map(|row| row.get(0)).collect()
    };
    let table = list(
        "SELECT attname::text FROM pg_attribute
         WHERE attrelid = 'mana_sync.sync_changes'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
    );
    assert_eq!(table, columns.iter().map(|(_, name)| name.trim_matches('"')).collect::<Vec<_>>());
    // changes_since has the columns of the original, which had no origin.
    for (function, count) in [("changes_since", change.len() - 1), ("export_changes", change.len())] {
        let result = list(&format!(
            "SELECT a.name FROM pg_proc, unnest(proargnames, proargmodes) WITH ORDINALITY AS a (name, mode, place)
             WHERE oid::regproc::text = 'mana_sync.{function}' AND a.mode = 't' AND a.name <> 'cursor' ORDER BY a.place"
        ));
        assert_eq!(result, change[..count], "{function}");
    }
}

/// The group key is written in each query that searches `sync_changes_record_idx`. If a query wrote it in another way,
/// the planner would not use the index.
#[test]
fn the_group_key_is_written_as_in_its_index() {
    let tables = fs::read_to_string(sources().join("../sql/tables.sql")).expect("the tables can be read");
    let (_, index) = tables.split_once("CREATE INDEX sync_changes_record_idx").expect("the index");
    let (_, key) = index.split_once("CASE WHEN ").expect("the space of the group key");
    let (key, _) = key.split_once(" END").expect("the end of the expression");
    let mut copies = 0;
    for path in files(&sources(), "sql") {
        let query = fs::read_to_string(&path).expect("the query can be read");
        for space in query.split("CASE WHEN ").skip(1).filter(|part| part.contains("space_id IS NULL")) {
            let (expression, _) = space.split_once(" END").expect("the end of the expression");
            let unqualified = expression.replace("c.", "").replace("stored.", "");
            if unqualified.starts_with("space_id IS NULL THEN") {
                assert_eq!(unqualified, key, "{}", path.display());
                copies += 1;
            }
        }
    }
    assert!(copies > 10, "only {copies} copies were found");
}
