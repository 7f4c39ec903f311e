//! Measures first syncs page by page, compared with the original store and with bare index scans.

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::{Cluster, Options};
use postgres::{Client, Statement};

use crate::Result;
use crate::report::{Contract, Part};
use crate::server::{fill, server};
use crate::times::{Spread, Times, rounds};

/// The number of rows of a first sync.
const ROWS: u64 = 200_000;
/// The number of rows per page.
const PAGE: i64 = 1000;
/// The number of rows of other users in the same log.
const OTHERS: u64 = 400_000;
/// The number of rows of a user whose changes have 20 kB each, and the number of these rows per page.
const LARGE: (u64, i64) = (4000, 100);
/// The number of pages at the beginning and at the end of a sync that are compared. A single page is too short to
/// measure.
const ENDS: usize = 10;

/// Returns ratios for rows that were written in transactions of one row and of 1,000 rows.
pub fn pull(count: usize) -> Result<Vec<Part>> {
    let cluster = server(Options::default())?;
    let mut owner = cluster.superuser(DATABASE);
    let mut parts = Vec::new();
    fill(&mut owner, "others", 0..OTHERS, 1000)?;
    for batch in [1, 1000] {
        fill(&mut owner, "walks", 0..2 * ROWS, batch)?;
    }
    fill(&mut owner, "large", 0..LARGE.0, 100)?;
    for batch in [1, 1000] {
        parts.push(part(&cluster, batch, count)?);
    }
    parts.push(large(&cluster, count)?);
    Ok(parts)
}

/// A set of rows to read: the user and the spaces that it belongs to, its number of rows, and the number of rows per
/// page.
struct Source {
    user: String,
    spaces: Vec<String>,
    rows: u64,
    page: i64,
}

impl Source {
    fn new(user: impl Into<String>, spaces: Vec<String>) -> Source {
        Source { user: user.into(), spaces, rows: ROWS, page: PAGE }
    }
}

/// Measures rows of 20 kB, whose values are stored out of line. They are fetched only when they are sent.
fn large(cluster: &Cluster, count: usize) -> Result<Part> {
    let (rows, page) = LARGE;
    let source = Source { rows, page, ..Source::new("large", Vec::new()) };
    let mut ours = Ours::new(cluster.app(DATABASE))?;
    let mut bare = Bare::new(cluster.superuser(DATABASE), &source)?;
    let mut times = [
        Times::new("first sync by changes_since, rows of 20 kB"),
        Times::new("the bare index scan, as the owner"),
        Times::new("first sync by pull (JSON), rows of 20 kB"),
        Times::new("the bare index scan with json functions, as the owner"),
    ];
    rounds(count, &mut times, |round, alternative, times| {
        match alternative {
            0 => drop(times.measure(|| ours.walk(&source))?),
            1 => times.measure(|| bare.walk(false))?,
            2 => times.measure(|| ours.walk_json(&source, round == 0))?,
            _ => times.measure(|| bare.walk(true))?,
        }
        Ok(())
    })?;
    let mut part = Part::new("pull", format!("{rows} rows of 20 kB in pages of {page}, {count} rounds"));
    let [walk, scan, json, json_scan] = &times;
    part.compare(walk, scan, None);
    part.compare(json, json_scan, None);
    times.iter().for_each(|times| part.duration(times));
    Ok(part)
}

