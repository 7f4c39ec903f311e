//! Names of channels. LISTEN needs no privilege: whoever knows the name of a channel is told about each write of its
//! user or in its space. So a name is a keyed hash, and only roles that may call these functions learn it.

use crate::error::Error;
use crate::pg::fmgr::{Answer, Args, sql_functions};
use crate::pg::heap;
use crate::pg::snapshot::{self, Kind};
use mana_sync_cursor::hash::{SECRET_LENGTH, Secret};

sql_functions!(user_channel, space_channel, everyone_channel);

/// `mana_sync.user_channel(user_id text) RETURNS text`
///
/// Returns the name of the channel of a user. Errors: 22023 for an empty user.
fn user_channel<'a>(args: &Args<'a>) -> Answer<'a> {
    let user = args.text(0).filter(|user| !user.is_empty()).ok_or(Error::Empty("user_id"))?;
    Ok(Some(args.memory().text(Channels::load()?.user(user).as_bytes())))
}

/// `mana_sync.space_channel(space_id text) RETURNS text`
///
/// Returns the name of the channel of a space. Errors: 22023 for an empty space.
fn space_channel<'a>(args: &Args<'a>) -> Answer<'a> {
    let space = args.text(0).filter(|space| !space.is_empty()).ok_or(Error::Empty("space_id"))?;
    Ok(Some(args.memory().text(Channels::load()?.space(space).as_bytes())))
}

/// `mana_sync.everyone_channel() RETURNS text`
///
/// Returns the name of the channel of everyone.
fn everyone_channel<'a>(args: &Args<'a>) -> Answer<'a> {
    Ok(Some(args.memory().text(Channels::load()?.everyone().as_bytes())))
}

/// Makes the names of the channels of a log, from its key.
pub struct Channels(Secret);

impl Channels {
    /// Reads the key from `mana_sync.channel_key`, on which application roles have no privilege.
    pub fn load() -> Result<Channels, Error> {
        let mut secret = None;
        snapshot::with(Kind::Latest, || {
            heap::scan(c"channel_key", |row, _| {
                let bytes = row.bytea(1).and_then(|bytes| bytes.get(..SECRET_LENGTH));
                secret = bytes.and_then(|bytes| bytes.try_into().ok());
                Ok(())
            })
        })?;
        secret.map(|secret| Channels(Secret(secret))).ok_or(Error::Installation("mana_sync.channel_key is empty"))
    }

    /// The channel of a user.
    pub fn user(&self, id: &[u8]) -> String {
        self.name(b'u', id)
    }

    /// The channel of a space.
    pub fn space(&self, id: &[u8]) -> String {
        self.name(b'c', id)
    }

    /// The channel of everyone. It is notified if it is not known which users and spaces were touched.
    pub fn everyone(&self) -> String {
        self.name(b'e', b"")
    }

    fn name(&self, kind: u8, id: &[u8]) -> String {
        format!("mana_sync_{:032x}", self.0.channel(kind, id))
    }
}
