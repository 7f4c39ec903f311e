//! Names of channels. LISTEN has no privileges: who knows a name hears when its user or space is written to. So
//! it is a keyed hash, and only who can call these functions learns it.

use crate::error::Error;
use crate::function::{Args, sql_function, text_datum, text_of};
use crate::snapshot::Pushed;
use mana_sync_cursor::hash::{SECRET_LENGTH, Secret};
use pgrx::pg_sys;

sql_function!(mana_sync_user_channel, pg_finfo_mana_sync_user_channel, user_channel);
sql_function!(mana_sync_space_channel, pg_finfo_mana_sync_space_channel, space_channel);
sql_function!(mana_sync_everyone_channel, pg_finfo_mana_sync_everyone_channel, everyone_channel);

/// `mana_sync.user_channel(user_id text) RETURNS text`
fn user_channel(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let user = args.text(0).filter(|user| !user.is_empty()).ok_or(Error::Empty("user_id"))?;
    Ok(Some(text_datum(Channels::load()?.user(user).as_bytes())))
}

/// `mana_sync.space_channel(space_id text) RETURNS text`
fn space_channel(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let space = args.text(0).filter(|space| !space.is_empty()).ok_or(Error::Empty("space_id"))?;
    Ok(Some(text_datum(Channels::load()?.space(space).as_bytes())))
}

/// `mana_sync.everyone_channel() RETURNS text`
fn everyone_channel(_: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    Ok(Some(text_datum(Channels::load()?.everyone().as_bytes())))
}

/// The names of a log's channels.
pub struct Channels(Secret);

impl Channels {
    /// Reads the key, which application roles cannot read, with the table access method.
    pub fn load() -> Result<Channels, Error> {
        let fresh = Pushed::latest();
        let mut secret = None;
        crate::table::scan(c"channel_key", |row| {
            // SAFETY: the column is a bytea, which has the form of a text.
            let bytes = unsafe { text_of(row.column(1)?) };
            secret = bytes.get(..SECRET_LENGTH).and_then(|bytes| bytes.try_into().ok());
            Ok(())
        })?;
        fresh.pop();
        secret.map(|secret| Channels(Secret(secret))).ok_or(Error::Installation("mana_sync.channel_key is empty"))
    }

    /// Of a user.
    pub fn user(&self, id: &[u8]) -> String {
        self.name(b'u', id)
    }

    /// Of a space.
    pub fn space(&self, id: &[u8]) -> String {
        self.name(b'c', id)
    }

    /// Of everyone: sent to when it is not known who was touched.
    pub fn everyone(&self) -> String {
        self.name(b'e', b"")
    }

    fn name(&self, kind: u8, id: &[u8]) -> String {
        format!("mana_sync_{:032x}", self.0.channel(kind, id))
    }
}
