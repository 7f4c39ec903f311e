//! All SQL statements, which run through the pool. Each is one autocommitted, unnamed statement and leaves nothing in the
//! session, so that a pooler in transaction mode works.

use std::time::Duration;

use deadpool_postgres::{BuildError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Config, NoTls, Row};

use crate::auth::Caller;
use crate::error::Error;

const TEXT: Type = Type::TEXT;
const TEXTS: Type = Type::TEXT_ARRAY;

const MEMBERSHIPS: &str = "SELECT space_id FROM public.memberships WHERE user_id = $1";

// The server says whether the body has resyncRequired, so that the body need not be parsed here.
const SYNC: &str = "
    SELECT body::text, body ->> 'resyncRequired' IS NOT NULL
    FROM mana_sync.sync($1, $2, $3::text::jsonb, $4, $5) AS body";

const PULL: &str = "
    SELECT body::text, body ->> 'resyncRequired' IS NOT NULL
    FROM mana_sync.pull($1, $2, $3, $4, $5, $6, $7) AS body";

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

/// The largest number of changes in an answer, whatever limit the client asks for.
const MOST_CHANGES: i32 = 5000;

/// The body of an answer as the extension wrote it, and whether it has resyncRequired.
pub type Answer = (String, bool);

/// A page of a stream.
pub struct Page {
    /// The body to send, if there are changes.
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
        let row = self.query_one(SYNC, values).await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }

    /// Calls `mana_sync.pull`.
    pub async fn pull(
        &self,
        caller: &Caller,
        collection: Option<String>,
        since: Option<String>,
        limit: Option<i32>,
    ) -> Result<Answer, Error> {
        let (Caller { user, app, client, .. }, spaces) = (caller, self.spaces(caller).await?);
        let limit = limit.unwrap_or(1000).min(MOST_CHANGES);
        let values: Values = &[
            (user, TEXT),
            (app, TEXT),
            (&collection, TEXT),
            (&since, TEXT),
            (client, TEXT),
            (&limit, Type::INT4),
            (&spaces, TEXTS),
        ];
        let row = self.query_one(PULL, values).await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }

    /// Pulls a page of these collections, or of all tables if there are none.
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

/// Parameters with their types. With the types given, the statement need not be prepared first.
type Values<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];