fn part(cluster: &Cluster, batch: u64, count: usize) -> Result<Part> {
    let own = Source::new(format!("own{batch}"), Vec::new());
    let one = Source::new("reader", vec![format!("one{batch}")]);
    let many = Source::new("reader", (0..100).map(|i| format!("many{i}_{batch}")).collect());
    let mut ours = Ours::new(cluster.app(DATABASE))?;
    let mut original = Original::new(cluster.app(DATABASE))?;
    let mut bare = Bare::new(cluster.superuser(DATABASE), &own)?;
    let of = if batch == 1 { "rows of one-row transactions" } else { "rows of transactions of 1,000" };
    let mut times = [
        Times::new(format!("first sync by changes_since, {of}")),
        Times::new("the bare index scan, as the owner"),
        Times::new(format!("first sync by pull (JSON), {of}")),
        Times::new("the bare index scan with json functions, as the owner"),
        Times::new(format!("first sync of one space, {of}")),
        Times::new(format!("first sync of 100 spaces, {of}")),
        Times::new("the original"),
        Times::new(format!("last {ENDS} pages, {of}")),
        Times::new(format!("first {ENDS} pages")),
    ];
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let mut pages: Vec<Vec<f64>> = Vec::new();
    rounds(count, &mut times, |round, alternative, times| {
        match alternative {
            0 => {
                let each = times.measure(|| ours.walk(&own))?;
                if round > 0 {
                    first.push(each[..ENDS].iter().sum());
                    last.push(each[each.len() - ENDS..].iter().sum());
                    pages.push(each);
                }
            }
            1 => times.measure(|| bare.walk(false))?,
            2 => times.measure(|| ours.walk_json(&own, round == 0))?,
            3 => times.measure(|| bare.walk(true))?,
            4 => drop(times.measure(|| ours.walk(&one))?),
            5 => drop(times.measure(|| ours.walk(&many))?),
            // The original is walked only once, in the first counted round, because it takes longer than all others
            // together.
            6 if round == 1 => times.measure(|| original.walk(&own))?,
            _ => {}
        }
        Ok(())
    })?;
    times[7].seconds = last;
    times[8].seconds = first;
    let mut part = Part::new(
        "pull",
        format!("{ROWS} rows in pages of {PAGE} among {} others, {of}, {count} rounds", OTHERS + 3 * ROWS),
    );
    let [walk, scan, json, json_scan, one_space, many_spaces, old, ends, starts] = &times;
    part.compare(walk, old, Some(Contract::AtLeast(20.0)));
    part.compare(walk, scan, Some(Contract::AtLeast(0.7)));
    part.compare(json, json_scan, Some(Contract::AtLeast(0.8)));
    part.compare(many_spaces, one_space, Some(Contract::AtMost(2.0)));
    part.compare(ends, starts, Some(Contract::AtMost(1.2)));
    times.iter().for_each(|times| part.duration(times));
    for page in 0..(ROWS as i64 / PAGE) as usize {
        let spread = Spread::of(pages.iter().map(|each| each[page]).collect());
        part.point("page cost along a first sync", of, page as f64 + 1.0, spread.median * 1000.0);
    }
    Ok(part)
}

/// Reads with `changes_since` or with `pull`.
struct Ours {
    client: Client,
    changes_since: Statement,
    pull: Statement,
}

impl Ours {
    fn new(mut client: Client) -> Result<Ours> {
        let changes_since = client.prepare(
            "SELECT * FROM mana_sync.changes_since($1, 'app', since => $2, page_size => $3, space_ids => $4)",
        )?;
        let pull =
            client.prepare("SELECT mana_sync.pull($1, 'app', since => $2, page_size => $3, space_ids => $4)::text")?;
        Ok(Ours { client, changes_since, pull })
    }

    /// Walks all pages, and returns the seconds of each.
    fn walk(&mut self, source: &Source) -> Result<Vec<f64>> {
        let (mut cursor, mut rows, mut pages) = (None::<String>, 0, Times::new("pages"));
        loop {
            let page = pages.measure(|| {
                let parameters: [&(dyn postgres::types::ToSql + Sync); 4] =
                    [&source.user, &cursor, &(source.page as i32), &source.spaces];
                Ok(self.client.query(&self.changes_since, &parameters)?)
            })?;
            rows += page.len() as u64;
            match page.last() {
                Some(last) => cursor = last.get("cursor"),
                None => break,
            }
        }
        assert_eq!(rows, source.rows);
        // The last page was empty.
        pages.seconds.pop();
        Ok(pages.seconds)
    }

    fn walk_json(&mut self, source: &Source, count_them: bool) -> Result<()> {
        let (mut cursor, mut rows) = (None::<String>, 0);
        loop {
            let parameters: [&(dyn postgres::types::ToSql + Sync); 4] =
                [&source.user, &cursor, &(source.page as i32), &source.spaces];
            let row = self.client.query_one(&self.pull, &parameters)?;
            let page: &str = row.get(0);
            if count_them {
                rows += page.matches("{\"eventId\":").count() as u64;
            }
            // The cursor comes after the changes, whatever text these contain.
            let (_, end) = page.rsplit_once("\"syncedUntil\":\"").ok_or("a response without a cursor")?;
            let (next, rest) = end.split_once('"').ok_or("a cursor without an end")?;
            cursor = Some(next.into());
            if !rest.contains("true") {
                break;
            }
        }
        assert!(!count_them || rows == source.rows, "{rows} rows");
        Ok(())
    }
}

