//! The wire format: the JSON that devices send and get.
//!
//! ```text
//! changeset: {"clientId"?, "since"?, "schemaVersion"?, "limit"?, "atomic"?, "as"?, "echo"?, "changes": [change…]}
//! change:    {"eventId"?, "schemaVersion"?, "table", "id", "op", "fields"?: {name: {"value", "at"?}},
//!             "data"?, "at"?, "deletedAt"?, "spaceId"?, "actor"?, "origin"?}
//! response:  {"serverChanges": [change…], "conflicts": [], "records"?: [record…], "syncedUntil": cursor, "hasMore": bool,
//!             "rejected"?: […], "spaces"?: […], "beginAgain"?: true, "resyncRequired"?: true}
//! ```
//!
//! An insert has `data` and may have `at`, an update has `fields`, a delete may have `deletedAt`. Every other key is ignored. `null` and
//! a missing key mean the same, also for the `value` of a field: devices whose language has no JSON for *undefined* clear a field this
//! way.

pub mod changeset;
pub mod response;
