//! A device: its queue of local writes, its cursor, and what it holds.

use std::collections::VecDeque;

use postgres::Client;
use postgres::types::ToSql;
use serde_json::{Value, json};

use super::{Records, array, text};

/// What a device does after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The device goes on with the new cursor.
    GoOn,
    /// The device pulls from the beginning, and removes the records that this walk does not bring.
    BeginAgain,
}

/// What a device holds of the data that it has synced.
pub trait Store: Send {
    /// Whether the device asks for records; otherwise it asks for changes.
    fn as_records(&self) -> bool;
    /// Whether the device asks for its own changes too.
    fn wants_echo(&self) -> bool;
    /// Whether the store has each time of a field in the spelling of `mana_sync.records`. A store of changes does not have it: a change
    /// names the time of a field only if it is another instant than the time of the whole insert.
    fn keeps_spelling(&self) -> bool {
        self.as_records()
    }
    /// Is told of a local write.
    fn note_own(&mut self, _change: &Value) {}
    /// Is told that the next answer is the first one of a walk from the beginning.
    fn begin_again(&mut self);
    /// Forgets everything that was synced.
    fn forget(&mut self);
    /// Applies an answer. `is_at_end` says whether the answer ends a walk.
    fn apply(&mut self, answer: &Value, is_at_end: bool) -> Next;
    /// Returns the live records.
    fn shown(&self) -> Records;
}

/// The options of a request of a device.
#[derive(Clone, Debug)]
pub struct Request {
    /// The number of batches of its queue that the device sends.
    pub batches: usize,
    /// Whether the device calls `push` and then `pull`; otherwise it calls `sync`.
    pub in_two_calls: bool,
    /// Whether the changeset is atomic: a change that is refused keeps the others from being recorded.
    pub is_atomic: bool,
    /// The size of the page; `None` for the default.
    pub limit: Option<i32>,
    /// Whether the answer of the push is lost. The device then does not pull.
    pub loses_push: bool,
    /// Whether the answer of the pull is lost.
    pub loses_answer: bool,
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The device has applied an answer. There may be more pages.
    More,
    /// The device has applied an answer, and has everything.
    Done,
    /// The answer was lost.
    Lost,
    /// The server refused the whole push.
    Refused,
    /// The device has to begin again, and has forgotten everything.
    Resync,
}

/// A device.
pub struct Device {
    /// The user of the device.
    pub user: String,
    /// The client id, which two tabs share.
    pub client: String,
    /// The app that the device syncs.
    pub app: String,
    /// What the device holds.
    pub store: Box<dyn Store>,
    /// The cursor of the next pull; `None` to begin at the beginning.
    pub cursor: Option<String>,
    /// The batches that the server has not acknowledged. A batch is sent as a whole.
    pub queue: VecDeque<Vec<Value>>,
    /// Whether the server has refused the last push. The next push is then not atomic.
    is_refused: bool,
    /// The number of changes that were rejected.
    pub rejected: usize,
    /// The number of times that the device began again from the beginning, not counting resyncs and its first pull.
    pub begun_again: usize,
    /// The numbers of answers, of changes or records, and of bytes that the device was given.
    pub received: (usize, usize, usize),
}

impl Device {
    /// Makes a device that has not synced.
    pub fn new(user: &str, client: &str, app: &str, store: Box<dyn Store>) -> Device {
        Device {
            user: user.into(),
            client: client.into(),
            app: app.into(),
            store,
            cursor: None,
            queue: VecDeque::new(),
            is_refused: false,
            rejected: 0,
            begun_again: 0,
            received: (0, 0, 0),
        }
    }

    /// Adds a batch of local writes to the queue.
    pub fn write(&mut self, batch: Vec<Value>) {
        batch.iter().for_each(|change| self.store.note_own(change));
        self.queue.push_back(batch);
    }

