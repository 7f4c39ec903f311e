//! Measures what a device costs that pulls records, beside one that pulls changes and merges them by itself.

use std::cell::Cell;

use mana_sync_harness::Options;
use mana_sync_harness::cluster::DATABASE;
use postgres::{Client, Statement};
use serde_json::Value;

use crate::Result;
use crate::report::{Contract, Part};
use crate::server::{server, write_histories};
use crate::times::{Times, rounds};

/// Records of the user, and the most changes of one: about 200,000 changes.
const RECORDS: (i32, i32) = (27_000, 13);
/// Changes between two pulls, and the records that they are of.
const NEW: (i32, i32) = (1000, 300);
/// Records or changes a page.
const PAGE: i32 = 1000;

pub fn devices(count: usize) -> Result<Vec<Part>> {
    let cluster = server(Options::default())?;
    let mut owner = cluster.superuser(DATABASE);
    let changes = write_histories(&mut owner, "ann", RECORDS.0, RECORDS.1)?;
    let mut device = Device::new(cluster.app(DATABASE))?;
    Ok(vec![first_sync(&mut device, changes, count)?, later_sync(&mut device, count)?])
}

fn first_sync(device: &mut Device, changes: u64, count: usize) -> Result<Part> {
    let records =
        device.client.prepare("SELECT count(*), sum(length(data::text)) FROM mana_sync.records('ann', 'app')")?;
    let mut times = [
        Times::new("first sync as records, by pull"),
        Times::new("first sync as changes, by changes_since"),
        Times::new("first sync as changes, by pull"),
        Times::new("records() in one call"),
    ];
    let alive: i64 = device.client.query_one(&records, &[])?.get(0);
    let (of_records, of_changes) = (Cell::new(0), Cell::new(0));
    rounds(count, &mut times, |_, alternative, times| {
        match alternative {
            0 => of_records.set(times.measure(|| device.walk(None, true))?.bytes),
            1 => times.measure(|| device.walk_rows(changes))?,
            2 => of_changes.set(times.measure(|| device.walk(None, false))?.bytes),
            _ => drop(times.measure(|| Ok(device.client.query_one(&records, &[])?))?),
        }
        Ok(())
    })?;
    let items = device.items(None, true)?;
    assert_eq!(items, alive as usize, "a device that pulls records has those that records() returns");
    let about =
        format!("{changes} changes of {} records, {alive} of them alive, pages of {PAGE}, {count} rounds", RECORDS.0);
    let mut part = Part::new("devices", about);
    let [as_records, rows, as_changes, in_one] = &times;
    part.compare(as_records, rows, Some(Contract::AtMost(1.0)));
    part.compare(as_records, as_changes, None);
    part.compare(as_records, in_one, Some(Contract::AtMost(3.0)));
    part.compare_figures(
        ("text of a first sync as records", of_records.get() as f64 / 1e6),
        ("text of a first sync as changes", of_changes.get() as f64 / 1e6),
        "MB",
        Some(Contract::AtMost(0.5)),
    );
    times.iter().for_each(|times| part.duration(times));
    Ok(part)
}

fn later_sync(device: &mut Device, count: usize) -> Result<Part> {
    let (changes, records) = NEW;
    let write = device.client.prepare(
        "SELECT count(mana_sync.record_change('app', 'notes', md5('ann' || ($3 + n % $2) % 27000)::uuid::text, 'ann', NULL, 'update', 'laptop',
                                              jsonb_build_object('rank', n, 'title', 'Title ' || n)))
         FROM generate_series(1, $1) AS n",
    )?;
    let mut times = [Times::new("pull of 1,000 new changes as records"), Times::new("the same as changes")];
    let mut cursor = device.walk(None, false)?.cursor;
    rounds(count, &mut times, |round, alternative, times| {
        if alternative == 0 {
            cursor = device.walk(Some(cursor.clone()), false)?.cursor;
            // Other records each time, so that their histories do not grow.
            device.client.query_one(&write, &[&changes, &records, &(round as i32 * records)])?;
        }
        times.measure(|| device.walk(Some(cursor.clone()), alternative == 0)).map(drop)
    })?;
    assert_eq!(device.items(Some(cursor.clone()), true)?, records as usize);
    assert_eq!(device.items(Some(cursor), false)?, changes as usize);
    let mut part =
        Part::new("devices", format!("{changes} new changes of {records} records, pages of {PAGE}, {count} rounds"));
    part.compare(&times[0], &times[1], Some(Contract::AtMost(2.0)));
    times.iter().for_each(|times| part.duration(times));
    Ok(part)
}

/// A device that pulls, and takes the time of the server alone: it applies nothing.
struct Device {
    client: Client,
    pull: Statement,
    changes_since: Statement,
}

/// What a walk has brought.
struct Walked {
    /// The bytes of all pages.
    bytes: usize,
    /// The cursor of the last page.
    cursor: String,
}

impl Device {
    fn new(mut client: Client) -> Result<Device> {
        let pull = client.prepare(&format!(
            "SELECT mana_sync.pull('ann', 'app', since => $1, page_size => {PAGE}, as_records => $2)::text"
        ))?;
        let changes_since = client.prepare(&format!(
            "SELECT * FROM mana_sync.changes_since('ann', 'app', since => $1, page_size => {PAGE})"
        ))?;
        Ok(Device { client, pull, changes_since })
    }

    /// Pulls until nothing more comes.
    fn walk(&mut self, since: Option<String>, as_records: bool) -> Result<Walked> {
        let (mut cursor, mut bytes) = (since, 0);
        loop {
            let row = self.client.query_one(&self.pull, &[&cursor, &as_records])?;
            let page: &str = row.get(0);
            bytes += page.len();
            // The cursor comes after the items, whatever text these contain.
            let (_, end) = page.rsplit_once("\"syncedUntil\":\"").ok_or("a response without a cursor")?;
            let (next, rest) = end.split_once('"').ok_or("a cursor without an end")?;
            if !rest.contains("\"hasMore\":true") {
                return Ok(Walked { bytes, cursor: next.into() });
            }
            cursor = Some(next.into());
        }
    }

    /// Reads all changes by `changes_since`.
    fn walk_rows(&mut self, expected: u64) -> Result<()> {
        let (mut cursor, mut rows) = (None::<String>, 0);
        loop {
            let page = self.client.query(&self.changes_since, &[&cursor])?;
            rows += page.len() as u64;
            match page.last() {
                Some(last) => cursor = last.get("cursor"),
                None => break,
            }
        }
        assert_eq!(rows, expected);
        Ok(())
    }

    /// How many different records, or changes, a walk brings.
    fn items(&mut self, since: Option<String>, as_records: bool) -> Result<usize> {
        let (mut cursor, mut items) = (since, std::collections::HashSet::new());
        loop {
            let row = self.client.query_one(&self.pull, &[&cursor, &as_records])?;
            let page: Value = serde_json::from_str(row.get(0))?;
            let (list, id) = if as_records { ("records", "id") } else { ("serverChanges", "eventId") };
            items.extend(page[list].as_array().into_iter().flatten().map(|item| item[id].to_string()));
            cursor = page["syncedUntil"].as_str().map(str::to_string);
            if page["hasMore"] == false {
                return Ok(items.len());
            }
        }
    }
}
