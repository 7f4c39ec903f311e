//! Measures the bytes on disk of the same rows in the log and in the store that it replaces.

use mana_sync_harness::Options;
use mana_sync_harness::cluster::DATABASE;
use postgres::Client;

use crate::Result;
use crate::report::{Contract, Figure, Part};
use crate::server::{fill, server};

const ROWS: u64 = 200_000;

/// Returns the bytes per row, including indexes and out-of-line values.
pub fn disk() -> Result<Part> {
    let mut part = Part::new("disk", format!("{ROWS} rows of 200 bytes, one in 500 of 20 kB, as they were written"));
    for (batch, of) in [(1, "one-row transactions"), (1000, "transactions of 1,000 rows")] {
        let cluster = server(Options::default())?;
        let mut owner = cluster.superuser(DATABASE);
        fill(&mut owner, "others", 0..ROWS, batch)?;
        let ours = bytes_a_row(&mut owner, "mana_sync.sync_changes")?;
        let theirs = bytes_a_row(&mut owner, "original.sync_changes")?;
        let (what, against) = (format!("a row on disk, {of}"), format!("the original, {of}"));
        part.compare_figures((&what, ours), (&against, theirs), "bytes", Some(Contract::AtMost(0.9)));
        for row in owner.query(
            "SELECT n.nspname || '.' || c.relname, pg_relation_size(c.oid) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
             WHERE n.nspname IN ('mana_sync', 'original') AND c.relname ~ 'sync_changes' AND c.relkind IN ('r', 'i')
             ORDER BY n.nspname, c.relkind DESC, c.relname",
            &[],
        )? {
            let (name, bytes): (String, i64) = (row.get(0), row.get(1));
            part.figures.push(Figure::once(format!("{name} alone, {of}"), bytes as f64 / ROWS as f64, "bytes"));
        }
    }
    Ok(part)
}

fn bytes_a_row(owner: &mut Client, table: &str) -> Result<f64> {
    let bytes: i64 = owner.query_one(&format!("SELECT pg_total_relation_size('{table}')"), &[])?.get(0);
    Ok(bytes as f64 / ROWS as f64)
}
