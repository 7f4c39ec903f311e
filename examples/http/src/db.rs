//! All SQL statements. They run through the pool of connections. Each is one autocommitted, unnamed statement and leaves nothing in the
//! session, so that a pooler in transaction mode can be used.

use std::num::NonZeroU32;
use std::time::Duration;

use deadpool_postgres::{BuildError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Config, NoTls, Row};

use crate::auth::Caller;
use crate::error::Error;

const TEXT: Type = Type::TEXT;
const TEXTS: Type = Type::TEXT_ARRAY;

const MEMBERSHIPS: &str = "SELECT space_id FROM public.memberships WHERE user_id = $1";

const SYNC: &str = "SELECT mana_sync.sync($1, $2, $3::text::jsonb, $4, $5)::text";

// `pull` only reads, and works in a READ ONLY transaction. The statement is not put into one: that would take two more
// statements, and would protect nothing.
const PULL: &str = "SELECT mana_sync.pull($1, $2, $3, $4, $5, $6, $7, $8, $9)::text";

// A cursor of a pull of one table is not valid for another table. Therefore this pulls all tables, and then removes the
// tables that are not among the collections. The first column is NULL if no change is left.
const PULL_COLLECTIONS: &str = "
    SELECT CASE
            WHEN body ->> 'resyncRequired' IS NOT NULL THEN body
            WHEN changes IS NOT NULL THEN json_build_object('serverChanges', changes, 'conflicts', body -> 'conflicts',
                    'syncedUntil', body -> 'syncedUntil', 'hasMore', body -> 'hasMore')
        END::text,
        body ->> 'resyncRequired' IS NOT NULL, body ->> 'syncedUntil', (body ->> 'hasMore')::boolean
    FROM mana_sync.pull($1, $2, NULL, $3, $4, 1000, $5) AS body
    CROSS JOIN LATERAL (
        SELECT json_agg(change) FROM json_array_elements(body -> 'serverChanges') AS change
        WHERE $6 = '{}' OR change ->> 'table' = ANY ($6)) AS chosen (changes)";

const CHANNELS: &str = "
    SELECT mana_sync.user_channel($1)
    UNION ALL SELECT mana_sync.everyone_channel()
    UNION ALL SELECT mana_sync.space_channel(space_id) FROM unnest($2) AS space_id
    UNION ALL SELECT mana_sync.everyone_channel()";

/// The largest number of changes or records in an answer, whatever limit the client asks for.
const MOST_CHANGES: u32 = 5000;

/// The parameters of the URL of a pull.
#[derive(Deserialize)]
pub struct PullQuery {
    /// The one table to pull. If it is missing or empty, all tables are pulled.
    collection: Option<String>,
    /// The cursor from which the pull begins. If it is empty, the pull begins at the beginning of the log.
    pub since: Option<String>,
    /// The largest number of changes or records in the answer.
    limit: Option<NonZeroU32>,
    /// Whether the answer has the current state of records; otherwise it has changes.
    #[serde(default)]
    records: bool,
    /// Whether the answer also has the device's own changes.
    #[serde(default)]
    echo: bool,
}

/// An answer of the extension.
pub struct Answer {
    /// The body as the extension wrote it.
    pub body: String,
    /// The cursor in the body.
    pub synced_until: String,
    /// Whether the client has to begin again.
    pub resync: bool,
    /// Whether the body has nothing for the device but a cursor.
    pub nothing_new: bool,
}

/// The keys of a body that the front end reads. Changes and records are skipped without being parsed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body<'b> {
    #[serde(borrow)]
    server_changes: &'b RawValue,
    #[serde(borrow)]
    records: Option<&'b RawValue>,
    synced_until: String,
    has_more: bool,
    spaces: Option<IgnoredAny>,
    #[serde(default)]
    begin_again: bool,
    #[serde(default)]
    resync_required: bool,
}

impl Answer {
    fn new(body: String) -> Result<Self, Error> {
        let Body { server_changes, records, synced_until, has_more, spaces, begin_again, resync_required: resync } =
            serde_json::from_str(&body)?;
        // The extension writes JSON without blanks.
        let has_items = [Some(server_changes), records].into_iter().flatten().any(|items| items.get() != "[]");
        let nothing_new = !has_items && !has_more && spaces.is_none() && !begin_again && !resync;
        Ok(Self { body, synced_until, resync, nothing_new })
    }
}

