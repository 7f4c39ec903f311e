//! A reader: a user's device, with its cursor and the ids of everything that it was given.

use postgres::{Client, Error, GenericClient};
use uuid::Uuid;

use crate::oracle::{Delivered, Difference, allowed};

/// A device, which keeps its cursor between pulls, as a real device does. An error leaves the cursor unchanged.
#[derive(Clone)]
pub struct Device {
    /// The user of the device.
    pub user: String,
    /// The app that the device syncs.
    pub app: String,
    /// The spaces of which the user is a member.
    pub spaces: Vec<String>,
    /// The cursor of the next pull; `None` at first.
    pub cursor: Option<String>,
    /// The changes that the device was given.
    pub delivered: Delivered,
}

impl Device {
    /// Makes a device that has not pulled yet.
    pub fn new(user: &str, app: &str, spaces: &[&str]) -> Self {
        let spaces = spaces.iter().map(|space| space.to_string()).collect();
        Self { user: user.into(), app: app.into(), spaces, cursor: None, delivered: Delivered::default() }
    }

    /// Pulls one page, and returns its number of rows. Panics unless the last row has a cursor and no other row has
    /// one.
    pub fn pull_page(&mut self, client: &mut impl GenericClient, page_size: i32) -> Result<usize, Error> {
        Ok(self.pull_page_ids(client, page_size)?.len())
    }

    /// Pulls one page; returns the ids of its changes.
    pub fn pull_page_ids(&mut self, client: &mut impl GenericClient, page_size: i32) -> Result<Vec<Uuid>, Error> {
        let sql = "SELECT id, cursor
                   FROM mana_sync.changes_since(user_id => $1, app_id => $2, since => $3, page_size => $4, space_ids => $5)";
        let rows = client.query(sql, &[&self.user, &self.app, &self.cursor, &page_size, &self.spaces])?;
        assert!(rows.len() <= page_size as usize, "a page of {page_size} has {} rows", rows.len());
        let mut ids = Vec::with_capacity(rows.len());
        for (i, row) in rows.iter().enumerate() {
            let cursor: Option<String> = row.get("cursor");
            assert_eq!(cursor.is_some(), i + 1 == rows.len(), "row {i} of {}: cursor {cursor:?}", rows.len());
            let id: Uuid = row.get("id");
            self.delivered.add(id);
            ids.push(id);
            self.cursor = cursor.or(self.cursor.take());
        }
        Ok(ids)
    }

    /// Pulls until a page is empty; returns the number of rows.
    pub fn pull(&mut self, client: &mut impl GenericClient, page_size: i32) -> Result<usize, Error> {
        self.pull_by(client, || page_size)
    }

    /// Pulls until a page is empty, and returns the number of rows. `page_size` gives the size of each page.
    pub fn pull_by(
        &mut self,
        client: &mut impl GenericClient,
        mut page_size: impl FnMut() -> i32,
    ) -> Result<usize, Error> {
        let mut count = 0;
        loop {
            match self.pull_page(client, page_size())? {
                0 => return Ok(count),
                rows => count += rows,
            }
        }
    }

    /// Whether this device may see a change by `user` in `space`.
    pub fn sees(&self, user: &str, space: Option<&str>) -> bool {
        user == self.user || space.is_some_and(|space| self.spaces.iter().any(|own| own == space))
    }

    /// Compares the changes that the device was given with those that its scope allows.
    pub fn compare(&self, superuser: &mut Client) -> Difference {
        self.delivered.compare(&allowed(superuser, &self.user, &self.app, &self.spaces))
    }
}