    /// Pushes a part of the queue and pulls a page.
    pub fn sync(&mut self, client: &mut Client, spaces: &[String], request: &Request) -> Outcome {
        let batches = request.batches.min(self.queue.len());
        let changes: Vec<&Value> = self.queue.iter().take(batches).flatten().collect();
        let mut changeset = json!({"clientId": self.client, "changes": changes});
        if !request.is_atomic || self.is_refused {
            changeset["atomic"] = json!(false);
        }
        if request.in_two_calls {
            if batches > 0 {
                let sql = "SELECT mana_sync.push($1, $2, $3::text::jsonb, space_ids => $4)::text";
                let Some(answer) = self.call(client, sql, &[&self.user, &self.app, &changeset.to_string(), &spaces])
                else {
                    self.is_refused = true;
                    return Outcome::Refused;
                };
                if request.loses_push {
                    return Outcome::Lost;
                }
                self.settle(batches, &answer);
            }
            return self.pull(client, spaces, request.limit, request.loses_answer);
        }
        changeset["since"] = json!(self.cursor);
        changeset["as"] = json!(if self.store.as_records() { "records" } else { "changes" });
        changeset["echo"] = json!(self.store.wants_echo());
        if let Some(limit) = request.limit {
            changeset["limit"] = json!(limit);
        }
        let sql = "SELECT mana_sync.sync($1, $2, $3::text::jsonb, space_ids => $4)::text";
        let parameters: [&(dyn ToSql + Sync); 4] = [&self.user, &self.app, &changeset.to_string(), &spaces];
        let Some(answer) = self.call(client, sql, &parameters) else {
            self.is_refused = true;
            return Outcome::Refused;
        };
        if request.loses_answer {
            return Outcome::Lost;
        }
        if answer.json.get("resyncRequired").is_none() {
            self.settle(batches, &answer);
        }
        self.take(&answer)
    }

    /// Pulls a page.
    pub fn pull(&mut self, client: &mut Client, spaces: &[String], limit: Option<i32>, loses_answer: bool) -> Outcome {
        let sql = "SELECT mana_sync.pull($1, $2, NULL, $3, $4, COALESCE($5, 1000), $6, $7, $8)::text";
        let (records, echo) = (self.store.as_records(), self.store.wants_echo());
        let parameters: [&(dyn ToSql + Sync); 8] =
            [&self.user, &self.app, &self.cursor, &self.client, &limit, &spaces, &records, &echo];
        let answer = self.call(client, sql, &parameters).expect("a pull is not refused");
        if loses_answer { Outcome::Lost } else { self.take(&answer) }
    }

    /// Makes the next pull begin at the beginning. The records that this walk does not bring are removed at its end.
    pub fn begin_again(&mut self) {
        self.begun_again += 1;
        self.cursor = None;
        self.store.begin_again();
    }

    /// Calls the server. Returns `None` if the server refused the whole call.
    fn call(&self, client: &mut Client, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Option<Answer> {
        match client.query_one(sql, parameters) {
            Ok(row) => {
                let text: &str = row.get(0);
                Some(Answer { json: serde_json::from_str(text).expect("an answer is JSON"), bytes: text.len() })
            }
            Err(error) => match error.code().map(|code| code.code()) {
                // A change is refused, or another call was in the way.
                Some("42501" | "40001" | "40P01") => None,
                _ => panic!("{}: {error}: {:?}", self.client, error.as_db_error()),
            },
        }
    }

    /// Removes the batches from the queue that the server has acknowledged.
    fn settle(&mut self, batches: usize, answer: &Answer) {
        self.queue.drain(..batches);
        self.is_refused = false;
        self.rejected += answer.json.get("rejected").map_or(0, |rejected| rejected.as_array().expect("an array").len());
    }

    /// Takes the page of an answer, and moves the cursor.
    fn take(&mut self, answer: &Answer) -> Outcome {
        let Answer { json, bytes } = answer;
        if json.get("resyncRequired").is_some() {
            self.store.forget();
            self.cursor = None;
            return Outcome::Resync;
        }
        let items = array(json, if self.store.as_records() { "records" } else { "serverChanges" }).len();
        let (answers, all_items, all_bytes) = self.received;
        self.received = (answers + 1, all_items + items, all_bytes + bytes);
        let cursor = Some(text(&json["syncedUntil"]).to_string());
        let has_more = json["hasMore"].as_bool().expect("a boolean");
        // A standby that cannot show more yet returns the cursor that it was sent. The walk goes on elsewhere.
        let is_at_end = !has_more && cursor != self.cursor;
        self.cursor = cursor;
        let next = self.store.apply(json, is_at_end);
        if next == Next::BeginAgain || json.get("beginAgain").is_some() {
            self.begin_again();
            return Outcome::More;
        }
        match has_more {
            true => Outcome::More,
            false => Outcome::Done,
        }
    }
}

/// An answer of the server.
struct Answer {
    json: Value,
    bytes: usize,
}