/// A page of a stream.
pub struct Page {
    /// The body to send; `None` if the page has no changes.
    pub body: Option<String>,
    /// Whether the body has resyncRequired.
    pub resync: bool,
    /// The cursor of the next pull.
    pub synced_until: String,
    /// Whether there are more changes to pull now.
    pub has_more: bool,
}

/// The pool of connections.
pub struct Db(Pool);

impl Db {
    /// Creates a pool that connects on demand.
    pub fn new(config: Config) -> Result<Self, BuildError> {
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let limit = Some(Duration::from_secs(5));
        let timeouts = Timeouts { wait: limit, create: limit, recycle: limit };
        Ok(Self(Pool::builder(manager).runtime(Runtime::Tokio1).timeouts(timeouts).build()?))
    }

    /// Checks that the database answers.
    pub async fn check(&self) -> Result<(), Error> {
        self.query("SELECT 1", &[]).await.map(drop)
    }

    /// Returns the spaces of a user. Any error is answered with 503: an empty list would tell the client that the user
    /// has left all spaces.
    pub async fn spaces(&self, caller: &Caller) -> Result<Vec<String>, Error> {
        let rows = self.query(MEMBERSHIPS, &[(&caller.user, TEXT)]).await.map_err(|_| Error::unavailable())?;
        let spaces: Result<_, tokio_postgres::Error> = rows.iter().map(|row| row.try_get(0)).collect();
        spaces.map_err(|error| {
            tracing::error!("public.memberships: {error}");
            Error::unavailable()
        })
    }

    /// Calls `mana_sync.sync`.
    pub async fn sync(&self, caller: &Caller, changeset: &str) -> Result<Answer, Error> {
        let (Caller { user, app, client, .. }, spaces) = (caller, self.spaces(caller).await?);
        let values: Values = &[(user, TEXT), (app, TEXT), (&changeset, TEXT), (client, TEXT), (&spaces, TEXTS)];
        Answer::new(self.query_one(SYNC, values).await?.try_get(0)?)
    }

    /// Calls `mana_sync.pull`.
    pub async fn pull(&self, caller: &Caller, query: &PullQuery) -> Result<Answer, Error> {
        let (Caller { user, app, client, .. }, spaces) = (caller, self.spaces(caller).await?);
        let PullQuery { collection, since, limit, records, echo } = query;
        let limit = limit.and_then(|limit| i32::try_from(limit.get().min(MOST_CHANGES)).ok());
        let values: Values = &[
            (user, TEXT),
            (app, TEXT),
            (collection, TEXT),
            (since, TEXT),
            (client, TEXT),
            (&limit, Type::INT4),
            (&spaces, TEXTS),
            (records, Type::BOOL),
            (echo, Type::BOOL),
        ];
        Answer::new(self.query_one(PULL, values).await?.try_get(0)?)
    }

    /// Pulls a page of the changes to these collections (tables), or to all tables if there are none.
    pub async fn page(
        &self,
        caller: &Caller,
        since: &Option<String>,
        spaces: &[String],
        collections: &[String],
    ) -> Result<Page, Error> {
        let Caller { user, app, client, .. } = caller;
        let values: Values =
            &[(user, TEXT), (app, TEXT), (since, TEXT), (client, TEXT), (&spaces, TEXTS), (&collections, TEXTS)];
        let row = self.query_one(PULL_COLLECTIONS, values).await?;
        let (body, resync, synced_until, has_more) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        Ok(Page { body, resync, synced_until, has_more })
    }

    /// Returns the channels whose wake-ups concern a user with these spaces.
    pub async fn channels(&self, caller: &Caller, spaces: &[String]) -> Result<Vec<String>, Error> {
        let client = self.0.get().await?;
        let rows = client.query_typed(CHANNELS, &[(&caller.user, TEXT), (&spaces, TEXTS)]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    async fn query_one(&self, statement: &str, values: Values<'_>) -> Result<Row, Error> {
        Ok(self.0.get().await?.query_typed_one(statement, values).await?)
    }

    async fn query(&self, statement: &str, values: Values<'_>) -> Result<Vec<Row>, Error> {
        Ok(self.0.get().await?.query_typed(statement, values).await?)
    }
}

/// The parameters of a statement, with their types. Because the types are given, the statement need not be prepared first.
type Values<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];
