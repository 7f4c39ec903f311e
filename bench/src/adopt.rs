//! Measures the adoption of a log of the original store compared with a plain INSERT … SELECT of the same rows into the same table.

use mana_sync_harness::Options;
use mana_sync_harness::cluster::DATABASE;

use crate::Result;
use crate::report::{Contract, Part};
use crate::server::{fill, server};
use crate::times::{Times, rounds};

const ROWS: u64 = 1_000_000;

/// The INSERT … SELECT. It is one transaction, and reads the rows in the order in which they lie in the original's table.
const INSERT: &str = "INSERT INTO mana_sync.sync_changes (id, created_at, schema_version, user_id, app_id, table_name, record_id, op,
        client_id, space_id, data, field_timestamps, actor)
    SELECT id, created_at, schema_version, user_id, app_id, table_name, record_id, op, client_id, space_id, data, field_timestamps, actor
    FROM original.sync_changes";

/// Measures `adopt` and [`INSERT`] as a superuser, without row-level security. A round takes a minute or two, so there are at most three.
pub fn adopt(count: usize) -> Result<Part> {
    let count = count.min(3);
    let cluster = server(Options::default())?;
    let mut owner = cluster.superuser(DATABASE);
    fill(&mut owner, "others", 0..ROWS, 1000)?;
    let mut times = [
        Times::new("INSERT … SELECT of the same rows into the same table"),
        Times::new("adopt of 1,000,000 rows"),
        Times::new("adopt again, nothing new"),
    ];
    rounds(count, &mut times, |_, alternative, times| {
        if alternative < 2 {
            owner.batch_execute("TRUNCATE mana_sync.sync_changes, mana_sync.adopted_ids")?;
            owner.batch_execute("CHECKPOINT")?;
        }
        let statement = if alternative == 0 { INSERT } else { "CALL mana_sync.adopt('original.sync_changes')" };
        times.measure(|| Ok(owner.batch_execute(statement)?))?;
        assert_eq!(owner.query_one("SELECT count(*) FROM mana_sync.sync_changes", &[])?.get::<_, i64>(0), ROWS as i64);
        Ok(())
    })?;
    let about = format!("{ROWS} rows of 200 bytes, one in 500 of 20 kB, batches of 10,000, {count} rounds");
    let mut part = Part::new("adopt", about);
    part.compare(&times[1], &times[0], Some(Contract::AtLeast(0.7)));
    times[..2].iter().for_each(|times| part.rate(times, ROWS as usize));
    part.duration(&times[2]);
    Ok(part)
}
