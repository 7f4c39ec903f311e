//! Who is asking, and for which spaces.
//!
//! The scope is two settings, which the policies read too (`sql/policies.sql`). A call that names a
//! user runs with the settings changed on a level of their own, which ends with the call, or with the
//! transaction or subtransaction that an error ends.

use crate::error::Error;
use crate::function::{Args, sql_function};
use crate::settings;
use pgrx::pg_sys;
use std::ffi::{CStr, CString};

const USER: &CStr = c"app.current_user_id";
const SPACES: &CStr = c"app.current_user_space_ids";

sql_function!(mana_sync_with_scope, pg_finfo_mana_sync_with_scope, with_scope);
sql_function!(mana_sync_may_write, pg_finfo_mana_sync_may_write, may_write);

/// The scope that a call runs in.
pub struct Scope {
    /// Never empty.
    pub user: Vec<u8>,
    /// Never with an empty one; each once, ascending.
    pub spaces: Vec<Vec<u8>>,
    /// Whether it is known which spaces the user is a member of.
    memberships_known: bool,
    /// The level of settings to leave at the end.
    level: Option<i32>,
}

/// `mana_sync.with_scope(user_id text, space_ids text[] DEFAULT '{}')`
///
/// `user_id` NULL is the user of the scope; `space_ids` NULL keeps the spaces of the same user's scope.
fn with_scope(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let scope = Scope::wanted(args.text(0), args.texts(1), false, &(setting(USER), setting(SPACES)))?;
    set(USER, &scope.user, pg_sys::GucAction::GUC_ACTION_LOCAL);
    set(SPACES, &scope.spaces.join(&b','), pg_sys::GucAction::GUC_ACTION_LOCAL);
    Ok(Some(pg_sys::Datum::from(0usize)))
}

/// `mana_sync.may_write(user_id text, space_id text)`, the WITH CHECK of the policy. In Rust, so that the
/// library is loaded and the setting is the server's, not a placeholder that anybody could set.
fn may_write(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let Some(user) = args.text(0).filter(|user| !user.is_empty()) else { return Ok(Some(false.into())) };
    let may = setting(USER) == user
        && args.text(1).is_none_or(|space| {
            let spaces = setting(SPACES);
            let mut members = spaces.split(|&byte| byte == b',').filter(|id| !id.is_empty()).peekable();
            match members.peek() {
                Some(_) => members.any(|id| id == space),
                None => !settings::strict_spaces(),
            }
        });
    Ok(Some(may.into()))
}

impl Scope {
    /// Enters the scope of a call that names `user` and `spaces`, either of which may be NULL.
    /// Leave it with [`Scope::leave`].
    pub fn enter(user: Option<&[u8]>, spaces: Option<Vec<Option<&[u8]>>>) -> Result<Scope, Error> {
        let current = (setting(USER), setting(SPACES));
        let mut scope = Scope::wanted(user, spaces, true, &current)?;
        let joined = scope.spaces.join(&b',');
        let (is_other_user, are_other_spaces) = (current.0 != scope.user, current.1 != joined);
        if is_other_user || are_other_spaces {
            scope.level = Some(open_level());
        }
        if is_other_user {
            set_for_call(USER, &scope.user);
        }
        if are_other_spaces {
            set_for_call(SPACES, &joined);
        }
        Ok(scope)
    }

    /// Leaves the transaction's scope as the call found it.
    pub fn leave(self) {
        if let Some(level) = self.level {
            close_level(level);
        }
    }

    /// The scope that the arguments ask for, in the scope of the two settings.
    fn wanted(
        user: Option<&[u8]>,
        spaces: Option<Vec<Option<&[u8]>>>,
        same_user_only: bool,
        (current, current_spaces): &(Vec<u8>, Vec<u8>),
    ) -> Result<Scope, Error> {
        let user = match user {
            Some([]) => return Err(Error::EmptyUser),
            Some(user) if same_user_only && !current.is_empty() && user != current => return Err(Error::OtherUser),
            Some(user) => user.to_vec(),
            None if current.is_empty() => return Err(Error::NoScope),
            None => current.clone(),
        };
        let (mut ids, given): (Vec<Vec<u8>>, bool) = match spaces {
            Some(ids) => (ids.into_iter().flatten().map(<[u8]>::to_vec).collect(), true),
            // Without a user there is no scope, and the spaces of another user are not this one's.
            None if user != *current => (Vec::new(), false),
            None => (current_spaces.split(|&byte| byte == b',').map(<[u8]>::to_vec).collect(), false),
        };
        ids.retain(|id| !id.is_empty());
        if ids.iter().any(|id| id.contains(&b',')) {
            return Err(Error::Comma);
        }
        ids.sort_unstable();
        ids.dedup();
        let memberships_known = given || !ids.is_empty();
        Ok(Scope { user, spaces: ids, memberships_known, level: None })
    }

    /// Refuses a write into a space that the user is not a member of.
    pub fn may_write(&self, space: &[u8]) -> Result<(), Error> {
        if self.memberships_known {
            match self.spaces.binary_search_by(|id| id.as_slice().cmp(space)) {
                Ok(_) => Ok(()),
                Err(_) => Err(Error::NotMember),
            }
        } else if settings::strict_spaces() {
            Err(Error::UnknownMemberships)
        } else {
            Ok(())
        }
    }
}

/// Opens a level of settings: what [`set_for_call`] changes on it ends with it.
pub fn open_level() -> i32 {
    // SAFETY: within a transaction.
    unsafe { pg_sys::NewGUCNestLevel() }
}

/// Ends a level of settings and all above it.
pub fn close_level(level: i32) {
    // SAFETY: `level` was opened in this call and not closed.
    unsafe { pg_sys::AtEOXact_GUC(true, level) };
}

/// Changes a setting on the level that was opened last.
pub fn set_for_call(name: &CStr, value: &[u8]) {
    set(name, value, pg_sys::GucAction::GUC_ACTION_SAVE);
}

/// Changes a setting of this process.
pub fn set_for_session(name: &CStr, value: &[u8]) {
    set(name, value, pg_sys::GucAction::GUC_ACTION_SET);
}

/// A setting, or '' where it was never set.
fn setting(name: &CStr) -> Vec<u8> {
    // SAFETY: `missing_ok`; the string is copied before anything can change it.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if value.is_null() { Vec::new() } else { CStr::from_ptr(value).to_bytes().to_vec() }
    }
}

fn set(name: &CStr, value: &[u8], action: pg_sys::GucAction::Type) {
    // A text of PostgreSQL has no zero byte.
    let Ok(value) = CString::new(value) else { return };
    // SAFETY: both strings live during the call; a bad value or name is an error, not undefined.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            action,
            true,
            0,
            false,
        );
    }
}
