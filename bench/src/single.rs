//! Measures single changes: `record_change`, compared with the transaction of the original store and with a bare INSERT
//! into the same table.

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::{Cluster, Options};

use crate::Result;
use crate::report::{Contract, Part};
use crate::server::{Script, pgbench, server};
use crate::times::{Times, in_turns};

/// JSON of about 200 bytes. It has no blanks, which pgbench would not pass on.
pub const DATA: &str = r#"{"title":"Item","done":false,"rank":17,"text":"cfcd208495d565ef66e7dff9f98764da-c4ca4238a0b923820dcc509a6f75849b-c81e728d9d4c2f636f067f89cc14862c"}"#;

/// A change by `record_change`.
pub const RECORD_CHANGE: Script = Script {
    sql: "\\set id random(1, 100000000)
SELECT mana_sync.record_change('app', 'notes', :id::text, 'ann', NULL, 'insert', 'phone', :data)",
    as_owner: false,
    variables: &[("data", DATA)],
};

/// A change in the original store, which takes five round trips.
pub const ORIGINAL: Script = Script {
    sql: "\\set id random(1, 100000000)
BEGIN;
SELECT set_config('app.current_user_id', 'ann', true);
SELECT set_config('app.current_user_space_ids', '', true);
INSERT INTO original.sync_changes (app_id, table_name, record_id, user_id, space_id, op, data, field_timestamps, client_id, schema_version, actor) VALUES ('app', 'notes', :id::text, 'ann', NULL, 'insert', :data, '{}', 'phone', 1, NULL);
COMMIT;",
    as_owner: false,
    variables: &[("data", DATA)],
};

/// The lower bound of the cost: an INSERT without a function and without row-level security.
const INSERT: Script = Script {
    sql: "\\set id random(1, 100000000)
INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, data, field_timestamps, client_id, schema_version, actor) VALUES ('app', 'notes', :id::text, 'ann', NULL, 'insert', :data, '{}', 'phone', 1, NULL)",
    as_owner: true,
    variables: &[("data", DATA)],
};

/// The INSERT of a change with a given epoch, which saves the look-up of the epoch.
const INSERT_WITH_EPOCH: Script = Script {
    sql: "\\set id random(1, 100000000)
INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, data, field_timestamps, client_id, schema_version, actor, epoch) VALUES ('app', 'notes', :id::text, 'ann', NULL, 'insert', :data, '{}', 'phone', 1, NULL, 1)",
    as_owner: true,
    variables: &[("data", DATA)],
};

/// The numbers of clients in the plot.
const CLIENTS: [usize; 5] = [1, 2, 4, 8, 16];

const SECONDS: u32 = 2;

/// Returns ratios for both settings of `synchronous_commit`, and the throughput by number of clients.
pub fn single(count: usize) -> Result<Vec<Part>> {
    ["off", "on"].into_iter().map(|setting| part(setting, count)).collect()
}

fn part(synchronous_commit: &str, count: usize) -> Result<Part> {
    let cluster = server(Options::default())?;
    // The first change opens the epoch.
    pgbench(&cluster, &RECORD_CHANGE, 1, 1, "")?;
    let options = format!("-c synchronous_commit={synchronous_commit}");
    let alternatives = [
        ("record_change, one row", RECORD_CHANGE),
        ("the original's transaction", ORIGINAL),
        ("a bare INSERT, as the owner", INSERT),
        ("a bare INSERT with the epoch given", INSERT_WITH_EPOCH),
    ];
    let mut times: Vec<Times> = alternatives
        .iter()
        .map(|(name, _)| Times::new(format!("{name}, synchronous_commit {synchronous_commit}")))
        .collect();
    in_turns(count, &mut times, |i| pgbench(&cluster, &alternatives[i].1, 1, SECONDS, &options))?;
    let mut part = Part::new(
        "single",
        format!("one client, synchronous_commit {synchronous_commit}, {count} rounds of {SECONDS} s by pgbench"),
    );
    let [ours, original, insert, with_epoch] = &times[..] else { unreachable!("four of them") };
    part.compare(ours, original, (synchronous_commit == "off").then_some(Contract::AtLeast(2.0)));
    part.compare(ours, insert, Some(Contract::AtLeast(0.8)));
    part.compare(insert, with_epoch, None);
    times.iter().for_each(|times| part.rate(times, 1));
    throughput(&cluster, &mut part, synchronous_commit)?;
    Ok(part)
}

fn throughput(cluster: &Cluster, part: &mut Part, synchronous_commit: &str) -> Result<()> {
    let plot = format!("throughput, synchronous_commit {synchronous_commit}");
    let options = format!("-c synchronous_commit={synchronous_commit}");
    for clients in CLIENTS {
        for (name, script) in [("record_change", RECORD_CHANGE), ("the original", ORIGINAL), ("bare INSERT", INSERT)] {
            let seconds = pgbench(cluster, &script, clients, SECONDS, &options)?;
            part.point(&plot, name, clients as f64, 1.0 / seconds);
        }
    }
    cluster.superuser(DATABASE).batch_execute("CHECKPOINT")?;
    Ok(())
}
