//! A reader with a timestamp for a cursor, as the original had it. It loses changes: `created_at` is the start of a
//! transaction, so that rows are committed later than they are stamped, and all rows of a transaction share one stamp.
//! That the tests count its loss proves that they can count one.

use postgres::{Client, Error};

use crate::oracle::{Delivered, Difference, allowed};

/// A device whose cursor is the `created_at` of the last row that it was given.
pub struct NaiveDevice {
    user: String,
    app: String,
    spaces: Vec<String>,
    since: String,
    delivered: Delivered,
}

impl NaiveDevice {
    /// A device that has not pulled yet.
    pub fn new(user: &str, app: &str, spaces: &[&str]) -> Self {
        Self {
            user: user.into(),
            app: app.into(),
            spaces: spaces.iter().map(|space| space.to_string()).collect(),
            since: "-infinity".into(),
            delivered: Delivered::default(),
        }
    }

    /// Pulls until a page is empty; returns the number of rows.
    pub fn pull(&mut self, client: &mut Client, page_size: i32) -> Result<usize, Error> {
        let mut count = 0;
        loop {
            let mut transaction = client.transaction()?;
            transaction.execute("SELECT mana_sync.with_scope($1, $2)", &[&self.user, &self.spaces])?;
            let sql = "SELECT id, created_at::text FROM mana_sync.sync_changes
                       WHERE app_id = $1 AND created_at > $2::text::timestamptz ORDER BY created_at LIMIT $3::int";
            let rows = transaction.query(sql, &[&self.app, &self.since, &page_size])?;
            transaction.commit()?;
            for row in &rows {
                self.delivered.add(row.get(0));
                self.since = row.get(1);
            }
            count += rows.len();
            if rows.is_empty() {
                return Ok(count);
            }
        }
    }

    /// How what it was given differs from what its scope allows.
    pub fn compare(&self, superuser: &mut Client) -> Difference {
        self.delivered.compare(&allowed(superuser, &self.user, &self.app, &self.spaces))
    }
}