/// Reads the same rows in the same pages with as little work as possible: the beginning of each page is known
/// beforehand.
struct Bare {
    client: Client,
    user: String,
    /// The number of rows, and the rows per page.
    size: (u64, i64),
    rows: Statement,
    json: Statement,
    /// The position of the row before each page.
    positions: Vec<(String, i64)>,
}

impl Bare {
    fn new(mut client: Client, source: &Source) -> Result<Bare> {
        // The planner would choose another index by itself, and sort.
        client.batch_execute("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off")?;
        let from = format!(
            "FROM mana_sync.sync_changes WHERE user_id = $1 AND app_id = 'app' AND epoch = 1
             AND (xact, seq) > ($2::text::xid8, $3) ORDER BY xact, seq LIMIT {}",
            source.page
        );
        let rows = client.prepare(&format!(
            "SELECT id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at,
                    schema_version, space_id, actor
             {from}"
        ))?;
        let json = client.prepare(&format!(
            "SELECT json_agg(json_build_object('eventId', id, 'schemaVersion', schema_version, 'table', table_name,
                 'id', record_id, 'op', op, 'data', data, 'fieldTimestamps', field_timestamps, 'spaceId', space_id,
                 'actor', actor))::text
             FROM (SELECT * {from}) AS page"
        ))?;
        let plan = client.query(
            &format!(
                "EXPLAIN {}",
                "SELECT * ".to_owned() + &from.replace("$1", "'own'").replace("$2", "'1'").replace("$3", "1")
            ),
            &[],
        )?;
        let plan: Vec<&str> = plan.iter().map(|row| row.get(0)).collect();
        assert!(plan[1].contains("Index Scan using sync_changes_own_idx"), "{plan:?}");
        let mut positions = vec![("0".to_string(), 0)];
        let ends = client.query(
            "SELECT xact::text, seq FROM (
                 SELECT xact, seq, row_number() OVER (ORDER BY xact, seq) AS n
                 FROM mana_sync.sync_changes WHERE user_id = $1 AND app_id = 'app') AS numbered
             WHERE n % $2 = 0 ORDER BY n",
            &[&source.user, &source.page],
        )?;
        positions.extend(ends.iter().map(|row| (row.get(0), row.get(1))));
        // A position after the last row.
        positions.pop();
        Ok(Bare { client, user: source.user.clone(), size: (source.rows, source.page), rows, json, positions })
    }

    fn walk(&mut self, as_json: bool) -> Result<()> {
        let mut rows = 0;
        for (xact, seq) in &self.positions {
            if as_json {
                let row = self.client.query_one(&self.json, &[&self.user, xact, seq])?;
                assert!(!row.get::<_, &str>(0).is_empty());
                rows += self.size.1 as u64;
            } else {
                rows += self.client.query(&self.rows, &[&self.user, xact, seq])?.len() as u64;
            }
        }
        assert_eq!(rows, self.size.0);
        Ok(())
    }
}

/// Reads from the original store. Each page is a transaction that sets the two settings of the scope.
struct Original {
    client: Client,
    set_user: Statement,
    set_spaces: Statement,
    select: Statement,
}

impl Original {
    fn new(mut client: Client) -> Result<Original> {
        let set_user = client.prepare("SELECT set_config('app.current_user_id', $1, true)")?;
        let set_spaces = client.prepare("SELECT set_config('app.current_user_space_ids', $1, true)")?;
        let select = client.prepare(
            "SELECT id, table_name, record_id, op, data, field_timestamps, client_id, created_at, schema_version, space_id, actor
             FROM original.sync_changes
             WHERE (user_id = $1 OR space_id = ANY($5)) AND app_id = $2 AND created_at > $3 AND client_id != $4
             ORDER BY created_at ASC
             LIMIT 1000",
        )?;
        Ok(Original { client, set_user, set_spaces, select })
    }

    fn walk(&mut self, source: &Source) -> Result<()> {
        let (mut since, mut rows) = (std::time::SystemTime::UNIX_EPOCH, 0);
        loop {
            let mut transaction = self.client.transaction()?;
            transaction.execute(&self.set_user, &[&source.user])?;
            transaction.execute(&self.set_spaces, &[&source.spaces.join(",")])?;
            let page = transaction.query(&self.select, &[&source.user, &"app", &since, &"", &source.spaces])?;
            transaction.commit()?;
            rows += page.len() as u64;
            match page.last() {
                Some(last) => since = last.get("created_at"),
                None => break,
            }
        }
        // It may lose some rows with the same time as the last row of a page.
        assert!(rows > ROWS * 9 / 10, "the original delivered {rows} rows");
        Ok(())
    }
}
